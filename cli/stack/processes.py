"""Finding and ending processes of a stack, also those whose parents are gone.

Every child carries the stack's id in its environment, which its own children inherit. Postgres writes
over its environment, so its processes are known by their working folder, the data folder.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

STACK_VARIABLE = "DOUBLEI_STACK_ID"
CHILD_VARIABLE = "DOUBLEI_CHILD"
_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A process that can't be mistaken for a later one with the same number."""

    pid: int
    created: float
    """Seconds since the epoch, as psutil reports it."""


def identify(pid: int) -> Identity | None:
    """The identity of a live process; None when there is none (a zombie counts as gone)."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return Identity(pid=pid, created=process.create_time())
    except psutil.Error:
        return None


def is_alive(identity: Identity) -> bool:
    """Whether that very process still runs."""
    now = identify(identity.pid)
    return now is not None and abs(now.created - identity.created) < 1.0


def marked(stack_id: str, *, child: str | None = None) -> Iterator[psutil.Process]:
    """Live processes of this user that carry the stack's id (and, when given, the child's name)."""
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            environment = process.environ()
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
        except (psutil.Error, OSError):
            continue
        if environment.get(STACK_VARIABLE) == stack_id and child in (None, environment.get(CHILD_VARIABLE)):
            yield process


def working_in(folder: Path) -> Iterator[psutil.Process]:
    """Live processes whose working folder is ``folder``."""
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except (psutil.Error, OSError):
            continue


def end(processes: Iterable[psutil.Process], *, first: signal.Signals, patience_seconds: float) -> None:
    """Ask with ``first``, wait, then kill; return when none of them runs.

    psutil compares start times before it sends, so a reused number is never signalled.
    """
    remaining = list(processes)
    for process in remaining:
        with suppress(psutil.Error):
            process.send_signal(first)
    deadline = time.monotonic() + patience_seconds
    while remaining := [process for process in remaining if _runs(process)]:
        if time.monotonic() > deadline:
            for process in remaining:
                with suppress(psutil.Error):
                    process.kill()
        time.sleep(_POLL_SECONDS)


def reap(pids: Iterable[int]) -> None:
    """Collect the exit statuses of dead processes that were handed to this process as a subreaper."""
    for pid in pids:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
