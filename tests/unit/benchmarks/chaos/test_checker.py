"""A checker that can't find anything is worth nothing: made-up runs, each with one invariant broken."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chaos import table
from benchmarks.chaos.checker import Verdict, check
from benchmarks.chaos.evidence import (
    DiskEvidence,
    Evidence,
    JobRow,
    LogEvidence,
    ModelRow,
    Secret,
    Write,
    survey,
)
from benchmarks.chaos.history import History, Operation, Outcome
from benchmarks.chaos.trainer import PLAYED_MODEL
from evidence.log import merkle
from evidence.log.checkpoint import Checkpoint, sign
from evidence.log.entry import EntryKind, entry_of
from evidence.log.note import Kind, Signer

SIGNER = Signer(name="test/log", kind=Kind.log, seed=b"s" * 32)
MANIFEST = {"adapter_model.safetensors": "a" * 64, "adapter_config.json": "b" * 64}


def entries(number: int, *, salt: str = "") -> list[bytes]:
    """So many different entries."""
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    return [bytes(entry_of(EntryKind.model, {"n": f"{n}{salt}"}, moment)) for n in range(number)]


def note(known: list[bytes]) -> str:
    """What the log signs of them."""
    root = merkle.root_of(merkle.leaf_hash(entry) for entry in known)
    return str(sign(Checkpoint(origin=SIGNER.name, size=len(known), root=root), SIGNER))


def log(known: list[bytes], *, earlier: list[bytes], subjects: list[list[str]]) -> LogEvidence:
    """A log shown twice, with a proof of each kind."""
    leaves = [merkle.leaf_hash(entry) for entry in known]

    def read(wanted: Any) -> dict[merkle.Node, bytes]:
        return {
            (level, index): merkle.root_of(leaves[index << level : (index + 1) << level])
            for level, index in wanted
        }

    inclusion = merkle.inclusion_proof(1, len(known), read)
    consistency = merkle.consistency_proof(len(earlier), len(known), read)
    return LogEvidence(
        key=str(SIGNER.public),
        entries=[base64.b64encode(entry).decode() for entry in known],
        subjects=subjects,
        notes=[note(earlier), note(known)],
        inclusions=[{"index": 1, "size": len(known), "hashes": [one.hex() for one in inclusion]}],
        consistencies=[
            {
                "first": len(earlier),
                "second": len(known),
                "hashes": [one.hex() for one in consistency],
            }
        ],
    )


def row(job: str, status: str, epoch: int, **changes: Any) -> JobRow:
    """A job of the made-up run."""
    model = f"ft:{job}" if status == "succeeded" else None
    known = JobRow(
        id=job,
        status=status,
        epoch=epoch,
        attempt=epoch,
        max_attempts=3,
        model=model,
        base_model=PLAYED_MODEL,
        file="file-1",
        seed=7,
        key=f"key-{job}",
        order="played",
        error=None,
        marked=False,
    )
    return replace(known, **changes)


def job_write(
    seq: int, job: str, old: tuple[str, int, int | None], new: tuple[str, int, int | None], **changes: Any
) -> Write:
    """An update of a job's row, from (status, epoch, step) to another."""
    writer = f"{job}/{old[1]}" if old[0] == "running" else None
    known = Write(
        seq=seq,
        at=float(seq),
        table_name="jobs",
        operation="UPDATE",
        job_id=job,
        writer=writer,
        epoch=new[1],
        old_epoch=old[1],
        status=new[0],
        old_status=old[0],
        attempt=new[1],
        step=new[2],
        old_step=old[2],
        outcome="end" if new[0] in ("succeeded", "cancelled") else "",
        old_outcome="",
    )
    return replace(known, **changes)


def created(seq: int, job: str) -> Write:
    """The row's insertion."""
    return Write(
        seq=seq, at=float(seq), table_name="jobs", operation="INSERT", job_id=job, writer=None, epoch=0,
        status="queued", attempt=0, outcome="",
    )  # fmt: skip


def part(seq: int, job: str, table_name: str, epoch: int, writer: str | None) -> Write:
    """A row of another table."""
    return Write(
        seq=seq, at=float(seq), table_name=table_name, operation="INSERT", job_id=job, writer=writer,
        epoch=epoch,
    )  # fmt: skip


