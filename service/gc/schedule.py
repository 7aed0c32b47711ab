"""When garbage is collected, and by whom: by one process at a time, however many there are.

Every API process looks now and then whether it is time. The records say when it was last done, so neither a
restart nor another replica does it again; a lock of the database, held by a connection for as long as the
collection lasts, keeps the others out and is free again as soon as its process is gone.

Nothing is removed by itself in a process's first hour, nor in the first period of a new database: whoever
starts the service on the wrong records has time to notice before it takes the stored files for garbage.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import structlog
from sqlalchemy import Engine, TextClause, insert, text

from service.db.engine import sync_engine, sync_sessions
from service.db.models import GarbageCollection
from service.gc.collecting import Collection, CollectionStopped, collect
from service.settings import Settings
from service.storage import Storage

log = structlog.get_logger(__name__)

LOCK = 0x0D0B1E02
"""Advisory lock: one collection at a time in one database."""

FIRST_LOOK_SECONDS = 3600.0
LOOK_SECONDS = 300.0

_TRY_LOCK = text("SELECT pg_try_advisory_lock(:key)").bindparams(key=LOCK)
_DUE = text(
    """
    SELECT coalesce(max(last.moment) < clock_timestamp() - make_interval(secs => :period), false)
    FROM (
        SELECT max(finished_at) AS moment FROM garbage_collections
        UNION ALL
        SELECT min(created_at) FROM organizations
    ) AS last
    """
)


def due(period_seconds: float) -> TextClause:
    """True: the last collection, and the database's first organization, are older than that."""
    return _DUE.bindparams(period=period_seconds)


class AnotherCollects(Exception):
    """Some process is collecting at this moment."""


def collect_now(
    settings: Settings,
    *,
    only_if_due: bool = False,
    stopping: Callable[[], bool] = lambda: False,
) -> Collection | None:
    """Remove garbage, and put on record that it was done. None: it was not due. Blocking.

    Raises:
        AnotherCollects: nothing was done here.
        CollectionStopped: `stopping` said so; some of it is done.
    """
    engine = sync_engine(settings, application_name="doublei-gc")
    try:
        # The lock is this connection's, which is in no transaction: closing it gives the lock back.
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as alone:
            if not alone.scalar(_TRY_LOCK):
                raise AnotherCollects
            if only_if_due and not alone.scalar(due(settings.gc_seconds)):
                return None
            started = time.monotonic()
            done = collection(engine, settings, delete=True, stopping=stopping)
            seconds = time.monotonic() - started
            values = {"seconds": seconds, "things": len(done.garbage), "bytes": done.bytes}
            alone.execute(insert(GarbageCollection).values(values))
            return done
    finally:
        engine.dispose()


def collection(
    engine: Engine, settings: Settings, *, delete: bool, stopping: Callable[[], bool] = lambda: False
) -> Collection:
    """`collect` as the settings have it."""
    return collect(
        sync_sessions(engine),
        Storage(settings.storage_dir),
        delete=delete,
        lease_seconds=settings.lease_seconds,
        retention_seconds=settings.checkpoint_retention_seconds,
        stopping=stopping,
    )


async def collect_forever(settings: Settings) -> None:
    """Until cancelled; at once where the settings say never. Survives a database that is away."""
    if not settings.gc_seconds:
        return
    ending = threading.Event()
    try:
        await asyncio.sleep(min(FIRST_LOOK_SECONDS, settings.gc_seconds))
        while True:
            await _look(settings, ending.is_set)
            await asyncio.sleep(min(LOOK_SECONDS, settings.gc_seconds))
    finally:
        ending.set()  # a thread can't be cancelled


async def _look(settings: Settings, stopping: Callable[[], bool]) -> None:
    try:
        done = await asyncio.to_thread(collect_now, settings, only_if_due=True, stopping=stopping)
    except (AnotherCollects, CollectionStopped):
        return
    except Exception as error:
        log.warning("gc.failed", error=type(error).__name__)
        return
    if done is not None:
        log.info("gc.collected", things=len(done.garbage), bytes=done.bytes)
