"""The promise to the dashboard: which states a job has and how it moves between them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class JobStatus(StrEnum):
    """OpenAI's vocabulary, so that existing clients know it."""

    validating_files = "validating_files"
    queued = "queued"
    running = "running"
    paused = "paused"
    """Its owner wants it to wait; it goes on from its newest checkpoint."""
    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"


TERMINAL = frozenset({JobStatus.succeeded, JobStatus.failed, JobStatus.cancelled})

TRANSITIONS: Mapping[JobStatus, frozenset[JobStatus]] = {
    JobStatus.validating_files: frozenset({JobStatus.queued, JobStatus.failed, JobStatus.cancelled}),
    JobStatus.queued: frozenset({JobStatus.running, JobStatus.paused, JobStatus.failed, JobStatus.cancelled}),
    # back to queued: by the reaper when a lease has expired, or by the worker that holds it, handing it back
    JobStatus.running: frozenset(
        {JobStatus.succeeded, JobStatus.failed, JobStatus.cancelled, JobStatus.queued, JobStatus.paused}
    ),
    JobStatus.paused: frozenset({JobStatus.queued, JobStatus.cancelled}),
    JobStatus.succeeded: frozenset(),
    JobStatus.failed: frozenset(),
    JobStatus.cancelled: frozenset(),
}


class IllegalTransition(ValueError):
    """A move that the lifecycle does not have."""

    def __init__(self, current: JobStatus, to: JobStatus) -> None:
        super().__init__(f"a job that is {current} can't become {to}")
        self.current = current
        self.to = to

    def __reduce__(self) -> tuple[object, ...]:
        return (IllegalTransition, (self.current, self.to))


def advance(current: JobStatus, to: JobStatus) -> None:
    """Check one move.

    Raises:
        IllegalTransition: the lifecycle has no such move.
    """
    if to not in TRANSITIONS[current]:
        raise IllegalTransition(current, to)