def operation(kind: str, job: str, at: float, /, **changes: Any) -> Operation:
    """An attempt that was answered."""
    known = Operation(
        client=0,
        kind=kind,
        key=f"key-{job}" if kind == "submit" else "",
        job=job,
        sent=at,
        received=at + 0.1,
        outcome=Outcome.ok,
        http=200,
    )
    return replace(known, **changes)


def honest() -> Evidence:
    """Job a was lost once and succeeded in its second run; job b was cancelled while it waited."""
    writes = [
        created(1, "a"),
        job_write(2, "a", ("queued", 0, None), ("running", 1, None)),
        job_write(3, "a", ("running", 1, None), ("running", 1, 4)),
        part(4, "a", "training_states", 1, "a/1"),
        job_write(5, "a", ("running", 1, 4), ("queued", 1, None), writer=None),
        job_write(6, "a", ("queued", 1, None), ("running", 2, None)),
        job_write(7, "a", ("running", 2, None), ("running", 2, 5)),
        part(8, "a", "models", 2, "a/2"),
        job_write(9, "a", ("running", 2, 5), ("succeeded", 2, 6)),
        created(10, "b"),
        job_write(11, "b", ("queued", 0, None), ("cancelled", 0, None)),
    ]
    history = [
        operation("submit", "a", 0.5, outcome=Outcome.unknown, http=503, job=None),
        operation("submit", "a", 1.2),
        operation("poll", "a", 3.5, status="running", attempt=1, step=4),
        operation("poll", "a", 5.5, status="queued", attempt=1),
        operation("poll", "a", 7.5, status="running", attempt=2, step=5),
        operation("poll", "a", 9.5, status="succeeded", attempt=2, step=6, model="ft:a"),
        operation("submit", "b", 10.2),
        operation("cancel", "b", 11.2, key="cancel-b"),
        operation("poll", "b", 12, status="cancelled", attempt=0),
    ]
    known = entries(9)
    return Evidence(
        history=history,
        jobs=[row("a", "succeeded", 2), row("b", "cancelled", 0)],
        # an attempt is given back where a queued job was cancelled: only the epoch counts claims
        writes=[replace(write, attempt=1) if write.seq == 5 else write for write in writes],
        models=[ModelRow(id="ft:a", job_id="a", checkpoint=False, path="adapters/a/2", manifest=MANIFEST)],
        log=log(known, earlier=known[:4], subjects=[["training", "a"], ["model", "a"]]),
        disk=DiskEvidence(
            adapters={"adapters/a/2": MANIFEST}, wrong_blobs=[], missing_blobs=[], secrets=[],
            planted=["the owner's API key"], bytes_searched=1000,
        ),
    )  # fmt: skip


def verdicts(evidence: Evidence) -> dict[str, Verdict]:
    """By invariant."""
    return {verdict.invariant: verdict for verdict in check(evidence)}


def test_an_honest_run_breaks_nothing_and_everything_was_looked_at() -> None:
    for verdict in check(honest()):
        assert verdict.violations == (), verdict.invariant
        assert verdict.checked > 0
        assert verdict.holds


def test_what_was_not_looked_at_does_not_hold() -> None:
    """An empty run proves nothing."""
    nothing = replace(
        honest(), history=[], jobs=[], writes=[], models=[], disk=replace(honest().disk, bytes_searched=0)
    )
    found = verdicts(nothing)
    assert {name for name, verdict in found.items() if verdict.holds} == {"I5"}


Change = Callable[[Evidence], Evidence]


def jobs(*changed: JobRow) -> Change:
    return lambda evidence: replace(evidence, jobs=list(changed))


def history(*more: Operation) -> Change:
    return lambda evidence: replace(evidence, history=[*evidence.history, *more])


def writes(*more: Write) -> Change:
    return lambda evidence: replace(evidence, writes=[*evidence.writes, *more])


def disk(**changes: Any) -> Change:
    return lambda evidence: replace(evidence, disk=replace(evidence.disk, **changes))


def shown_log(**changes: Any) -> Change:
    return lambda evidence: replace(evidence, log=replace(evidence.log, **changes))


def models(*more: ModelRow) -> Change:
    return lambda evidence: replace(evidence, models=[*evidence.models, *more])


def forgotten(table: str, status: str) -> Write:
    return replace(part(12, "a", table, 2, None), operation="DELETE", status=status)


def test_what_an_ended_job_could_have_gone_on_from_may_be_forgotten() -> None:
    for verdict in check(writes(forgotten("training_states", "succeeded"))(honest())):
        assert verdict.holds, verdict.violations


