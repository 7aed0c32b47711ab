"""Why a run ended without its result."""

from __future__ import annotations

import errno

from service.jobs import failures
from service.storage import NO_SPACE


class WorkerError(Exception):
    """Root of this room's errors."""

    retryable: bool


class RunFailed(WorkerError):
    """The run can't be finished; this is what the job's owner is told. `code` is one of
    `service.jobs.failures`, which says the rest.

    `detail` holds no row of the dataset, no part of a key and no path of the machine.
    """

    def __init__(self, code: str, detail: str | None = None) -> None:
        self.failure = failures.of(code)
        super().__init__(self.failure.told(detail))
        self.detail = detail
        self.retryable = self.failure.restarts

    @property
    def code(self) -> str:
        """Stable, for programs."""
        return self.failure.code

    def to_record(self) -> dict[str, str | None]:
        """What the job has on record."""
        return failures.record(self.code, self.detail)

    def __reduce__(self) -> tuple[object, ...]:
        return (RunFailed, (self.code, self.detail))


class LeaseLost(WorkerError):
    """Another run has the row now; nothing may be written any more."""

    retryable = False


class RecordsAway(WorkerError):
    """The database can't be reached. The row's lease runs out, and another run goes on from the record."""

    retryable = True


def of_exception(error: Exception) -> RunFailed:
    """What a job's owner is told of an exception that nobody expected."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return RunFailed("out_of_memory")
    if isinstance(error, OSError):
        return RunFailed("disk_full" if error.errno in NO_SPACE else "storage_failed")
    return RunFailed("internal_error")
