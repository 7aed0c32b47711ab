"""Keeps the children of a plan running: starts each when what it needs is ready, starts again what
dies, and stops all in order.

It is a thread, so that no signal can interrupt it between starting a process and knowing about it, and
one thread for the whole life of the stack, because the kernel's death signal watches the starting thread.
"""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from cli.errors import StackError
from cli.stack.child import Child
from cli.stack.events import EventKind, Listener, StackEvent
from cli.stack.guard import FAREWELL
from cli.stack.plan import ChildSpec
from cli.stack.state import ChildRecord

_TICK_SECONDS = 0.05
FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 15.0
QUICK_DEATH_SECONDS = 60.0
"""A child that was ready for longer starts over with a clean record."""
MAX_QUICK_DEATHS = 5
MAX_TASK_FAILURES = 2
_KILL_TIMEOUT_SECONDS = 10.0


class Status(StrEnum):
    """Where a child is."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    DONE = "done"
    BACKING_OFF = "backing off"
    GAVE_UP = "gave up"
    STOPPED = "stopped"


@dataclass(slots=True)
class _Slot:
    """One line of the plan and the child that fills it now."""

    spec: ChildSpec
    status: Status = Status.WAITING
    child: Child | None = None
    ready_since: float = 0.0
    retry_at: float = 0.0
    quick_deaths: int = 0
    restarts: int = 0
    reason: str = ""

    @property
    def is_satisfied(self) -> bool:
        return self.status in (Status.READY, Status.DONE)

    @property
    def is_settled(self) -> bool:
        """Nothing more to wait for: an essential child that gives up ends the stack before this is asked."""
        return self.is_satisfied or self.status is Status.GAVE_UP


class Supervisor:
    """Runs a plan on the calling thread until asked to stop or until an essential child can't be kept."""

    def __init__(
        self,
        plan: Sequence[ChildSpec],
        *,
        logs: Path,
        guard: tuple[str, ...],
        emit: Listener,
        save: Callable[[dict[str, ChildRecord]], None],
        on_ready: Callable[[], None],
    ) -> None:
        self._slots = {spec.name: _Slot(spec) for spec in plan}
        self._logs = logs
        self._guard_command = guard
        self._guard: subprocess.Popen[bytes] | None = None
        self._emit = emit
        self._save = save
        self._on_ready = on_ready
        self._was_ready = False
        self._saved: dict[str, ChildRecord] = {}
        # Plain flags, not events: a signal handler sets them, and must not wait for an event's lock.
        self._stop_asked = False
        self._hurry_asked = False

    def request_stop(self) -> None:
        """Ask for an ordered stop; safe in a signal handler and from any thread."""
        self._stop_asked = True

    def hurry(self) -> None:
        """Ask for the stop to be quick: no more waiting for work at hand."""
        self._stop_asked = True
        self._hurry_asked = True

    def run(self, *, on_stop: Callable[[], None]) -> None:
        """Start, watch, stop. Leaves no process behind however it ends.

        Raises:
            StackError: an essential child could not be started or kept running.
        """
        try:
            while not self._stop_asked and threading.main_thread().is_alive():
                self._tick()
                time.sleep(_TICK_SECONDS)
            on_stop()
        finally:
            self._stop_all()

    def _tick(self) -> None:
        self._keep_guard()
        for slot in self._slots.values():
            if self._stop_asked:
                return
            self._advance(slot)
        self._record()
        if not self._was_ready and all(slot.is_settled for slot in self._slots.values()):
            self._was_ready = True
            self._on_ready()

    def _advance(self, slot: _Slot) -> None:
        match slot.status:
            case Status.WAITING if all(self._slots[name].is_satisfied for name in slot.spec.after):
                self._start(slot)
            case Status.BACKING_OFF if time.monotonic() >= slot.retry_at:
                self._start(slot)
            case Status.STARTING:
                self._watch_start(slot)
            case Status.READY:
                child = slot.child
                if child is not None and child.returncode is not None:
                    self._bury(slot, child)

    def _start(self, slot: _Slot) -> None:
        self._event(slot, EventKind.STARTING)
        slot.status = Status.STARTING
        slot.child = Child(slot.spec, self._logs / f"{slot.spec.name}.log")

    def _watch_start(self, slot: _Slot) -> None:
        child = slot.child
        assert child is not None
        for record in child.progress():
            self._report(slot, record)
        elapsed = time.time() - child.started
        returncode = child.returncode
        if returncode == 0 and slot.spec.is_task:
            child.sweep()
            slot.child, slot.status = None, Status.DONE
            self._event(slot, EventKind.READY, seconds=elapsed)
        elif returncode is not None:
            self._bury(slot, child)
        elif child.is_ready():
            slot.status, slot.ready_since = Status.READY, time.monotonic()
            self._event(slot, EventKind.READY, seconds=elapsed)
        elif elapsed > slot.spec.start_timeout_seconds:
            slot.reason = f"was not ready within {slot.spec.start_timeout_seconds:.0f} s"
            child.send(slot.spec.hurried_signal)

    def _report(self, slot: _Slot, record: dict[str, object]) -> None:
        if record.get("stage") == "error":
            slot.reason = str(record.get("message", ""))[:300]
            return
        done, total = record.get("done_bytes"), record.get("total_bytes")
        self._emit(
            StackEvent(
                kind=EventKind.PROGRESS,
                child=slot.spec.name,
                text=str(record.get("stage", "")),
                done_bytes=done if isinstance(done, int) else 0,
                total_bytes=total if isinstance(total, int) else 0,
            )
        )

    def _bury(self, slot: _Slot, child: Child) -> None:
        """The child has ended without being asked: decide whether and when to start it again."""
        reason = slot.reason or _describe(child)
        child.sweep()
        was_ready = slot.status is Status.READY
        lasted = time.monotonic() - slot.ready_since if was_ready else 0.0
        slot.child, slot.reason = None, ""
        slot.quick_deaths = 1 if lasted > QUICK_DEATH_SECONDS else slot.quick_deaths + 1
        if slot.quick_deaths >= (MAX_TASK_FAILURES if slot.spec.is_task else MAX_QUICK_DEATHS):
            self._give_up(slot, reason)
            return
        longest = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2 ** (slot.quick_deaths - 1))
        delay = longest * random.uniform(0.5, 1.0)
        slot.status, slot.retry_at = Status.BACKING_OFF, time.monotonic() + delay
        slot.restarts += 1
        self._event(slot, EventKind.DIED, reason, seconds=delay)

    def _give_up(self, slot: _Slot, reason: str) -> None:
        slot.status = Status.GAVE_UP
        self._event(slot, EventKind.GAVE_UP, reason)
        if slot.spec.essential:
            self._record()
            log = self._logs / f"{slot.spec.name}.log"
            raise StackError(f"{slot.spec.name} failed {slot.quick_deaths} times: {reason} (log: {log})")

    def _stop_all(self) -> None:
        running = [slot for slot in self._slots.values() if slot.child is not None]
        for stage in sorted({slot.spec.stop_stage for slot in running}):
            self._stop_stage([slot for slot in running if slot.spec.stop_stage == stage])
        self._dismiss_guard()

    def _stop_stage(self, slots: list[_Slot]) -> None:
        for slot in slots:
            assert slot.child is not None
            self._event(slot, EventKind.STOPPING)
            slot.child.send(slot.spec.stop_signal)
        began = time.monotonic()
        escalated: dict[str, float] = {}
        while alive := [slot for slot in slots if slot.child and slot.child.returncode is None]:
            now = time.monotonic()
            for slot in alive:
                assert slot.child is not None
                name, late = slot.spec.name, now - began > slot.spec.stop_timeout_seconds
                if name not in escalated and (late or self._hurry_asked):
                    slot.child.send(slot.spec.hurried_signal)
                    escalated[name] = now
                elif name in escalated and now - escalated[name] > _KILL_TIMEOUT_SECONDS:
                    slot.child.kill()
            time.sleep(0.02)
        for slot in slots:
            assert slot.child is not None
            slot.child.sweep()
            slot.child, slot.status = None, Status.STOPPED
            self._event(slot, EventKind.STOPPED)
        self._record()

    def _keep_guard(self) -> None:
        if self._guard is None or self._guard.poll() is not None:
            self._guard = subprocess.Popen(
                self._guard_command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
            )

    def _dismiss_guard(self) -> None:
        guard, self._guard = self._guard, None
        if guard is None or guard.stdin is None:
            return
        with suppress(OSError):
            guard.stdin.write(FAREWELL)
            guard.stdin.close()
        guard.wait()

    def _record(self) -> None:
        now = {
            name: ChildRecord(
                status=slot.status,
                identity=slot.child.identity if slot.child else None,
                restarts=slot.restarts,
            )
            for name, slot in self._slots.items()
        }
        if now != self._saved:
            self._saved = now
            self._save(now)

    def _event(self, slot: _Slot, kind: EventKind, text: str = "", *, seconds: float = 0.0) -> None:
        self._emit(StackEvent(kind=kind, child=slot.spec.name, text=text, seconds=seconds))


def guard_command(stack_id: str, socket_dir: Path, data_dir: Path) -> tuple[str, ...]:
    """How the guard is started."""
    return (sys.executable, "-P", "-m", "cli.stack.guard", stack_id, str(socket_dir), str(data_dir))


def _describe(child: Child) -> str:
    code = child.returncode
    how = f"killed by signal {-code}" if code is not None and code < 0 else f"exit status {code}"
    words = child.last_words()
    return f"{how}: {words}" if words else how
