"""Why a run ended without its result."""

from __future__ import annotations


class WorkerError(Exception):
    """Root of this room's errors."""

    retryable: bool


class RunFailed(WorkerError):
    """The run can't be finished; this is what the job's owner is told.

    `message` holds no row of the dataset, no part of a key and no path of the machine.
    """

    def __init__(self, code: str, message: str, *, param: str | None = None, retryable: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.retryable = retryable

    def to_record(self) -> dict[str, str | None]:
        """OpenAI's job error, complete."""
        return {"code": self.code, "message": self.message, "param": self.param}

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self.code, self.message, self.param, self.retryable))


class LeaseLost(WorkerError):
    """Another run has the row now; nothing may be written any more."""

    retryable = False


class RecordsAway(WorkerError):
    """The database can't be reached. The row's lease runs out, and another run goes on from the record."""

    retryable = True


def _rebuild(code: str, message: str, param: str | None, retryable: bool) -> RunFailed:
    return RunFailed(code, message, param=param, retryable=retryable)
