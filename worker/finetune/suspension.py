"""Being asked to go on later: SIGUSR1 makes a run that keeps checkpoints write one more and end."""

from __future__ import annotations

EXIT_SUSPENDED = 75
"""The exit status of a run that wrote a checkpoint because it was asked to (sysexits.h, EX_TEMPFAIL)."""


class Suspension:
    """A wish that is heard between two steps. Before the first step there is nothing to keep, so until
    `armed` whoever asks may end the run at once."""

    def __init__(self) -> None:
        self.armed = False
        self.requested = False


class Suspended(BaseException):
    """The run has written its checkpoint and ends."""
