"""A worker's connections: one for a burst of statements, none that is old."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from service.db import engine as engines
from service.db.engine import sync_engine
from service.settings import Settings

pytestmark = pytest.mark.integration

BACKEND = text("SELECT pg_backend_pid()")
COUNT = text(
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE application_name = 'doublei-worker' AND datname = current_database()"
)


def backend(engine: Engine) -> int:
    """Which of the database's processes answers."""
    with engine.connect() as connection:
        return int(connection.execute(BACKEND).scalar_one())


def test_a_burst_shares_a_connection_and_what_lay_idle_is_replaced(
    settings: Settings, database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = sync_engine(settings, bursts=True)
    first = backend(worker)
    assert [backend(worker) for _ in range(3)] == [first] * 3
    monkeypatch.setattr(engines, "IDLE_SECONDS", 0.0)
    assert backend(worker) != first
    with database.connect() as other:
        assert other.execute(COUNT).scalar_one() == 1
    worker.dispose()


def test_a_lost_connection_costs_one_statement_and_an_idle_one_none(
    settings: Settings, database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = sync_engine(settings, bursts=True)

    def end(pid: int) -> None:
        with database.connect() as other:
            other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})

    end(backend(worker))
    with pytest.raises(OperationalError):
        backend(worker)
    last = backend(worker)
    end(last)
    monkeypatch.setattr(engines, "IDLE_SECONDS", 0.0)
    assert backend(worker) != last
    worker.dispose()


def test_two_threads_at_once_have_two_and_one_is_kept(settings: Settings, database: Engine) -> None:
    worker = sync_engine(settings, bursts=True)
    with worker.connect() as one, worker.connect() as two:
        pids: set[Any] = {one.execute(BACKEND).scalar_one(), two.execute(BACKEND).scalar_one()}
    assert len(pids) == 2
    assert backend(worker) in pids
    with database.connect() as other:
        # the database notices a closed connection a moment later
        for _ in range(100):
            left = other.execute(COUNT).scalar_one()
            if left == 1:
                break
            other.execute(text("SELECT pg_sleep(0.05)"))
            other.rollback()
    assert left == 1
    worker.dispose()


def test_by_default_every_session_has_its_own(settings: Settings) -> None:
    plain = sync_engine(settings)
    assert backend(plain) != backend(plain)
