"""Is it alive, and can it do its work?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import structlog
from fastapi import APIRouter, Request
from sqlalchemy import text
from starlette.responses import JSONResponse

from service.api.errors import envelope
from service.broker import ping
from service.db import schema

log = structlog.get_logger()

router = APIRouter(tags=["health"])

CHECK_TIMEOUT_SECONDS = 2.0

NEEDED = frozenset({"database", "migrations"})
"""Without these no request can be answered."""


@router.get("/healthz")
async def alive() -> dict[str, str]:
    """The process answers. Says nothing of what it depends on."""
    return {"status": "ok"}


@router.get("/readyz")
async def ready(request: Request) -> JSONResponse:
    """The database answers and has been migrated; 503 says which is not so.

    The broker and model serving are looked at and named, but don't decide: Postgres is the queue of record,
    so jobs are taken without a broker, and only completions need serving.
    """
    state = request.app.state

    async def database() -> None:
        async with state.engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async def migrations() -> None:
        async with state.engine.connect() as connection:
            if not schema.fits(await connection.scalar(schema.revision())):
                raise LookupError("older than this code")

    async def serving() -> None:
        response = await state.http.get(f"{state.settings.serving_url.rstrip('/')}/health")
        response.raise_for_status()

    checks = {
        "database": database(),
        "migrations": migrations(),
        "broker": ping(state.settings.redis_url),
        "serving": serving(),
    }
    results = await asyncio.gather(*(_check(name, check) for name, check in checks.items()))
    outcome: dict[str, Any] = dict(zip(checks, results, strict=True))
    missing = [name for name, result in outcome.items() if result != "ok"]
    if not NEEDED.isdisjoint(missing):
        body = envelope(
            f"not ready: {', '.join(missing)}",
            type="server_error",
            code="not_ready",
            extra={"checks": outcome},
        )
        return JSONResponse(body, status_code=503, headers={"retry-after": "2"})
    return JSONResponse({"status": "ready", "checks": outcome, "degraded": missing})


async def _check(name: str, check: Awaitable[None]) -> str:
    try:
        await asyncio.wait_for(check, CHECK_TIMEOUT_SECONDS)
    except Exception as error:  # any failure at all means: not ready
        log.warning("ready.missing", part=name, error=type(error).__name__)
        return "missing"
    return "ok"
