"""The invariants, judged offline from what a run has left: ``python -m benchmarks.chaos.checker FOLDER``.

It imports the product's vocabulary of states and its public arithmetic of the log, and none of the code that
is under test here: neither leases nor fences, neither the reaper nor the API.
"""

from __future__ import annotations

import base64
import json
import sys
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chaos.evidence import Evidence, JobRow, Write
from benchmarks.chaos.history import Operation, Outcome
from benchmarks.chaos.trainer import PLAYED_MODEL
from evidence.errors import EvidenceError
from evidence.log.audit import audit
from evidence.log.merkle import leaf_hash, verify_consistency, verify_inclusion
from evidence.log.note import PublicKey
from evidence.steps import Status
from service.jobs.lifecycle import TERMINAL, TRANSITIONS, JobStatus

COMMIT_SECONDS = 15.0
"""A row is seen by others at its commit, which may be so much later than the write that the observer saw: a
worker can be stopped in between, until the database ends its transaction (after 10 s)."""
CLOCK_SECONDS = 0.05
WEIGHTS = "adapter_model.safetensors"
SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One invariant: how many things were looked at, and what was wrong with them."""

    invariant: str
    title: str
    checked: int
    violations: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Something was looked at and nothing was wrong."""
        return self.checked > 0 and not self.violations


Finding = str | None
"""What is wrong with one thing; None: nothing."""


def check(evidence: Evidence) -> tuple[Verdict, ...]:
    """All seven."""
    invariants: tuple[tuple[str, str, Callable[[Evidence], Iterator[Finding]]], ...] = (
        ("I1", "every acknowledged job exists, once, and has ended", _acknowledged),
        ("I2", "at most one publication a job, of its own bytes", _published_once),
        ("I3", "no write by a run that has lost its job", _fenced),
        ("I4", "what has ended does not change", _final),
        ("I5", "the log only grows, and its proofs verify", _log),
        ("I6", "no secret in any file, no half file", _disk),
        ("I7", "a state that was shown was true, and moves forward", _truthful),
    )
    verdicts = []
    for invariant, title, judge in invariants:
        findings = list(judge(evidence))
        wrong = tuple(finding for finding in findings if finding is not None)
        verdicts.append(Verdict(invariant=invariant, title=title, checked=len(findings), violations=wrong))
    return tuple(verdicts)


def _acknowledged(evidence: Evidence) -> Iterator[Finding]:
    jobs = {job.id: job for job in evidence.jobs}
    per_key = Counter(job.key for job in evidence.jobs)
    told: dict[str, set[str]] = defaultdict(set)
    for operation in evidence.history:
        if operation.kind == "submit" and operation.outcome is Outcome.ok and operation.job is not None:
            told[operation.key].add(operation.job)
    for key, ids in told.items():
        if len(ids) > 1:
            yield f"submission {key} was answered with {len(ids)} different jobs"
        if per_key[key] > 1:
            yield f"submission {key} made {per_key[key]} jobs"
        for job_id in ids:
            job = jobs.get(job_id)
            if job is None:
                yield f"{job_id} was acknowledged and does not exist"
            elif JobStatus(job.status) not in TERMINAL:
                yield f"{job_id} was acknowledged and is {job.status}"
            else:
                yield None
    refused = {
        operation.key
        for operation in evidence.history
        if operation.kind == "submit" and operation.outcome is Outcome.fail
    }
    for job in evidence.jobs:
        if job.key in refused:
            yield f"{job.id} exists, though its submission was refused"
    for job_id in _cancelled(evidence.history):
        job = jobs.get(job_id)
        yield f"{job_id} succeeded after its cancellation was confirmed" if job and job.model else None


def _cancelled(history: list[Operation]) -> set[str]:
    return {
        operation.job
        for operation in history
        if operation.kind == "cancel" and operation.outcome is Outcome.ok and operation.job is not None
    }


