"""Engines: one DSN, the async dialect for the API and the sync one for the workers.

Nothing here is made at import: the API makes its engine in its lifespan, a worker after its fork.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pydantic_core import from_json
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import DisconnectionError, InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry, NullPool, PoolProxiedConnection

from service.settings import Settings

STATEMENT_TIMEOUT_MS = 15_000
LOCK_TIMEOUT_MS = 5_000
IDLE_IN_TRANSACTION_TIMEOUT_MS = 60_000
"""A transaction never spans network, disk or GPU work, so a minute of silence inside one is a bug."""
WORKER_IDLE_IN_TRANSACTION_TIMEOUT_MS = 10_000
"""A worker that is stopped in the middle of one keeps its locks, the log's among them, while others wait."""
CONNECT_TIMEOUT_SECONDS = 5
POOL_SIZE = 10
POOL_OVERFLOW = 10
POOL_TIMEOUT_SECONDS = 5
IDLE_SECONDS = 1.0
"""A connection that was used more recently is taken as it is."""


def _connect_args(
    application_name: str, *, idle_in_transaction_ms: int = IDLE_IN_TRANSACTION_TIMEOUT_MS
) -> dict[str, Any]:
    return {
        "application_name": application_name,
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "options": (
            f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c lock_timeout={LOCK_TIMEOUT_MS}"
            f" -c idle_in_transaction_session_timeout={idle_in_transaction_ms}"
        ),
    }


def async_engine(
    settings: Settings, *, application_name: str = "doublei-api", alone: bool = False
) -> AsyncEngine:
    """The API's engine. ``hide_parameters`` keeps values (sealed or not) out of error texts.

    With `alone` each statement is a transaction of its own, and nothing is said to the database between them.
    """
    standing_alone: dict[str, Any] = {
        "isolation_level": "AUTOCOMMIT",
        "skip_autocommit_rollback": True,
        "pool_reset_on_return": None,
        "json_deserializer": from_json,  # a page of jobs has a hundred small documents
    }
    engine = create_async_engine(
        settings.database_url.get_secret_value(),
        pool_size=POOL_SIZE,
        max_overflow=POOL_OVERFLOW,
        pool_timeout=POOL_TIMEOUT_SECONDS,
        hide_parameters=True,
        connect_args=_connect_args(application_name),
        **(standing_alone if alone else {}),
    )
    _ping_the_idle(engine)
    return engine


def _ping_the_idle(engine: AsyncEngine) -> None:
    """SQLAlchemy's `pool_pre_ping`, but only for connections that lay idle: under load it would be every
    third round trip. Of a database restarted under load some requests see a lost connection, which is 503."""
    core = engine.sync_engine

    def check(connection: Any) -> None:
        try:
            alive = core.dialect.do_ping(connection)
        except core.dialect.dbapi.Error:  # type: ignore[union-attr]
            alive = False
        if not alive:
            raise InvalidatePoolError

    _of_the_idle(core, check)


def sync_engine(
    settings: Settings, *, application_name: str = "doublei-worker", bursts: bool = False
) -> Engine:
    """An engine of plain sessions: no pool, so that nothing is shared across a fork.

    With `bursts` the connection of a moment ago is used again, since opening one costs the database more than
    most statements; one that lay idle is replaced unasked, so after long work, a restart or a cut network
    everything begins on a new connection, as without. For a process that is not forked afterwards.
    """
    url = settings.database_url.get_secret_value()
    arguments = _connect_args(application_name, idle_in_transaction_ms=WORKER_IDLE_IN_TRANSACTION_TIMEOUT_MS)
    if not bursts:
        return create_engine(url, poolclass=NullPool, hide_parameters=True, connect_args=arguments)
    engine = create_engine(
        url, pool_size=1, max_overflow=-1, pool_use_lifo=True, hide_parameters=True, connect_args=arguments
    )

    def replace(_: Any) -> None:
        raise DisconnectionError

    _of_the_idle(engine, replace)
    return engine


def _of_the_idle(engine: Engine, deal: Callable[[Any], None]) -> None:
    """Have `deal` called with each connection that is taken from the pool and lay idle there."""

    @event.listens_for(engine, "checkin")
    def returned(connection: Any, record: ConnectionPoolEntry) -> None:
        record.info["returned_at"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def taken(connection: Any, record: ConnectionPoolEntry, proxy: PoolProxiedConnection) -> None:
        returned_at = record.info.get("returned_at")
        if returned_at is not None and time.monotonic() - returned_at >= IDLE_SECONDS:
            deal(connection)


def async_sessions(engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    """Sessions whose objects stay readable after the commit."""
    return async_sessionmaker(engine, expire_on_commit=False)


def sync_sessions(engine: Engine) -> sessionmaker[Session]:
    """The same for the workers."""
    return sessionmaker(engine, expire_on_commit=False)
