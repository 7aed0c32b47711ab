"""The supervisor's promises: order, restarts, an ordered stop, and nothing left however it ends."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from cli.errors import AlreadyRunning, StackError
from cli.stack import postgres, state
from cli.stack.events import EventKind, StackEvent
from cli.stack.home import Home, ensure_secrets, prepare
from cli.stack.plan import ChildSpec, Site, stores
from cli.stack.privileges import postgres_privileges
from cli.stack.processes import marked, working_in
from cli.stack.stack import Stack
from cli.stack.state import Phase
from tests.integration.stack_program import stores_and_worker, worker

pytestmark = pytest.mark.integration

_PROGRAM = Path(__file__).with_name("stack_program.py")
_AS_THE_CLI = f"""
from cli.__main__ import end_at_once_on_interrupt
end_at_once_on_interrupt()
import runpy
runpy.run_path({str(_PROGRAM)!r}, run_name="__main__")
"""
"""An interrupt during the imports ends the program, as it ends ``doublei``."""
_PATIENCE_SECONDS = 30.0


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A data folder; whatever a failed test left running in it is ended."""
    place = Home(root=tmp_path / "home")
    yield place
    for process in (*_left(place),):
        process.kill()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An initialised Postgres folder to copy, for tests that are not about making one."""
    folder = tmp_path_factory.mktemp("cluster") / "pg"
    privileges = postgres_privileges(binary=postgres.binary("postgres"), data_parent=folder.parent)
    postgres.initialise(folder, privileges, throwaway=True)
    return folder


@pytest.fixture
def used_home(home: Home, cluster: Path) -> Home:
    """A data folder that an earlier start has filled."""
    prepare(home)
    ensure_secrets(home)
    shutil.copytree(cluster, home.postgres)
    return home


def test_starts_in_order_and_stops_in_the_reverse_order(home: Home) -> None:
    """Postgres waits for its cluster; on the way down the worker goes first and Postgres last."""
    events: list[StackEvent] = []
    with Stack(home, plan=stores_and_worker, on_event=events.append) as stack:
        assert stack.state.phase is Phase.READY
        assert state.read(home) == stack.state
    assert _names(events, EventKind.READY).index("cluster") < _names(events, EventKind.READY).index(
        "postgres"
    )
    assert _names(events, EventKind.STOPPED) == ["worker", "valkey", "postgres"]
    assert _left(home) == []
    saved = state.read(home)
    assert saved is not None
    assert saved.phase is Phase.STOPPED
    assert not saved.socket_dir.exists()


def test_data_survives_a_restart_and_the_ports_stay(used_home: Home) -> None:
    """What was committed before the stop is there after the next start, at the same address."""
    with Stack(used_home, plan=stores) as stack, _connect(stack) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        connection.commit()
        url = stack.api_url
    with Stack(used_home, plan=stores) as stack, _connect(stack) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
        assert stack.api_url == url


def test_a_killed_child_is_started_again_without_its_leftovers(used_home: Home) -> None:
    """The new child is ready, and the process the old one had started is gone."""
    with Stack(used_home, plan=stores_and_worker) as stack:
        before = stack.state.children["worker"].identity
        assert before is not None
        orphan = psutil.Process(before.pid).children()[0]
        os.kill(before.pid, signal.SIGKILL)
        _until(lambda: stack.state.children["worker"].restarts == 1)
        _until(lambda: stack.state.children["worker"].status == "ready")
        assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE
        after = stack.state.children["worker"].identity
        assert after is not None
        assert after.pid != before.pid


def test_postgres_comes_back_after_kill_9(used_home: Home) -> None:
    """Also when the first new start finds the shared memory of the old one still in use."""
    with Stack(used_home, plan=stores) as stack:
        postmaster = stack.state.children["postgres"].identity
        assert postmaster is not None
        os.kill(postmaster.pid, signal.SIGKILL)
        _until(lambda: stack.state.children["postgres"].restarts >= 1)
        _until(lambda: stack.state.children["postgres"].status == "ready")
        with _connect(stack) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_child_that_always_fails_ends_the_start_with_its_last_words(used_home: Home) -> None:
    """One line that names the child, its words and its log; nothing is left running."""

    def plan(site: Site) -> tuple[ChildSpec, ...]:
        failing = worker(site, name="broken", prelude="sys.exit('no such disk')")
        return (*stores(site), failing)

    with pytest.raises(StackError, match=r"broken failed \d times: .*no such disk \(log: .*broken\.log\)"):
        Stack(used_home, plan=plan).__enter__()
    assert _left(used_home) == []
    saved = state.read(used_home)
    assert saved is not None
    assert saved.phase is Phase.FAILED


def test_one_stack_per_folder_and_other_ports_elsewhere(home: Home, tmp_path: Path) -> None:
    """The second in a folder is refused in one line; one in another folder has its own ports."""
    other = Home(root=tmp_path / "other")
    with Stack(home, plan=lambda site: ()) as first, Stack(other, plan=lambda site: ()) as second:
        with pytest.raises(AlreadyRunning, match="already runs"):
            Stack(home, plan=lambda site: ()).__enter__()
        ports = {first.state.ports.api, first.state.ports.dashboard, first.state.ports.serving}
        assert ports.isdisjoint(
            {second.state.ports.api, second.state.ports.dashboard, second.state.ports.serving}
        )


def test_kill_9_of_the_supervisor_leaves_nothing_and_the_next_start_works(used_home: Home) -> None:
    """Neither its children, nor their children, nor the socket folder; the data is whole."""
    program, stack_id = _start(used_home)
    current = state.read(used_home)
    assert current is not None
    program.kill()
    program.wait()
    _until(lambda: _left(used_home, stack_id) == [])
    _until(lambda: not current.socket_dir.exists())
    with Stack(used_home, plan=stores) as stack, _connect(stack) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_kill_9_of_supervisor_and_guard_is_tidied_by_the_next_start(used_home: Home) -> None:
    """When even the guard is gone, the next start ends what the last one left."""
    program, stack_id = _start(used_home)
    guard = next(
        child
        for child in psutil.Process(program.pid).children()
        if "cli.stack.guard" in " ".join(child.cmdline())
    )
    guard.kill()
    program.kill()
    program.wait()
    current = state.read(used_home)
    assert current is not None
    with Stack(used_home, plan=stores) as stack:
        assert list(marked(stack_id)) == []
        assert not current.socket_dir.exists()
        with _connect(stack) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_at_any_moment_of_the_start(home: Home, number: signal.Signals) -> None:
    """Nothing is left, the database folder is whole or absent, and the next start works."""
    delays = random.Random(int(number))
    for _ in range(4):
        program = subprocess.Popen([sys.executable, "-c", _AS_THE_CLI, str(home.root), "stores_and_worker"])
        time.sleep(delays.uniform(0.0, 2.0))
        program.send_signal(number)
        program.wait(timeout=_PATIENCE_SECONDS)
        assert _left(home) == []
        assert home.postgres.exists() == (home.postgres / "global" / "pg_control").exists()
    with Stack(home, plan=stores) as stack, _connect(stack) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert list(home.root.glob("pg.building-*")) == []


def test_a_second_interrupt_hurries(home: Home) -> None:
    """A child that ignores the request to stop is waited for, until the user insists."""
    program, stack_id = _start(home, "stubborn")
    program.send_signal(signal.SIGINT)
    time.sleep(1.0)
    assert program.poll() is None
    program.send_signal(signal.SIGINT)
    assert program.wait(timeout=10) == 130
    assert _left(home, stack_id) == []


def test_the_terminals_interrupt_reaches_only_the_supervisor(used_home: Home) -> None:
    """Every child has its own session: Ctrl-C goes to the supervisor's process group alone."""
    program, stack_id = _start(used_home)
    sessions = {os.getsid(process.pid) for process in marked(stack_id)}
    assert os.getsid(program.pid) not in sessions
    program.terminate()
    assert program.wait(timeout=_PATIENCE_SECONDS) == 143


def _start(home: Home, plan: str = "stores_and_worker") -> tuple[subprocess.Popen[str], str]:
    program = subprocess.Popen(
        [sys.executable, str(_PROGRAM), str(home.root), plan], stdout=subprocess.PIPE, text=True
    )
    assert program.stdout is not None
    word, stack_id = program.stdout.readline().split()
    assert word == "ready"
    return program, stack_id


def _left(home: Home, stack_id: str | None = None) -> list[psutil.Process]:
    saved = state.read(home)
    identifier = stack_id or (saved.stack_id if saved else "")
    return [*working_in(home.postgres), *working_in(home.root), *(marked(identifier) if identifier else ())]


def _connect(stack: Stack) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(host=str(stack.state.socket_dir), user="postgres", dbname="doublei")


def _names(events: list[StackEvent], kind: EventKind) -> list[str]:
    return [event.child for event in events if event.kind is kind and event.child != "stack"]


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
