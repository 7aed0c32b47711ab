"""What is left after a run, as one folder: rows, the observer's writes, the log with its proofs, the disk,
the clients' history and the list of faults. The checker reads the folder and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from benchmarks.chaos.history import Operation
from benchmarks.chaos.history import read as read_history

CHUNK = 1 << 22
OVERLAP = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """A job as the database has it in the end."""

    id: str
    status: str
    epoch: int
    attempt: int
    max_attempts: int
    model: str | None
    base_model: str
    file: str
    seed: int
    key: str
    """the Idempotency-Key of its submission, from its metadata"""
    order: str
    error: str | None
    marked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One write to a job or to what hangs on it, as the observer saw it."""

    seq: int
    at: float
    """seconds since the epoch, the database's clock"""
    table_name: str
    operation: str
    job_id: str
    writer: str | None
    """`job/epoch` of the run that wrote; None: the API or the reaper"""
    epoch: int | None
    """the job's when it was written"""
    old_epoch: int | None = None
    status: str | None = None
    old_status: str | None = None
    attempt: int | None = None
    step: int | None = None
    old_step: int | None = None
    outcome: str | None = None
    old_outcome: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """A published model."""

    id: str
    job_id: str
    checkpoint: bool
    path: str
    manifest: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEvidence:
    """The transparency log as it was shown."""

    key: str
    """public, taken from the deployment's own file"""
    entries: list[str]
    """base64, the exact bytes"""
    subjects: list[list[str]]
    """kind and subject of each entry, from the rows"""
    notes: list[str]
    """every checkpoint that was fetched during the run, oldest first; the last was fetched at the end"""
    inclusions: list[dict[str, Any]]
    consistencies: list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskEvidence:
    """What lies in the data folder."""

    adapters: dict[str, dict[str, str]]
    """of each folder below storage/adapters that has files: name -> SHA-256"""
    wrong_blobs: list[str]
    """blobs whose bytes are not what their name says"""
    missing_blobs: list[str]
    """datasets that a file's row names and that are not there"""
    secrets: list[str]
    """"place: name" of each planted secret found where none may be"""
    planted: list[str]
    """names of the secrets that were looked for"""
    bytes_searched: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All of it."""

    history: list[Operation]
    jobs: list[JobRow]
    writes: list[Write]
    models: list[ModelRow]
    log: LogEvidence
    disk: DiskEvidence
    injected: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    """of what only the processes' logs and the keeper know"""

    def save(self, folder: Path) -> None:
        """Into files of the folder; the history is there already."""
        for name in ("jobs", "writes", "models"):
            rows = [asdict(row) for row in getattr(self, name)]
            (folder / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
        for name in ("log", "disk"):
            (folder / f"{name}.json").write_text(json.dumps(asdict(getattr(self, name))), encoding="utf-8")
        for name in ("injected", "counts"):
            (folder / f"{name}.json").write_text(json.dumps(getattr(self, name)), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Evidence:
        """From the files of `save` and the clients' history."""

        def read(name: str) -> Any:
            return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))

        return cls(
            history=read_history((folder / "history.jsonl").read_text(encoding="utf-8").splitlines()),
            jobs=[JobRow(**row) for row in read("jobs")],
            writes=[Write(**row) for row in read("writes")],
            models=[ModelRow(**row) for row in read("models")],
            log=LogEvidence(**read("log")),
            disk=DiskEvidence(**read("disk")),
            injected=read("injected"),
            counts=read("counts"),
        )


def rows(connection: psycopg.Connection) -> tuple[list[JobRow], list[Write], list[ModelRow], list[list[str]]]:
    """Jobs, writes, models, and kind and subject of each entry of the log."""
    with connection.cursor(row_factory=dict_row) as cursor:
        jobs = [
            JobRow(**row)
            for row in cursor.execute(
                "SELECT id, status, lease_epoch AS epoch, attempt, max_attempts, fine_tuned_model AS model,"
                " base_model, training_file_id AS file, seed, coalesce(metadata ->> 'key', '') AS key,"
                " coalesce(metadata ->> 'order', '') AS \"order\", error ->> 'code' AS error,"
                " watermark_key_id IS NOT NULL AS marked FROM jobs ORDER BY created_at, id"
            )
        ]
        writes = [
            Write(**row)
            for row in cursor.execute(
                "SELECT seq, extract(epoch FROM at)::float8 AS at, table_name, operation, job_id, writer,"
                " epoch, old_epoch, status, old_status, attempt, step, old_step, outcome, old_outcome"
                " FROM chaos_writes ORDER BY seq"
            )
        ]
        models = [
            ModelRow(**row)
            for row in cursor.execute(
                "SELECT id, job_id, checkpoint_id IS NOT NULL AS checkpoint, adapter_path AS path, manifest"
                " FROM models"
            )
        ]
    subjects = connection.execute("SELECT kind, subject FROM log_entries ORDER BY index").fetchall()
    return jobs, writes, models, [list(map(str, row)) for row in subjects]


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """Something that may be written nowhere, and how it would look."""

    name: str
    forms: tuple[bytes, ...] = field(repr=False)

    @classmethod
    def of(cls, name: str, value: bytes | str) -> Secret:
        """As it is, in hex, and in base64 of both alphabets."""
        raw = value.encode() if isinstance(value, str) else value
        return cls(
            name=name,
            forms=(
                raw,
                raw.hex().encode(),
                base64.b64encode(raw).rstrip(b"="),
                base64.urlsafe_b64encode(raw).rstrip(b"="),
            ),
        )


def survey(
    root: Path, storage: Path, *, secrets: Sequence[Secret], but: Iterable[Path], blobs: Iterable[str]
) -> DiskEvidence:
    """Read the whole data folder: digests of what is stored, and planted secrets anywhere but in `but`.

    ``blobs`` are the SHA-256 of the datasets that rows name.
    """
    adapters: dict[str, dict[str, str]] = {}
    for path in sorted((storage / "adapters").rglob("*")):
        if path.is_file():
            folder = str(path.parent.relative_to(storage))
            adapters.setdefault(folder, {})[path.name] = _sha256(path)
    stored = {path.name: path for path in (storage / "blobs").rglob("*") if path.is_file()}
    found, searched = [], 0
    skipped = frozenset(but)
    for path in _files(root, skipped):
        for piece in _pieces(path):
            searched += len(piece)
            found += [
                f"{path.relative_to(root)}: {secret.name}"
                for secret in secrets
                if any(form in piece for form in secret.forms)
            ]
    return DiskEvidence(
        adapters=adapters,
        wrong_blobs=sorted(name for name, path in stored.items() if _sha256(path) != name),
        missing_blobs=sorted(set(blobs) - set(stored)),
        secrets=sorted(set(found)),
        planted=[secret.name for secret in secrets],
        bytes_searched=searched,
    )


def _files(root: Path, but: frozenset[Path]) -> Iterator[Path]:
    for parent, folders, names in os.walk(root):
        folders[:] = [name for name in folders if Path(parent, name) not in but]
        for name in names:
            path = Path(parent, name)
            if path not in but and path.is_file() and not path.is_symlink():
                yield path


def _pieces(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as stream:
            tail = b""
            while chunk := stream.read(CHUNK):
                yield tail + chunk
                tail = chunk[-OVERLAP:]
    except FileNotFoundError:
        return


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
