"""What is asked all the time: plain statements on connections that commit by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import Engine, Integer, bindparam, func, literal, select, text
from sqlalchemy.exc import OperationalError

from service.db import engine as engines
from service.db.engine import async_engine
from service.db.reads import Query, Reads
from service.settings import Settings

pytestmark = pytest.mark.integration

NAME = "test-reads"
BACKEND = Query(select(func.pg_backend_pid().label("pid")), {})


def number(value: int, *, after_seconds: float = 0.0) -> Query:
    """Answers with it."""
    slept = func.pg_sleep(bindparam("seconds"))
    statement = select(bindparam("value", type_=Integer).label("value"), slept)
    return Query(statement, {"value": value, "seconds": after_seconds})


@pytest.fixture
async def reads(settings: Settings) -> AsyncIterator[Reads]:
    engine = async_engine(settings, application_name=NAME, alone=True)
    yield Reads(engine)
    await engine.dispose()


async def pid(reads: Reads) -> int:
    row = await reads.first(BACKEND)
    assert row is not None
    return int(row.pid)


async def test_one_connection_after_the_other_serves_and_none_stays_in_a_transaction(
    reads: Reads, database: Engine
) -> None:
    assert len({await pid(reads) for _ in range(5)}) == 1
    state = text("SELECT state, xact_start FROM pg_stat_activity WHERE application_name = :name")
    with database.connect() as other:
        assert [tuple(row) for row in other.execute(state, {"name": NAME})] == [("idle", None)]


async def test_each_gets_its_own_answer(reads: Reads) -> None:
    queries = [number(value, after_seconds=0.01 * (value % 3)) for value in range(40)]
    answers = await asyncio.gather(*map(reads.first, queries))
    assert [row.value for row in answers if row is not None] == list(range(40))


async def test_who_leaves_in_the_middle_takes_nobody_s_answer_along(reads: Reads) -> None:
    """A client that goes away cancels its request; what the database still sends belongs to nobody."""
    for value in range(5):
        leaving = asyncio.create_task(reads.first(number(value, after_seconds=0.2)))
        await asyncio.sleep(0.05)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        row = await reads.first(number(100 + value))
        assert row is not None
        assert row.value == 100 + value


async def test_nothing_found_is_none(reads: Reads) -> None:
    assert await reads.first(Query(select(literal(1)).where(text("false")), {})) is None


async def test_after_a_restart_of_the_database_the_idle_are_replaced(
    reads: Reads, database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(backend: int) -> None:
        with database.connect() as other:
            other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": backend})

    end(await pid(reads))
    with pytest.raises(OperationalError):
        await pid(reads)
    last = await pid(reads)
    end(last)
    monkeypatch.setattr(engines, "IDLE_SECONDS", 0.0)
    assert await pid(reads) != last