def _published_once(evidence: Evidence) -> Iterator[Finding]:
    results = defaultdict(list)
    for model in evidence.models:
        if not model.checkpoint:
            results[model.job_id].append(model)
    entered = Counter(subject for kind, subject in evidence.log.subjects if kind == "model")
    successes = Counter(
        write.job_id
        for write in evidence.writes
        if write.table_name == "jobs" and write.status == "succeeded" and write.old_status != "succeeded"
    )
    bytes_of: dict[tuple[str, str, int], set[str]] = defaultdict(set)
    for job in evidence.jobs:
        models, wanted = results.pop(job.id, []), int(job.status == "succeeded")
        counts = (len(models), successes[job.id], entered[job.id])
        if counts != (wanted, wanted, wanted):
            yield "{} is {} with {} models, {} successes, {} entries".format(job.id, job.status, *counts)
            continue
        yield None
        for model in models:
            on_disk = evidence.disk.adapters.get(model.path)
            if on_disk != model.manifest:
                yield f"{model.id}: the files of {model.path} are not those that were published"
            elif model.path != f"adapters/{job.id}/{job.epoch}":
                yield f"{model.id} is of another run than the job's last: {model.path}, epoch {job.epoch}"
            else:
                yield None
            if job.base_model == PLAYED_MODEL and not job.marked:
                bytes_of[job.base_model, job.file, job.seed].add(model.manifest[WEIGHTS])
    for orphan in results:
        yield f"a model of {orphan}, which does not exist"
    for (_, file, _), digests in bytes_of.items():
        yield f"{len(digests)} different results from the one dataset {file}" if len(digests) > 1 else None


def _fenced(evidence: Evidence) -> Iterator[Finding]:
    for write in evidence.writes:
        if write.writer is None:
            if write.table_name in ("training_states", "checkpoints", "models") and not _tidies(write):
                yield f"write {write.seq} to {write.table_name} of {write.job_id} is no run's"
            continue
        job_id, _, epoch = write.writer.rpartition("/")
        if job_id != write.job_id:
            yield f"write {write.seq}: a run of {job_id} wrote to {write.table_name} of {write.job_id}"
        elif int(epoch) != write.epoch:
            yield (
                f"write {write.seq} to {write.table_name}: run {epoch} of {job_id} wrote when the job was at "
                f"{write.epoch}"
            )
        else:
            yield None


def _tidies(write: Write) -> bool:
    """The service forgets what an ended job could have gone on from; nobody may before it has ended."""
    return write.operation == "DELETE" and write.table_name != "models" and write.status in TERMINAL


def _final(evidence: Evidence) -> Iterator[Finding]:
    for write in evidence.writes:
        if write.table_name != "jobs" or write.operation != "UPDATE":
            continue
        old, new = JobStatus(str(write.old_status)), JobStatus(str(write.status))
        if old in TERMINAL and (new is not old or write.outcome != write.old_outcome):
            yield f"write {write.seq}: {write.job_id} was {old} and became {new} ({write.outcome})"
        elif new is not old and new not in TRANSITIONS[old]:
            yield f"write {write.seq}: {write.job_id} went from {old} to {new}"
        elif write.epoch != (write.old_epoch or 0) + (new is JobStatus.running and _claims(write)):
            yield f"write {write.seq}: epoch {write.old_epoch} of {write.job_id} became {write.epoch}"
        else:
            yield None


def _claims(write: Write) -> bool:
    """A queued job that runs was claimed; of one that runs already only a new epoch says so."""
    return write.old_status != "running" or write.epoch != write.old_epoch


def _log(evidence: Evidence) -> Iterator[Finding]:
    log = evidence.log
    entries = [base64.b64decode(entry) for entry in log.entries]
    key = PublicKey.from_text(log.key)
    if not log.notes:
        yield "no checkpoint was fetched"
        return
    roots: dict[int, bytes] = {}
    for earlier in log.notes:
        report = audit(
            key=key, trusted=True, note=log.notes[-1], earlier=earlier, entries=lambda size: entries[:size]
        )
        failed = [f"{step.name}: {step.detail}" for step in report.steps if step.status is Status.failed]
        yield f"an audit with an earlier checkpoint fails: {'; '.join(failed)}" if failed else None
        lines = earlier.split("\n")
        roots[int(lines[1])] = base64.b64decode(lines[2])
    for proof in log.inclusions:
        yield _proved(
            f"inclusion of entry {proof['index']} in {proof['size']}",
            lambda proof=proof: verify_inclusion(  # type: ignore[misc]
                leaf_hash(entries[proof["index"]]), proof["index"], proof["size"],
                [bytes.fromhex(one) for one in proof["hashes"]], roots[proof["size"]],
            ),
        )  # fmt: skip
    for proof in log.consistencies:
        yield _proved(
            f"consistency of {proof['first']} with {proof['second']}",
            lambda proof=proof: verify_consistency(  # type: ignore[misc]
                proof["first"], proof["second"], roots[proof["first"]], roots[proof["second"]],
                [bytes.fromhex(one) for one in proof["hashes"]],
            ),
        )  # fmt: skip


