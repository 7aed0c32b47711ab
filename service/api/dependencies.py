"""What handlers are given: the caller, one session, the doorbell, the settings.

The session commits once, after the handler returned and before the response is sent, so nobody is told of
a thing that is not durable; the doorbell rings right after that commit.

All are coroutines, also where they wait for nothing: FastAPI calls plain functions in a thread, which costs
more than what most of them do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, cast

import structlog
from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from service.accounts.principal import Principal, Role
from service.accounts.usecases import authenticate_token
from service.api import idempotency
from service.db.reads import Reads
from service.errors import Forbidden
from service.log.cosigning import Cosigners
from service.log.signers import Signers
from service.sealing import Sealer
from service.settings import Settings, Witness
from service.storage import Storage
from service.trail.usecases import Actor

if TYPE_CHECKING:
    from service.dispatch import Dispatcher, TaskName

__all__ = [
    "AppCosigners",
    "AppReads",
    "AppSealer",
    "AppSessions",
    "AppSettings",
    "AppSigners",
    "AppStorage",
    "AppWitness",
    "Bells",
    "CurrentPrincipal",
    "DbSession",
    "Doorbell",
    "Principal",
    "Role",
    "actor_of",
    "authenticate",
    "bells",
    "require_role",
    "session",
]

log = structlog.get_logger()

RING_TIMEOUT_SECONDS = 2.0
"""A broker that hangs must not hold the response; the reaper rings again for what was missed."""

INFERENCE_ROUTES = frozenset(
    {("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("POST", "/v1/completions")}
)
"""All that a key given to an application that only chats can reach."""


class Bells:
    """Messages to send once the transaction is durable. The rows are the record; these only wake workers."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: list[tuple[TaskName, str]] = []

    def ring(self, task: TaskName, row_id: str) -> None:
        """Ask that ``task`` be woken for this row after the commit."""
        self._waiting.append((task, row_id))

    async def send(self, dispatcher: Dispatcher) -> None:
        """Send what was asked for. A failing broker is logged, never raised."""
        for task, row_id in self._waiting:
            try:
                await asyncio.wait_for(asyncio.to_thread(dispatcher.ring, task, row_id), RING_TIMEOUT_SECONDS)
            except Exception as error:  # whatever the broker's client raises
                log.warning("doorbell.failed", task=str(task), id=row_id, error=type(error).__name__)
        self._waiting.clear()


async def bells(request: Request) -> Bells:
    """The request's doorbell."""
    if not hasattr(request.state, "bells"):
        request.state.bells = Bells()
    return cast(Bells, request.state.bells)


async def session(request: Request) -> AsyncIterator[AsyncSession]:
    """One session a request. An exception in the handler rolls back and discards the bells.

    A POST that may come again first claims its name here (`service.api.idempotency`).
    """
    sessions: async_sessionmaker[AsyncSession] = request.app.state.sessionmaker
    async with sessions() as database:
        request.state.session = database
        if idempotency.may_come_again(request):
            await idempotency.claimed(request, await authenticate(request), database)
        yield database
        await database.commit()
    await (await bells(request)).send(request.app.state.dispatcher)


async def authenticate(request: Request) -> Principal:
    """The caller, from its bearer key, with a connection of a moment: slow handlers hold none. Asked for once
    a request.

    Raises:
        Unauthenticated: no key, or not one that is live.
        Forbidden: an inference key anywhere but on `INFERENCE_ROUTES`, whatever the route itself says.
    """
    if (known := getattr(request.state, "principal", None)) is not None:
        return cast(Principal, known)
    principal = await authenticate_token(request.app.state.reads, request.headers.get("authorization"))
    structlog.contextvars.bind_contextvars(organization_id=principal.organization_id, key_id=principal.key_id)
    if principal.role is Role.inference and (request.method, request.url.path) not in INFERENCE_ROUTES:
        raise Forbidden("an inference key may only list models and ask for completions")
    request.state.principal = principal
    return principal


def actor_of(principal: Principal) -> Actor:
    """The caller, as the audit trail names it."""
    return Actor(organization_id=principal.organization_id, key_id=principal.key_id)


async def _sessions(request: Request) -> async_sessionmaker[AsyncSession]:
    return cast("async_sessionmaker[AsyncSession]", request.app.state.sessionmaker)


async def _reads(request: Request) -> Reads:
    return cast(Reads, request.app.state.reads)


async def _settings(request: Request) -> Settings:
    return cast(Settings, request.app.state.settings)


async def _storage(request: Request) -> Storage:
    return cast(Storage, request.app.state.storage)


async def _sealer(request: Request) -> Sealer:
    return cast(Sealer, request.app.state.sealer)


async def _signers(request: Request) -> Signers:
    return cast(Signers, request.app.state.signers)


async def _cosigners(request: Request) -> Cosigners:
    return cast(Cosigners, request.app.state.cosigners)


async def _witness(request: Request) -> Witness | None:
    return cast("Witness | None", request.app.state.witness)


CurrentPrincipal = Annotated[Principal, Depends(authenticate)]
DbSession = Annotated[AsyncSession, Depends(session, scope="function")]
Doorbell = Annotated[Bells, Depends(bells)]
AppSettings = Annotated[Settings, Depends(_settings)]
AppSessions = Annotated[async_sessionmaker[AsyncSession], Depends(_sessions)]
"""For what must be written whether or not the request succeeds; everything else uses `DbSession`."""
AppReads = Annotated[Reads, Depends(_reads)]
"""For handlers that only read, and are asked often."""
AppStorage = Annotated[Storage, Depends(_storage)]
AppSealer = Annotated[Sealer, Depends(_sealer)]
AppSigners = Annotated[Signers, Depends(_signers)]
AppCosigners = Annotated[Cosigners, Depends(_cosigners)]
AppWitness = Annotated[Witness | None, Depends(_witness)]
"""This service as a witness of other logs; None where it is none."""


def require_role(*roles: Role | str) -> Callable[[Principal], Coroutine[Any, Any, Principal]]:
    """A dependency that lets only these roles pass.

    Raises:
        Forbidden: (in the dependency) the key is valid, but of another role.
    """
    allowed = frozenset(Role(role) for role in roles)

    async def check(principal: CurrentPrincipal) -> Principal:
        if principal.role not in allowed:
            wanted = " or ".join(sorted(allowed))
            raise Forbidden(f"this needs a key of role {wanted}; yours is of role {principal.role}")
        return principal

    return check
