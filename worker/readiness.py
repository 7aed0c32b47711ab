"""Whether a Celery worker can do work now, for whoever watches its container."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from service.broker import client_url
from service.db import schema
from service.db.engine import sync_engine
from service.settings import Settings

BROKER_TIMEOUT_SECONDS = 1.0
UNHEARD_SECONDS = 5.0
"""A healthy worker hears its own bell in milliseconds."""


def readiness(
    settings: Settings, *, shutting_down: Callable[[], bool], unheard_seconds: Callable[[], float]
) -> Callable[[], Mapping[str, str]]:
    """A function that looks: at the database and its schema, the broker that messages come from, and whether
    the worker still takes any."""
    engine = sync_engine(settings, application_name="doublei-readiness")

    def look() -> Mapping[str, str]:
        return {
            "database": _database(engine),
            "broker": _broker(settings),
            "consuming": consuming(),
        }

    def consuming() -> str:
        if shutting_down():
            return "shutting down"
        return "hears no message" if unheard_seconds() > UNHEARD_SECONDS else "ok"

    return look


def _database(engine: Engine) -> str:
    try:
        with engine.connect() as connection:
            found = connection.scalar(schema.revision())
    except SQLAlchemyError:
        return "missing"
    return "ok" if schema.fits(found) else "not migrated"


def _broker(settings: Settings) -> str:
    try:
        with Redis.from_url(
            client_url(settings.redis_url.get_secret_value()),
            socket_timeout=BROKER_TIMEOUT_SECONDS,
            socket_connect_timeout=BROKER_TIMEOUT_SECONDS,
        ) as client:
            client.ping()
    except (RedisError, OSError):
        return "missing"
    return "ok"
