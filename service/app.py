"""The HTTP application: ``uvicorn service.app:create_app --factory``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import httpx2
from fastapi import FastAPI

from evidence.log.note import PublicKey
from service import logs
from service.api import (
    accounts,
    campaigns,
    chat,
    commitments,
    data,
    errors,
    evidence,
    files,
    health,
    jobs,
    log,
    models,
    trail,
    verifications,
    watermarks,
    witness,
)
from service.api.context import RequestContext
from service.db.engine import async_engine, async_sessions, sync_engine
from service.db.reads import Reads
from service.dispatch import Dispatcher
from service.gc.schedule import collect_forever
from service.leavings import clear_forever
from service.log.cosigning import Cosigners
from service.log.signers import Signers
from service.metrics import ApiMetrics
from service.operator_door import open_door
from service.reaper import reap_forever
from service.sealing import Sealer
from service.settings import Settings, Witness, load_settings
from service.stamping import stamp_forever
from service.storage import Storage

UPLOAD_OVERHEAD_BYTES = 64 * 1024
"""Room for the form's other fields and boundaries around an uploaded file."""
SERVING_TIMEOUT_SECONDS = 600.0
SERVING_CONNECT_SECONDS = 5.0

ROUTERS = (
    # those that are polled first: a route is looked for in this order
    health.router,
    jobs.router,
    accounts.router,
    data.router,
    files.router,
    watermarks.router,
    commitments.router,
    models.router,
    chat.router,
    verifications.router,
    campaigns.router,
    trail.router,
    log.router,
    evidence.router,
    witness.router,
)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application. Connects to nothing until its lifespan starts.

    Raises:
        SettingsError: a setting is missing, or a file of keys or certificates that one names can't be read.
    """
    chosen = settings or load_settings()
    _configure_logs()
    parts = _parts(chosen)
    # what can't be read is said now, not at the first bundle
    _ = chosen.evidence_signer, chosen.timestamp_authority
    app = FastAPI(
        title="Double-I",
        lifespan=_lifespan(chosen, parts),
        openapi_url="/openapi.json" if chosen.public_docs else None,
        docs_url="/docs" if chosen.public_docs else None,
        redoc_url=None,
        redirect_slashes=False,
    )
    errors.install(app)
    metrics = ApiMetrics()
    app.state.metrics = metrics
    app.add_middleware(
        RequestContext,
        upload_bytes=chosen.max_file_bytes + UPLOAD_OVERHEAD_BYTES,
        observe=metrics.request,
    )
    for router in ROUTERS:
        app.include_router(router)
    return app


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What is read from files once, so that a mistake in one is told before anything starts."""

    sealer: Sealer
    signers: Signers
    witness: Witness | None
    log_witnesses: tuple[tuple[PublicKey, str], ...]


def _parts(settings: Settings) -> _Parts:
    return _Parts(
        sealer=Sealer.from_settings(settings),
        signers=Signers(settings.log_signers),
        witness=settings.witness(),
        log_witnesses=settings.log_witnesses(),
    )


def _lifespan(settings: Settings, parts: _Parts) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.settings = settings
        app.state.sealer = parts.sealer
        app.state.signers = parts.signers
        app.state.witness = parts.witness
        app.state.storage = Storage(settings.storage_dir)
        app.state.storage.sweep_incoming()
        app.state.dispatcher = Dispatcher(settings.redis_url.get_secret_value())
        app.state.engine = async_engine(settings)
        app.state.sessionmaker = async_sessions(app.state.engine)
        reading = async_engine(settings, application_name="doublei-api-reads", alone=True)
        app.state.reads = Reads(reading)
        timeout = httpx2.Timeout(SERVING_TIMEOUT_SECONDS, connect=SERVING_CONNECT_SECONDS)
        watched = sync_engine(settings, application_name="doublei-metrics")
        app.state.metrics.watch(watched, lease_seconds=settings.lease_seconds)
        close_door = open_door(settings, app.state.metrics.registry)
        async with httpx2.AsyncClient(timeout=timeout, trust_env=False) as client:
            app.state.http = client
            sessions = app.state.sessionmaker
            app.state.cosigners = Cosigners(
                sessions, client, parts.log_witnesses, timeout_seconds=settings.witness_timeout_seconds
            )
            stamping = stamp_forever(sessions, parts.signers, settings.timestamp_authority, client)
            background = (
                asyncio.create_task(reap_forever(sessions, app.state.dispatcher)),
                asyncio.create_task(stamping),
                asyncio.create_task(clear_forever(sessions, app.state.storage)),
                asyncio.create_task(collect_forever(settings)),
            )
            try:
                yield
            finally:
                close_door()
                watched.dispose()
                for task in background:
                    task.cancel()
                await asyncio.gather(*background, return_exceptions=True)
                await app.state.cosigners.close()
                await app.state.engine.dispose()
                await reading.dispose()
                app.state.dispatcher.close()

    return lifespan


def _configure_logs() -> None:
    """Request lines are ours: uvicorn's would repeat them without the id. Its others take our form."""
    logs.configure()
    logging.getLogger("uvicorn.access").disabled = True
    for name in ("uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers[:] = []
        logger.propagate = True