A, B = row("a", "succeeded", 2), row("b", "cancelled", 0)
FLIPPED = [base64.b64encode(entry).decode() for entry in entries(9, salt="x")]
LIES: list[tuple[str, str, Change]] = [
    ("I1", "an acknowledged job is gone", jobs(A)),
    ("I1", "an acknowledged job never ended", jobs(A, replace(B, status="queued"))),
    ("I1", "one submission made two jobs", jobs(A, B, replace(B, id="c", key="key-a"))),
    ("I1", "a second answer names another job", history(operation("submit", "b", 13, key="key-a"))),
    (
        "I1",
        "what was refused was done",
        history(operation("submit", "a", 0.1, outcome=Outcome.fail, http=400, job=None)),
    ),
    ("I1", "a confirmed cancellation, and a model", history(operation("cancel", "a", 8, key="cancel-a"))),
    (
        "I2",
        "two models of one job",
        models(ModelRow(id="ft:a2", job_id="a", checkpoint=False, path="adapters/a/2", manifest=MANIFEST)),
    ),
    ("I2", "a model of a job that did not succeed", jobs(replace(A, status="failed"), B)),
    ("I2", "a model of no job", jobs(B)),
    (
        "I2",
        "it succeeded twice",
        writes(job_write(12, "a", ("running", 2, 5), ("succeeded", 2, 6))),
    ),
    ("I2", "the log has its model twice", shown_log(subjects=[["model", "a"], ["model", "a"]])),
    ("I2", "the log does not have its model", shown_log(subjects=[])),
    ("I2", "its files were overwritten", disk(adapters={"adapters/a/2": MANIFEST | {"x": "c" * 64}})),
    ("I2", "its files are gone", disk(adapters={})),
    ("I2", "it was made by an earlier run", jobs(replace(A, epoch=3), B)),
    ("I3", "a stale run records a checkpoint", writes(part(12, "a", "training_states", 2, "a/1"))),
    ("I3", "a stale run appends an event", writes(part(12, "a", "job_events", 2, "a/1"))),
    (
        "I3",
        "a stale run moves the job",
        writes(job_write(7, "a", ("running", 2, 5), ("running", 2, 6), writer="a/1")),
    ),
    ("I3", "a run writes to another job", writes(part(12, "b", "job_events", 0, "a/2"))),
    ("I3", "nobody's checkpoint", writes(part(12, "a", "checkpoints", 2, None))),
    ("I3", "what a job may go on from is forgotten", writes(forgotten("training_states", "queued"))),
    ("I3", "a model is taken away", writes(forgotten("models", "succeeded"))),
    ("I4", "an end is taken back", writes(job_write(12, "a", ("succeeded", 2, 6), ("queued", 2, None)))),
    ("I4", "an end becomes another", writes(job_write(12, "b", ("cancelled", 0, None), ("failed", 0, None)))),
    (
        "I4",
        "an end says something else",
        writes(job_write(12, "a", ("succeeded", 2, 6), ("succeeded", 2, 6), old_outcome="other")),
    ),
    (
        "I4",
        "from queued to succeeded",
        writes(job_write(12, "b", ("queued", 0, None), ("succeeded", 0, None))),
    ),
    ("I4", "a claim without an epoch", writes(job_write(12, "b", ("queued", 1, None), ("running", 1, None)))),
    ("I4", "an epoch is skipped", writes(job_write(12, "b", ("queued", 1, None), ("running", 3, None)))),
    ("I4", "an epoch goes back", writes(job_write(12, "b", ("running", 3, None), ("queued", 2, None)))),
    ("I5", "entries were changed", shown_log(entries=FLIPPED)),
    ("I5", "an entry is missing", shown_log(entries=honest().log.entries[:-1])),
    ("I5", "the log was set back", shown_log(notes=[note(entries(9)), note(entries(4))])),
    ("I5", "the log was forked", shown_log(notes=[note(entries(4, salt="x")), note(entries(9))])),
    (
        "I5",
        "a checkpoint is not signed",
        shown_log(notes=[note(entries(4)).replace("—", "-"), note(entries(9))]),
    ),
    ("I5", "no checkpoint was shown", shown_log(notes=[])),
    ("I5", "a false inclusion", shown_log(inclusions=[{"index": 1, "size": 9, "hashes": ["00" * 32] * 4}])),
    (
        "I5",
        "a false consistency",
        shown_log(consistencies=[{"first": 4, "second": 9, "hashes": ["00" * 32]}]),
    ),
    ("I6", "a secret in a file", disk(secrets=["logs/api-a.log: the owner's API key"])),
    ("I6", "half a dataset", disk(wrong_blobs=["c" * 64])),
    ("I6", "a dataset is gone", disk(missing_blobs=["c" * 64])),
    (
        "I7",
        "a state that never was",
        history(operation("poll", "a", 9.6, status="failed", attempt=2)),
    ),
    (
        "I7",
        "a step that never was",
        history(operation("poll", "a", 7.6, status="running", attempt=2, step=3)),
    ),
    (
        "I7",
        "an old state long after",
        history(operation("poll", "b", 90, status="queued", attempt=0)),
    ),
    (
        "I7",
        "a state before it was",
        history(operation("poll", "a", 1.5, client=1, status="succeeded", attempt=2, step=6, model="ft:a")),
    ),
    (
        "I7",
        "back in time for one client",
        history(operation("poll", "a", 9.7, status="running", attempt=2, step=5)),
    ),
    ("I7", "back within a run", writes(job_write(8, "a", ("running", 2, 5), ("running", 2, 4)))),
    (
        "I7",
        "an end that the record does not have",
        jobs(replace(A, status="cancelled", model=None), B),
    ),
]


