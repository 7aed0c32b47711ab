"""The embedded stack as commands see it: ``with Stack(home) as stack: ... stack.api_url``."""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from types import FrameType, TracebackType
from typing import Self

from cli.errors import CliError, StackError
from cli.stack import postgres, state
from cli.stack.events import EventKind, Listener, StackEvent
from cli.stack.guard import clear
from cli.stack.home import Home, HomeLock, ensure_secrets, prepare
from cli.stack.plan import ChildSpec, Site, build_plan
from cli.stack.ports import PortClaims
from cli.stack.privileges import postgres_privileges
from cli.stack.processes import identify
from cli.stack.running import Credential, read_credentials
from cli.stack.sockets import make_socket_dir, remove_socket_dir
from cli.stack.state import ChildRecord, Phase, State
from cli.stack.supervisor import Supervisor, guard_command

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
_POLL_SECONDS = 0.05
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Plan = Callable[[Site], tuple[ChildSpec, ...]]


class Interrupted(BaseException):
    """The user or the system asked this process to end; the stack is already stopping.

    Not an ``Exception``, so that nobody handles it by accident, and no ``KeyboardInterrupt``, which the
    command-line library turns into its own ending.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def exit_code(self) -> int:
        """What a shell reports for a process ended by that signal."""
        return 128 + self.number


class Stack:
    """Brings the stack up on entry, keeps it running, and takes it down on exit.

    Entry returns when everything answers. From then on SIGINT, SIGTERM and SIGHUP start the stop at once
    and raise `Interrupted` in the main thread; another one makes the stop hurry. Leaving the ``with``
    waits until no process of the stack is left.

    ``on_event`` is called on the supervisor's thread.
    """

    def __init__(
        self,
        home: Home,
        *,
        port: int | None = None,
        on_event: Listener | None = None,
        plan: Plan = build_plan,
    ) -> None:
        self.home = home
        self._port = port
        self._on_event = on_event
        self._plan = plan
        self._claims = PortClaims()
        self._supervisor: Supervisor | None = None
        self._state: State | None = None
        self._stop_requested = False
        self._hurry_requested = False
        # Flags that the main thread polls: an exception raised by a signal handler inside Event.wait or
        # Thread.join can leave their locks in a wrong state (in 3.11, join then calls a live thread dead).
        self._is_ready = False
        self._has_ended = False
        self._failure: BaseException | None = None
        self._interrupt: Interrupted | None = None
        self._may_raise = False
        self._thread = threading.Thread(target=self._run, name="supervisor")
        self._replaced: dict[signal.Signals, object] = {}
        self.first_start = False
        """Whether this start made the data folder's database and API keys."""

    @property
    def state(self) -> State:
        """Ports, URLs and children.

        Raises:
            StackError: before the stack is up.
        """
        if self._state is None:
            raise StackError("the stack is not up")
        return self._state

    @property
    def api_url(self) -> str:
        """The API's root, without ``/v1``."""
        return self.state.api_url

    @property
    def dashboard_url(self) -> str:
        """The provider's page."""
        return self.state.dashboard_url

    @property
    def credentials(self) -> dict[str, Credential]:
        """The API keys of the first start, by role: owner, provider, auditor."""
        return read_credentials(self.home)

    def __enter__(self) -> Self:
        self._take_signals()
        try:
            self._thread.start()
            self._may_raise = True
            if self._interrupt is not None:
                raise self._interrupt
            while not (self._is_ready or self._has_ended):
                time.sleep(_POLL_SECONDS)
            if self._failure is not None:
                raise self._failure
            if not self._is_ready:
                raise StackError("the stack was stopped while it started")
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        # A broken stack explains what went wrong in the body, not the other way round.
        if self._failure is not None and not isinstance(error, Interrupted):
            raise self._failure from error

    def wait(self) -> None:
        """Return when the stack ends by itself; `Interrupted` is raised here on a signal.

        Raises:
            StackError: an essential part could not be kept running.
        """
        while not self._has_ended:
            time.sleep(_POLL_SECONDS)
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Ask for the ordered stop; returns at once. Safe in a signal handler."""
        self._stop_requested = True
        if self._supervisor is not None:
            self._supervisor.request_stop()

    def _close(self) -> None:
        self._may_raise = False
        self.stop()
        if self._thread.ident is not None:
            self._thread.join()
        self._give_signals_back()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # Flags only: a lock taken here could be one that this very thread holds.
        if self._stop_requested:
            self._hurry_requested = True
            if self._supervisor is not None:
                self._supervisor.hurry()
            return
        self.stop()
        self._interrupt = Interrupted(number)
        if self._may_raise:
            raise self._interrupt

    def _take_signals(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _STOP_SIGNALS:
            # Under nohup a hang-up is meant to be survived.
            if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue
            self._replaced[number] = signal.signal(number, self._on_signal)

    def _give_signals_back(self) -> None:
        while self._replaced:
            number, handler = self._replaced.popitem()
            signal.signal(number, handler)  # type: ignore[arg-type]

    # What follows runs on the supervisor's thread.

    def _run(self) -> None:
        lock = HomeLock(self.home)
        try:
            prepare(self.home)
            lock.acquire()
            clear_stale(self.home)
            self._supervise()
        except CliError as error:
            self._failure = error
        except Exception as error:
            self._failure = StackError(f"the supervisor failed: {type(error).__name__}: {error}")
            self._failure.__cause__ = error
        finally:
            self._claims.release()
            lock.release()
            self._has_ended = True

    def _supervise(self) -> None:
        site = self._settle_site()
        try:
            self._save(Phase.STARTING)
            supervisor = Supervisor(
                self._plan(site),
                logs=self.home.logs,
                guard=guard_command(site.stack_id, site.socket_dir, self.home.postgres),
                emit=self._emit,
                save=lambda children: self._save(children=children),
                on_ready=self._on_ready,
            )
            self._supervisor = supervisor
            # A signal may have come before there was a supervisor to tell.
            if self._hurry_requested:
                supervisor.hurry()
            if self._stop_requested:
                supervisor.request_stop()
            supervisor.run(on_stop=lambda: self._save(Phase.STOPPING))
            self._save(Phase.STOPPED)
        except Exception as error:
            self._save(Phase.FAILED, message=str(error))
            raise
        finally:
            remove_socket_dir(site.socket_dir)

    def _settle_site(self) -> Site:
        home = self.home
        ensure_secrets(home)
        self.first_start = not home.credentials_file.exists()
        previous = state.read(home)
        ports = self._claims.choose(api=self._port, remembered=previous.ports if previous else None)
        privileges = postgres_privileges(binary=postgres.binary("postgres"), data_parent=home.root)
        me = identify(os.getpid())
        assert me is not None
        stack_id = secrets.token_hex(8)
        # Orphans of the stack become ours, not init's: they can be found and ended.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        socket_dir = make_socket_dir()
        privileges.give(socket_dir)
        self._state = State(
            stack_id=stack_id, phase=Phase.STARTING, supervisor=me, socket_dir=socket_dir, ports=ports
        )
        return Site(home=home, ports=ports, socket_dir=socket_dir, stack_id=stack_id, privileges=privileges)

    def _on_ready(self) -> None:
        self._save(Phase.READY)
        self._emit(StackEvent(kind=EventKind.READY, child="stack"))
        self._is_ready = True

    def _emit(self, event: StackEvent) -> None:
        if self._on_event is not None:
            # Whoever draws must not bring the stack down.
            with suppress(Exception):
                self._on_event(event)

    def _save(
        self, phase: Phase | None = None, *, children: dict[str, ChildRecord] | None = None, message: str = ""
    ) -> None:
        current = self.state
        self._state = replace(
            current,
            phase=phase or current.phase,
            message=message or current.message,
            children=current.children if children is None else children,
        )
        state.write(self.home, self._state)


def clear_stale(home: Home) -> None:
    """Tidy up after a stack of this folder that was killed. The caller holds the folder's lock."""
    previous = state.read(home)
    if previous is not None and previous.phase is not Phase.STOPPED:
        clear(previous.stack_id, previous.socket_dir, home.postgres)
    postgres.clear_stale_lock(home.postgres)
    postgres.remove_unfinished(home.postgres)
