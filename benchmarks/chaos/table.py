"""The list of faults, and for each what a run did about it or which test covers it instead."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.chaos.evidence import Evidence, Write
from benchmarks.chaos.history import Outcome

FAULTS = {
    "F1": "trainer killed in the middle of a step",
    "F2": "worker killed with all it started",
    "F3": "a job that kills whoever runs it",
    "F4": "a worker stopped beyond its lease",
    "F5": "broker killed, wiped, restarted often",
    "F6": "broker hangs, drops its clients, is full",
    "F7": "database killed, stopped, its connections ended",
    "F8": "a commit whose message is never sent",
    "F9": "one message ten times",
    "F10": "messages delivered again while they are worked on",
    "F11": "disk full",
    "F12": "out of memory",
    "F13": "clocks an hour off",
    "F14": "cancellation at any moment",
    "F15": "API killed, also in the middle of an upload",
    "F16": "slow suspects",
    "F17": "malicious suspects",
    "F18": "a crash in the middle of an audit",
    "F19": "timestamp authority or witness away, wrong, replayed",
    "F20": "keys lost or changed",
    "F21": "last night's backup put back",
    "F22": "two of each API and reaper, migrations under load",
    "F23": "a worker cut off from one of the stores",
    "F24": "the GPU falls off",
}

COVERED = {
    "F1": "tests/unit/worker/finetune/test_resume.py::"
    "test_killed_at_several_steps_and_gone_on_it_ends_bit_for_bit_the_same",
    "F8": "tests/integration/test_retries.py::test_a_creation_whose_answer_was_lost",
    "F11": "tests/unit/worker/finetune/test_resume.py::test_a_full_disk_costs_the_checkpoint_and_not_the_run",
    "F12": "tests/unit/worker/finetune/test_program.py::test_a_failure_is_one_typed_event_and_exit_code_1",
    "F16": "tests/e2e/test_hostile_suspects.py::test_a_slow_host_can_not_stretch_an_audit_beyond_its_time",
    "F17": "tests/e2e/test_hostile_suspects.py::"
    "test_a_host_that_gives_no_answer_is_inconclusive_for_that_reason",
    "F18": "tests/integration/service/test_audit.py::"
    "test_a_worker_killed_in_the_middle_is_followed_by_one_that_asks_nothing_twice",
    "F19": "tests/integration/service/test_bundle.py::test_a_strangers_or_a_replayed_stamp_is_not_kept",
    "F20": "tests/integration/service/test_resealing.py::test_killed_again_and_again",
    "F21": "tests/integration/service/test_log.py::test_an_old_backup_put_back",
}
"""Instead of an injection, or beside one, where the benchmark does less than the fault asks for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One fault of the list."""

    fault: str
    title: str
    times: int
    happened: str
    covered_by: str | None


def table(evidence: Evidence) -> list[Row]:
    """All twenty-four, in order."""
    by_data, injected = _by_data(evidence), defaultdict(list)
    for one in evidence.injected:
        injected[one["fault"]].append(one)
    waits = {fault: _went_on(evidence, [one["began"] for one in found]) for fault, found in injected.items()}
    rows = []
    for fault, title in FAULTS.items():
        found, (times, told) = injected.get(fault, []), by_data.get(fault, (0, ""))
        parts = [told] if told else []
        if found:
            kinds = Counter(one["name"] for one in found)
            parts.append(", ".join(f"{name} {count}" for name, count in kinds.items()))
            if (seconds := waits[fault]) is not None:
                parts.append(f"the next job taken after at most {seconds:.1f} s")
            if fault in ("F11", "F15"):
                parts += sorted({one["detail"].split(" as ")[0] for one in found if "then" in one["detail"]})
        rows.append(
            Row(
                fault=fault,
                title=title,
                times=times + len(found),
                happened="; ".join(parts),
                covered_by=COVERED.get(fault),
            )
        )
    return rows


def _by_data(evidence: Evidence) -> dict[str, tuple[int, str]]:
    """Faults that jobs bring with them, or that lie over the whole run."""
    ended = Counter((job.order, job.error or job.status) for job in evidence.jobs)

    def orders(*names: str) -> tuple[int, str]:
        found = {
            f"{order}: {end}": number for (order, end), number in sorted(ended.items()) if order in names
        }
        return sum(found.values()), ", ".join(f"{what} {number}" for what, number in found.items())

    ends = {job.id: job.status for job in evidence.jobs}
    cancels = {
        operation.job
        for operation in evidence.history
        if operation.kind == "cancel" and operation.outcome is Outcome.ok and operation.job is not None
    }
    cancelled = Counter(ends.get(job, "gone") for job in cancels)
    counts = evidence.counts
    return {
        "F3": orders("kill-trainer", "kill-worker"),
        "F8": (counts.get("jobs without a message", 0), "submitted while the broker took no message"),
        "F11": orders("disk-full"),
        "F12": orders("out-of-memory"),
        "F13": (counts.get("starts with a clock an hour off", 0), "each worker at each start"),
        "F14": (
            len(cancels),
            ", ".join(f"{status} {number}" for status, number in sorted(cancelled.items())),
        ),
        "F24": orders("device-lost"),
    }


def _went_on(evidence: Evidence, moments: list[float]) -> float | None:
    """Longest time from one of these moments to the next claim of a job, where jobs were waiting; seconds."""
    claims = [write.at for write in evidence.writes if _is_claim(write)]
    waits = []
    for moment in moments:
        following = bisect_right(claims, moment)
        if following < len(claims) and _waiting(evidence, moment):
            waits.append(claims[following] - moment)
    return max(waits, default=None)


def _is_claim(write: Write) -> bool:
    return write.table_name == "jobs" and write.status == "running" and write.epoch != write.old_epoch


def _waiting(evidence: Evidence, moment: float) -> bool:
    """Whether any job was queued then."""
    statuses: dict[str, str | None] = {}
    for write in evidence.writes:
        if write.at > moment:
            break
        if write.table_name == "jobs":
            statuses[write.job_id] = write.status
    return "queued" in statuses.values()


def lines(rows: list[Row]) -> Iterator[str]:
    """For a terminal."""
    yield f"{'':4} {'fault':52} {'times':>5}  what happened"
    for row in rows:
        happened = row.happened or ("not injected here" if row.times == 0 else "")
        yield f"{row.fault:4} {row.title:52} {row.times:5}  {happened}"
        if row.covered_by:
            yield f"{'':63}  covered by {row.covered_by}"