@pytest.mark.parametrize(
    ("invariant", "change"), [(lie[0], lie[2]) for lie in LIES], ids=[lie[1] for lie in LIES]
)
def test_each_lie_breaks_its_invariant(invariant: str, change: Change) -> None:
    """And the verdict names something."""
    verdict = verdicts(change(honest()))[invariant]
    assert not verdict.holds
    assert verdict.violations


def test_every_invariant_is_broken_by_some_lie() -> None:
    assert {lie[0] for lie in LIES} == {verdict.invariant for verdict in check(honest())}


def test_evidence_survives_its_folder(tmp_path: Path) -> None:
    """The checker judges files, not memory."""
    evidence = replace(
        honest(), injected=[{"fault": "F1", "name": "kill", "began": 1.0, "ended": 1.0, "detail": "x"}]
    )
    kept = History(tmp_path / "history.jsonl")
    for one in evidence.history:
        kept.add(one)
    kept.close()
    evidence.save(tmp_path)
    assert Evidence.load(tmp_path) == evidence


def test_planted_secrets_are_found_in_every_form_and_only_where_they_may_not_be(tmp_path: Path) -> None:
    """Also across the pieces in which a file is read, and in binary files."""
    secret = Secret.of("key", b"\x00\xffa-secret-of-many-bytes")
    storage, allowed = tmp_path / "storage", tmp_path / "secrets"
    (storage / "blobs").mkdir(parents=True)
    allowed.mkdir()
    (allowed / "key").write_bytes(secret.forms[0])
    clean = survey(tmp_path, storage, secrets=[secret], but=[allowed], blobs=[])
    assert clean.secrets == []
    for number, form in enumerate(secret.forms):
        (tmp_path / f"log-{number}").write_bytes(b"x" * ((1 << 22) - 5) + form + b"y")
    found = survey(tmp_path, storage, secrets=[secret], but=[allowed], blobs=["d" * 64])
    assert {hit.split(":")[0] for hit in found.secrets} == {f"log-{n}" for n in range(len(secret.forms))}
    assert found.missing_blobs == ["d" * 64]


def test_a_half_dataset_is_seen(tmp_path: Path) -> None:
    folder = tmp_path / "storage" / "blobs" / "ab"
    folder.mkdir(parents=True)
    (folder / ("ab" * 32)).write_bytes(b"half")
    found = survey(tmp_path, tmp_path / "storage", secrets=[], but=[], blobs=[])
    assert found.wrong_blobs == ["ab" * 32]


def test_the_table_has_every_fault_and_names_tests_that_exist() -> None:
    """A fault that is not injected here is somebody's."""
    rows = table.table(honest())
    assert [row.fault for row in rows] == [f"F{number}" for number in range(1, 25)]
    root = Path(__file__).parents[4]
    for covering in table.COVERED.values():
        file, _, name = covering.partition("::")
        assert f"def {name}(" in (root / file).read_text(encoding="utf-8"), covering
