"""Removing what nobody will need again: what it is, and one pass over it. See the package.

It may run at any time, beside working runs and uploads. The disk is listed before the records are read, so
whatever a run wrote in between is not on the list; and a run's row, whose epoch is the one in the path,
protects what it has written and not yet recorded. A dataset is removed under the lock that uploads take.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from sqlalchemy.orm import Session, sessionmaker

from service.files import statements as file_statements
from service.jobs import checkpoints as checkpoint_statements
from service.jobs.checkpoints import LiveRun
from service.jobs.lifecycle import TERMINAL
from service.storage import RUNS_FOLDER, Storage, entries

SPARE_SECONDS = 300.0
"""Nothing younger is taken, and nothing younger than a lease: a second protection, which is not needed as
long as the first works."""

CHUNK = 500
"""So many rows or names at a time."""


T = TypeVar("T")


class CollectionStopped(Exception):
    """The process ends. What is left is the next collection's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """One file or folder that goes."""

    kind: str
    """state, checkpoint, adapter, run, dataset, upload"""
    path: str
    """relative to the storage folder"""
    bytes: int


@dataclass(slots=True, kw_only=True)
class Collection:
    """What was found, and whether it is gone."""

    deleted: bool
    garbage: list[Garbage] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Of all of it."""
        return sum(one.bytes for one in self.garbage)

    def to_record(self) -> dict[str, object]:
        """For programs."""
        return {
            "deleted": self.deleted,
            "count": len(self.garbage),
            "bytes": self.bytes,
            "garbage": [{"kind": one.kind, "path": one.path, "bytes": one.bytes} for one in self.garbage],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Leaving:
    """Something that a run put into storage."""

    kind: str
    path: Path
    job_id: str
    epoch: int


def collect(
    sessions: sessionmaker[Session],
    storage: Storage,
    *,
    delete: bool,
    lease_seconds: float,
    retention_seconds: float,
    spare_seconds: float = SPARE_SECONDS,
    stopping: Callable[[], bool] = lambda: False,
) -> Collection:
    """One pass. Without `delete` nothing changes, neither on the disk nor in the records.

    Raises:
        CollectionStopped: `stopping` said so.
    """

    def going(items: Iterable[T]) -> Iterator[T]:
        for item in items:
            if stopping():
                raise CollectionStopped
            yield item

    collection = Collection(deleted=delete)
    older = max(lease_seconds, spare_seconds)
    leavings = list(going(_leavings(storage)))
    blobs = [path for path in going(storage.blobs_dir.glob("*/*")) if _age(path) > older]
    with sessions.begin() as session:
        released = _release(session, retention=timedelta(seconds=retention_seconds), delete=delete)
        live, ended, named = _read(session, {one.job_id for one in leavings})
    for one in going(leavings):
        relative = str(one.path.relative_to(storage.root))
        if one.epoch == live.get(one.job_id) or (relative in named and relative not in released):
            continue
        if relative not in released and _age(one.path) <= older:
            continue
        _remove(collection, storage, one.kind, one.path)
    if delete:
        _remove_empty(storage, {one.job_id for one in leavings}, ended, live)
    _collect_blobs(sessions, storage, collection, going(blobs))
    for path in storage.stale_incoming():
        _remove(collection, storage, "upload", path)
    return collection


def _leavings(storage: Storage) -> Iterator[_Leaving]:
    for job in _folders(storage.checkpoints_dir):
        for run in _folders(job):
            if run.name.isdecimal():
                for path in entries(run):
                    kind = "checkpoint" if path.is_dir() else "state"
                    yield _Leaving(kind=kind, path=path, job_id=job.name, epoch=int(run.name))
    for job in _folders(storage.adapters_dir):
        for adapter in _folders(job):
            epoch, dash, _ = adapter.name.partition("-")
            if epoch.isdecimal():
                kind = "checkpoint" if dash else "adapter"
                yield _Leaving(kind=kind, path=adapter, job_id=job.name, epoch=int(epoch))
    for run in _folders(storage.root / RUNS_FOLDER):
        job_id, _, epoch = run.name.rpartition(".")
        if job_id and epoch.isdecimal():
            yield _Leaving(kind="run", path=run, job_id=job_id, epoch=int(epoch))


def _release(session: Session, *, retention: timedelta, delete: bool) -> set[str]:
    """Paths that rows of ended jobs name and that are needed no more; the rows go with `delete`."""
    paths: set[str] = set()
    for find, remove in (
        (checkpoint_statements.needless_states(retention), checkpoint_statements.delete_states(retention)),
        (checkpoint_statements.needless_checkpoints(), checkpoint_statements.delete_checkpoints()),
    ):
        paths.update(session.scalars(remove if delete else find))
    return paths


def _read(session: Session, job_ids: Iterable[str]) -> tuple[Mapping[str, int], set[str], set[str]]:
    """Which epoch may be writing now, by job; the jobs that have ended or are not there; all named paths."""
    live: dict[str, int] = {}
    there: set[str] = set()
    named: set[str] = set()
    for some in _chunks(sorted(job_ids)):
        for run in session.execute(checkpoint_statements.runs(some)):
            found = LiveRun(*run)
            if found.status not in TERMINAL:
                there.add(found.job_id)
            if found.status == "running":
                live[found.job_id] = found.epoch
        named.update(session.scalars(checkpoint_statements.named_paths(some)))
    return live, set(job_ids) - there, named


def _collect_blobs(
    sessions: sessionmaker[Session], storage: Storage, collection: Collection, blobs: Iterable[Path]
) -> None:
    for some in _chunks([path.name for path in blobs]):
        with sessions.begin() as session:
            needed = set(session.scalars(file_statements.needed_blobs(some)))
        for digest in some:
            if digest in needed:
                continue
            try:
                path = storage.path(digest)
            except ValueError:
                continue  # not ours
            if not collection.deleted:
                _remove(collection, storage, "dataset", path)
                continue
            with sessions.begin() as session:
                session.execute(file_statements.lock_blob(digest))
                if session.scalars(file_statements.needed_blobs([digest])).first() is None:
                    _remove(collection, storage, "dataset", path)


def _remove(collection: Collection, storage: Storage, kind: str, path: Path) -> None:
    size = sum(_size(one) for one in (path, *path.rglob("*")))
    collection.garbage.append(Garbage(kind=kind, path=str(path.relative_to(storage.root)), bytes=size))
    if not collection.deleted:
        return
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _remove_empty(storage: Storage, job_ids: Iterable[str], ended: set[str], live: Mapping[str, int]) -> None:
    """Folders that held what has gone. A job that has not ended may be about to write into its own."""
    for job_id in job_ids:
        for run in _folders(storage.checkpoints_dir / job_id):
            if run.name != str(live.get(job_id)):
                _rmdir(run)
        if job_id in ended:
            _rmdir(storage.checkpoints_dir / job_id)
            _rmdir(storage.adapters_dir / job_id)


def _rmdir(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return  # not empty, or not there


def _age(path: Path) -> float:
    """Seconds since anything in it was last written; a folder is as young as the youngest file in it."""
    newest = 0.0
    for one in (path, *path.rglob("*")):
        try:
            newest = max(newest, one.stat().st_mtime)
        except OSError:
            continue
    return time.time() - newest


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def _folders(folder: Path) -> list[Path]:
    return [path for path in entries(folder) if path.is_dir() and not path.is_symlink()]


def _chunks(names: Sequence[str]) -> Iterator[Sequence[str]]:
    return (names[start : start + CHUNK] for start in range(0, len(names), CHUNK))