def _proved(what: str, verify: Callable[[], None]) -> Finding:
    try:
        verify()
    except (EvidenceError, KeyError, IndexError, ValueError) as error:
        return f"{what}: {type(error).__name__}"
    return None


def _disk(evidence: Evidence) -> Iterator[Finding]:
    disk = evidence.disk
    yield from (f"found {hit}" for hit in disk.secrets)
    yield from (f"blob {name[:12]} is not what its name says" for name in disk.wrong_blobs)
    yield from (f"dataset {name[:12]} is gone" for name in disk.missing_blobs)
    # one for each secret that was looked for, where there was anything to look at
    yield from (None for _ in disk.planted if disk.bytes_searched)


def _truthful(evidence: Evidence) -> Iterator[Finding]:
    versions: dict[str, list[Write]] = defaultdict(list)
    for write in evidence.writes:
        if write.table_name == "jobs":
            versions[write.job_id].append(write)
    for job_id, writes in versions.items():
        yield from _forward(job_id, writes)
    polls: dict[tuple[int, str], list[Operation]] = defaultdict(list)
    for operation in evidence.history:
        if operation.kind == "poll" and operation.outcome is Outcome.ok and operation.job is not None:
            polls[operation.client, operation.job].append(operation)
    for (_, job_id), told in polls.items():
        yield from _true(job_id, told, versions.get(job_id, []))
    ends = {job.id: job for job in evidence.jobs}
    for (_, job_id), told in polls.items():
        yield from _kept(job_id, told, ends.get(job_id))


def _forward(job_id: str, writes: list[Write]) -> Iterator[Finding]:
    """Within a run steps only grow."""
    for write in writes:
        steps = (write.old_step, write.step)
        if write.operation != "UPDATE" or write.epoch != write.old_epoch or None in steps:
            continue
        old, new = steps
        yield (
            f"write {write.seq}: run {write.epoch} of {job_id} went back from step {old} to {new}"
            if old is not None and new is not None and new < old
            else None
        )


def _true(job_id: str, told: list[Operation], versions: list[Write]) -> Iterator[Finding]:
    """Each answer is what the row was at some moment between question and answer, and no answer is older than
    the one before."""
    at, starts = 0, [version.at for version in versions]
    for operation in sorted(told, key=lambda one: one.sent):
        last = bisect_right(starts, operation.received + CLOCK_SECONDS)
        found = next(
            (
                index
                for index in range(at, last)
                if _says(versions[index], operation) and _still(versions, index, operation.sent)
            ),
            None,
        )
        if found is None:
            yield (
                f"{job_id} was shown as {operation.status}, attempt {operation.attempt}, "
                f"step {operation.step} at {operation.received:.3f}, and was not"
            )
        else:
            at = found
            yield None


def _says(version: Write, operation: Operation) -> bool:
    seen = (operation.status, operation.attempt, operation.step)
    return (version.status, version.attempt, version.step) == seen


def _still(versions: list[Write], index: int, sent: float) -> bool:
    """Whether it may still have been the newest that was committed."""
    return index + 1 == len(versions) or versions[index + 1].at + COMMIT_SECONDS >= sent


def _kept(job_id: str, told: list[Operation], row: JobRow | None) -> Iterator[Finding]:
    """An end that a client was told of is the end that the record has."""
    for operation in told:
        if operation.status is not None and JobStatus(operation.status) in TERMINAL:
            kept = row is not None and (row.status, row.model) == (operation.status, operation.model)
            yield None if kept else f"{job_id} was shown as {operation.status} and is not"


def main() -> int:
    """0 when every invariant holds."""
    if len(sys.argv) != 2:
        print("usage: python -m benchmarks.chaos.checker FOLDER", file=sys.stderr)
        return 2
    verdicts = check(Evidence.load(Path(sys.argv[1])))
    for verdict in verdicts:
        print(
            json.dumps({"invariant": verdict.invariant, "holds": verdict.holds, "checked": verdict.checked})
        )
        for violation in verdict.violations[:SHOWN]:
            print(f"    {violation}")
    return 0 if all(verdict.holds for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
