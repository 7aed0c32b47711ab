"""Fixtures every test may use: one real Postgres and one real Valkey per run, a fresh database per test.

Both servers are the embedded ones of the product, started by the product's own code, and they die with
the test run even when it is killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count, cycle
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from cli.stack import postgres, valkey
from cli.stack.launch import launcher
from cli.stack.privileges import postgres_privileges
from cli.stack.sockets import make_socket_dir, remove_socket_dir

# A busy machine makes the generation of examples slow; that says nothing of what is tested.
settings.register_profile("busy machine", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")


class _Lanes(LoadScopeScheduling):  # type: ignore[misc]
    """A file runs in one worker, and so do all end-to-end tests together: they share one deployment."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.split("::", 1)[0]
        return "tests/e2e" if path.startswith("tests/e2e/") else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Lanes:
    """How `make test` shares the tests out."""
    return _Lanes(config, log)


_TEMPLATE = "doublei_template"
_START_TIMEOUT_SECONDS = 60


@pytest.fixture(scope="session")
def socket_dir() -> Iterator[Path]:
    """The folder of both servers' sockets and data, removed at the end."""
    path = make_socket_dir()
    yield path
    remove_socket_dir(path)


@pytest.fixture(scope="session")
def postgres_server(socket_dir: Path) -> Iterator[Path]:
    """A running Postgres with a migrated template database; the value is its socket folder."""
    data_dir = socket_dir / "pg"
    privileges = postgres_privileges(binary=postgres.binary("postgres"), data_parent=socket_dir)
    privileges.give(socket_dir)
    postgres.initialise(data_dir, privileges, throwaway=True)
    start = (*privileges.prefix, *launcher(signal.SIGQUIT))
    command = postgres.server_command(data_dir, socket_dir, launcher=start, throwaway=True)
    with _Server(command, log=socket_dir / "postgres.log", stop=signal.SIGINT) as alive:
        _wait(lambda: postgres.answers(socket_dir), alive, socket_dir / "postgres.log")
        _administer(socket_dir, f"CREATE DATABASE {_TEMPLATE}")
        subprocess.run(
            [sys.executable, "-m", "migrations", "upgrade"],
            env=os.environ | {"DATABASE_URL": postgres.url(socket_dir, _TEMPLATE)},
            check=True,
        )
        yield socket_dir


@pytest.fixture(scope="session")
def make_database(postgres_server: Path) -> Callable[[], str]:
    """A function that makes one more migrated, empty database and returns its URL."""
    numbers = count(1)

    def make() -> str:
        name = f"test_{next(numbers)}"
        _administer(postgres_server, f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
        return postgres.url(postgres_server, name)

    return make


@pytest.fixture
def postgres_url(make_database: Callable[[], str], postgres_server: Path) -> Iterator[str]:
    """The URL of a migrated, empty database of this test's own."""
    url = make_database()
    yield url
    name = url.split("@/")[1].split("?")[0]
    _administer(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def valkey_server(socket_dir: Path) -> Iterator[Path]:
    """A running Valkey; the value is its socket folder."""
    data_dir = socket_dir / "valkey"
    data_dir.mkdir(mode=0o700)
    command = valkey.server_command(data_dir, socket_dir, launcher=launcher(signal.SIGKILL))
    with _Server(command, log=socket_dir / "valkey.log", stop=signal.SIGTERM) as alive:
        _wait(lambda: valkey.answers(socket_dir), alive, socket_dir / "valkey.log")
        yield socket_dir


@pytest.fixture(scope="session")
def _valkey_databases() -> Iterator[int]:
    return cycle(range(16))


@pytest.fixture
def valkey_url(valkey_server: Path, _valkey_databases: Iterator[int]) -> str:
    """The URL of an empty Valkey database that no other recent test uses."""
    number = next(_valkey_databases)
    with redis.Redis(unix_socket_path=str(valkey_server / valkey.SOCKET_NAME), db=number) as client:
        client.flushdb()
    return valkey.url(valkey_server, number)


class _Server:
    """A server process for the length of a ``with``; the value says whether it still runs."""

    def __init__(self, command: tuple[str, ...], *, log: Path, stop: signal.Signals) -> None:
        self._stop = stop
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )

    def __enter__(self) -> Callable[[], bool]:
        return lambda: self._process.poll() is None

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(self._stop)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _wait(ready: Callable[[], bool], alive: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_SECONDS
    while not ready():
        if not alive() or time.monotonic() > deadline:
            pytest.fail(f"a test server did not start:\n{log.read_text()[-2000:]}")
        time.sleep(0.02)


def _administer(socket_dir: Path, statement: str) -> None:
    with psycopg.connect(
        host=str(socket_dir), user=postgres.SUPERUSER, dbname="postgres", autocommit=True
    ) as connection:
        connection.execute(statement.encode())
