"""Garbage goes by itself, once a period, whoever of several processes looks."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from sqlalchemy import Engine, func, select, text
from sqlalchemy.orm import Session

from service.app import create_app
from service.bootstrap import bootstrap
from service.db.engine import sync_engine
from service.db.models import GarbageCollection
from service.gc import schedule
from service.gc.collecting import Collection, CollectionStopped
from service.gc.schedule import AnotherCollects, collect_now
from service.metrics import RecordsCollector
from service.settings import Settings
from service.storage import Storage

pytestmark = pytest.mark.integration

DAY = "1 day"


@pytest.fixture
def garbage(settings: Settings) -> Path:
    """An adapter of a job that is nowhere on record, and old."""
    folder = Storage(settings.storage_dir).adapter_dir("ftjob-gone", 1)
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"x" * 1234)
    for path in (folder, folder / "weights"):
        os.utime(path, (1, 1))
    return folder


@pytest.fixture
def age(database: Engine, settings: Settings, tmp_path: Path) -> Callable[[str], None]:
    """A function that makes the database, and the collections in it, so much older."""
    bootstrap(settings, tmp_path / "first-credentials.json")

    def older(interval: str) -> None:
        with database.begin() as connection:
            for column in ("organizations.created_at", "garbage_collections.finished_at"):
                table, name = column.split(".")
                connection.execute(
                    text(f"UPDATE {table} SET {name} = {name} - CAST(:by AS interval)"), {"by": interval}
                )

    return older


def collections(database: Engine) -> int:
    with Session(database) as session:
        return session.scalar(select(func.count()).select_from(GarbageCollection)) or 0


def test_once_a_period_and_not_in_a_new_databases_first(
    settings: Settings, database: Engine, garbage: Path, age: Callable[[str], None]
) -> None:
    assert collect_now(settings, only_if_due=True) is None
    assert garbage.exists()
    age(DAY)
    done = collect_now(settings, only_if_due=True)
    assert done is not None
    assert (done.bytes, garbage.exists(), collections(database)) == (1234, False, 1)
    assert collect_now(settings, only_if_due=True) is None
    age(DAY)
    assert collect_now(settings, only_if_due=True) is not None
    assert collections(database) == 2


def test_a_database_without_anybody_in_it_is_left_alone(settings: Settings, garbage: Path) -> None:
    """The service was started on the wrong one, or the right one is being restored."""
    assert collect_now(settings, only_if_due=True) is None
    assert garbage.exists()


def test_of_many_who_look_at_once_one_collects(
    settings: Settings, database: Engine, garbage: Path, age: Callable[[str], None]
) -> None:
    age(DAY)
    together = threading.Barrier(8)

    def look(_: int) -> Collection | None:
        together.wait()
        try:
            return collect_now(settings, only_if_due=True)
        except AnotherCollects:
            return None

    with ThreadPoolExecutor(8) as pool:
        found = [one for one in pool.map(look, range(8)) if one is not None]
    assert [len(one.garbage) for one in found] == [1]
    assert collections(database) == 1


def test_a_collector_that_dies_leaves_no_lock_and_no_record(
    settings: Settings, database: Engine, garbage: Path, age: Callable[[str], None], monkeypatch: Any
) -> None:
    age(DAY)

    def dies(*_: object, **__: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as broken:
        broken.setattr(schedule, "collect", dies)
        with pytest.raises(RuntimeError):
            collect_now(settings, only_if_due=True)
    with pytest.raises(CollectionStopped):
        collect_now(settings, only_if_due=True, stopping=lambda: True)
    assert (collections(database), garbage.exists()) == (0, True)
    assert collect_now(settings, only_if_due=True) is not None


def test_a_second_one_is_refused_while_it_lasts(
    settings: Settings, garbage: Path, age: Callable[[str], None], monkeypatch: Any
) -> None:
    def meanwhile(*_: object, **__: object) -> Collection:
        with monkeypatch.context() as real:
            real.setattr(schedule, "collect", lambda *_, **__: pytest.fail("two at once"))
            with pytest.raises(AnotherCollects):
                collect_now(settings)
        return Collection(deleted=True)

    with monkeypatch.context() as replaced:
        replaced.setattr(schedule, "collect", meanwhile)
        assert collect_now(settings) is not None


async def test_the_api_does_it_and_a_setting_keeps_it_from_doing_so(
    settings: Settings, database: Engine, garbage: Path, age: Callable[[str], None]
) -> None:
    age(DAY)
    never = create_app(settings.model_copy(update={"gc_seconds": 0.0}))
    async with never.router.lifespan_context(never):
        await asyncio.sleep(0.5)
    assert garbage.exists()
    often = create_app(settings.model_copy(update={"gc_seconds": 0.1}))
    async with often.router.lifespan_context(often):
        async with asyncio.timeout(10):
            while garbage.exists() or not collections(database):
                await asyncio.sleep(0.05)


def test_metrics_say_how_long_ago(settings: Settings, garbage: Path, age: Callable[[str], None]) -> None:
    assert "doublei_gc" not in shown(settings)
    collect_now(settings)
    age("1 hour")
    found = shown(settings)
    seconds = float(found.split("\ndoublei_gc_age_seconds ")[1].split()[0])
    assert 3600 <= seconds < 3700
    assert "doublei_gc_removed_bytes 1234.0" in found


def shown(settings: Settings) -> str:
    registry, engine = CollectorRegistry(), sync_engine(settings)
    registry.register(RecordsCollector(engine, lease_seconds=30))
    return generate_latest(registry).decode()


async def test_stopping_does_not_wait_for_it(
    settings: Settings, garbage: Path, age: Callable[[str], None], monkeypatch: Any
) -> None:
    age(DAY)
    begun, told = threading.Event(), threading.Event()

    def long(*_: object, stopping: Callable[[], bool], **__: object) -> None:
        begun.set()
        while not stopping():
            threading.Event().wait(0.01)
        told.set()
        raise CollectionStopped

    monkeypatch.setattr(schedule, "collect", long)
    app = create_app(settings.model_copy(update={"gc_seconds": 0.1}))
    async with asyncio.timeout(10):
        async with app.router.lifespan_context(app):
            await asyncio.to_thread(begun.wait)
            assert not told.is_set()
    assert await asyncio.to_thread(told.wait, 5)
