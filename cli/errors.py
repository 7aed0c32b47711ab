"""What can go wrong on the command line, each as one line a person can act on."""

from __future__ import annotations

from typing import ClassVar


class CliError(Exception):
    """Root of this room's errors. The message is one line and names what to do."""

    code: ClassVar[str]
    exit_code: ClassVar[int] = 1

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "code" not in cls.__dict__:
            raise TypeError(f"{cls.__name__} needs a code")


class UsageMistake(CliError):
    """The command was asked for something that can't be."""

    code = "usage"
    exit_code = 2


class StackError(CliError):
    """The embedded stack can't start or can't go on."""

    code = "stack"


class AlreadyRunning(StackError):
    """Another supervisor owns this data folder."""

    code = "already_running"


class NotRunning(StackError):
    """No supervisor owns this data folder."""

    code = "not_running"
    exit_code = 3


class AuditNotFinished(CliError):
    """The audit failed, was cancelled, or is paused; the message says which and what to do."""

    code = "audit_not_finished"
