"""Keeping a lease while work runs: beat, hear of a cancellation, and stop by oneself when beats fail.

Two threads: one talks to the database and may hang there, the other only looks at the clock and stops the
work before the lease can be taken by somebody else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import StrEnum
from types import TracebackType
from typing import Self

import structlog

log = structlog.get_logger(__name__)

BEAT_SECONDS = 2.0
"""Also how late a cancellation is heard of."""

WATCH_SECONDS = 0.5

FENCE_MARGIN_SECONDS = 10.0
"""How long before the lease's end a worker without news gives up: time enough to kill its child."""


class Beat(StrEnum):
    """What the database said to a heartbeat."""

    kept = "kept"
    cancel_requested = "cancel_requested"
    pause_requested = "pause_requested"
    lost = "lost"


class StopReason(StrEnum):
    """Why work was stopped before its end."""

    cancelled = "cancelled"
    paused = "paused"
    lease_lost = "lease_lost"
    shutting_down = "shutting_down"


class Stopped(Exception):
    """Raised by `LeaseKeeper.check` in the working thread."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason)
        self.reason = reason


class LeaseKeeper:
    """Context manager around a run.

    `beat` extends the lease and may raise: a few failures are survived. `on_stop` is called once, from
    another thread, as soon as there is a reason to stop; it must make the work end. `reason` says which.
    """

    def __init__(
        self,
        *,
        beat: Callable[[], Beat],
        lease_seconds: float,
        shutting_down: Callable[[], bool],
        on_stop: Callable[[StopReason], None] = lambda reason: None,
        beat_seconds: float = BEAT_SECONDS,
    ) -> None:
        self._beat = beat
        self._beat_seconds = beat_seconds
        self._fence_seconds = max(lease_seconds - FENCE_MARGIN_SECONDS, lease_seconds / 2)
        self._shutting_down = shutting_down
        self._on_stop = on_stop
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._last_kept = _boottime()
        self.reason: StopReason | None = None
        self._threads = [
            threading.Thread(target=loop, name=f"lease-{loop.__name__}", daemon=True)
            for loop in (self._beat_loop, self._watch_loop)
        ]

    def __enter__(self) -> Self:
        self._last_kept = _boottime()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Does not wait for a beat that hangs: what it may still write is fenced by the epoch."""
        self._done.set()
        self._threads[0].join(timeout=self._beat_seconds)

    def check(self) -> None:
        """Raises: Stopped, if there is a reason to."""
        if self.reason is not None:
            raise Stopped(self.reason)

    def check_unless(self, done: bool) -> None:
        """The same, but work that is already done is only given up when the lease is lost.

        Raises:
            Stopped: see there.
        """
        if not done or self.reason is StopReason.lease_lost:
            self.check()

    def _beat_loop(self) -> None:
        while not self._done.wait(self._beat_seconds):
            started = _boottime()
            try:
                beat = self._beat()
            except Exception as error:
                log.warning("lease.beat_failed", error=type(error).__name__)
                continue
            if beat is Beat.lost:
                self._stop(StopReason.lease_lost)
                return
            self._last_kept = started
            if beat is Beat.cancel_requested:
                self._stop(StopReason.cancelled)
            elif beat is Beat.pause_requested:
                self._stop(StopReason.paused)

    def _watch_loop(self) -> None:
        while not self._done.wait(min(WATCH_SECONDS, self._beat_seconds)):
            if _boottime() - self._last_kept > self._fence_seconds:
                self._stop(StopReason.lease_lost)
                return
            if self._shutting_down():
                self._stop(StopReason.shutting_down)

    def _stop(self, reason: StopReason) -> None:
        with self._lock:
            if self.reason is StopReason.lease_lost or self.reason is reason or self._done.is_set():
                return
            first = self.reason is None
            if first or reason is StopReason.lease_lost:
                self.reason = reason
        if first:
            self._on_stop(reason)


def _boottime() -> float:
    """Seconds, also counting those the machine slept through (CLOCK_MONOTONIC leaves them out)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
