"""`Idempotency-Key` on every POST, and the official client's tries without one.

`DeedRoute` puts the answer on record after the handler and before the commit. Most requests claim their name
first thing in the transaction of the deed (`claimed`, called by the session's dependency); an upload, whose
body is not known before it is read, and a completion, which is no deed, look first and record last (`late`).
Failures are not kept: nothing was done, so the same request is simply tried again.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import structlog
from fastapi.routing import APIRoute
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from service.accounts.principal import Principal
from service.api.conditional import conditional
from service.errors import InvalidRequest
from service.idempotency import usecases
from service.idempotency.statements import Asked
from service.idempotency.usecases import Claim, Replay

KEY_HEADER = "idempotency-key"
RETRY_HEADER = "x-stainless-retry-count"
REPLAYED_HEADER = "idempotent-replayed"
MAX_KEY_CHARACTERS = 255

CREATIONS = frozenset(
    {
        "/v1/organizations",
        "/v1/api_keys",
        "/v1/files",
        "/v1/watermarks",
        "/v1/fine_tuning/jobs",
        "/v1/verify",
        "/verify",
        "/v1/campaigns",
    }
)
"""Where a second try without a key gets the first one's answer. What only moves a thing from state to state
is not here: doing it again does nothing, and without a key an old answer could hide a new wish."""

_PRINTABLE = re.compile(r"[\x20-\x7e]+")
_MADE = {"ftjob": "job_id", "verif": "verification_id"}


class Replayed(Exception):
    """The request was made before; this is its answer. Undoes what this one may have written."""

    def __init__(self, replay: Replay) -> None:
        super().__init__()
        self.response = Response(
            replay.body,
            status_code=replay.status,
            media_type="application/json",
            headers={REPLAYED_HEADER: "true"},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Name:
    """What a request is known by: the caller's key, or which try of the official client it is."""

    key: str | None
    retry_count: int

    @property
    def implied(self) -> bool:
        return self.key is None


class DeedRoute(APIRoute):
    """A route whose POSTs are carried out once, and whose GETs are not sent to who has the answer."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's own, and then the record. The session's dependency commits after both."""
        handle = super().get_route_handler()

        async def recorded(request: Request) -> Response:
            request.state.arrived = time.monotonic()
            response = await handle(request)
            if request.method == "POST":
                await _record(request, response)
            elif request.method == "GET":
                return conditional(request, response)
            return response

        return recorded


def may_come_again(request: Request) -> bool:
    """Whether the request is to claim its name before anything else.

    Raises:
        InvalidRequest: its key is none.
    """
    return _name_of(request) is not None and not _is_upload(request)


async def claimed(request: Request, principal: Principal, session: AsyncSession) -> None:
    """Claim the name of a request that `may_come_again`, in this session.

    Raises:
        Replayed: it was made before.
        Conflict: its key was used for another request, or the same request is under way.
    """
    name = _name_of(request)
    assert name is not None
    asked = _asked(request, principal, name, await request.body())
    begun = await usecases.begin(
        session, request.app.state.sealer, asked, implied=name.implied, arrived=request.state.arrived
    )
    if isinstance(begun, Replay):
        raise Replayed(begun)
    request.state.claim = begun


async def late(request: Request, principal: Principal, *content: bytes) -> None:
    """Look whether the request was made before, and have its answer recorded in the end. `content` is what of
    its body makes it the same request.

    Raises:
        Replayed: it was made before.
        Conflict: its key was used for another request.
    """
    name = _name_of(request)
    if name is None:
        return
    asked = _asked(request, principal, name, *content)
    async with request.app.state.sessionmaker() as session:
        replay = await usecases.find(session, request.app.state.sealer, asked, implied=name.implied)
    if replay is not None:
        raise Replayed(replay)
    request.state.late = (asked, name.implied)


async def _record(request: Request, response: Response) -> None:
    if isinstance(response, StreamingResponse):
        return
    body = bytes(response.body)
    subject = _subject(body)
    _bind(subject)
    replay = Replay(status=response.status_code, body=body)
    sealer = request.app.state.sealer
    claim: Claim | None = getattr(request.state, "claim", None)
    if claim is not None:
        await usecases.keep(request.state.session, sealer, claim, replay, subject)
        return
    asked, implied = getattr(request.state, "late", (None, False))
    if asked is None:
        return
    session: AsyncSession | None = getattr(request.state, "session", None)
    if session is not None:
        faster = await usecases.keep_late(session, sealer, asked, replay, subject, implied=implied)
    else:
        async with request.app.state.sessionmaker() as own, own.begin():
            faster = await usecases.keep_late(own, sealer, asked, replay, subject, implied=implied)
    if faster is not None:
        raise Replayed(faster)


def _name_of(request: Request) -> _Name | None:
    """None: nothing says that the request may come again.

    Raises:
        InvalidRequest: the key is empty, too long, or not of printable ASCII.
    """
    if request.method != "POST":
        return None
    retry = request.headers.get(RETRY_HEADER, "")
    retry_count = int(retry) if retry.isascii() and retry.isdecimal() and len(retry) < 5 else None
    key = request.headers.get(KEY_HEADER)
    if key is not None:
        if not _PRINTABLE.fullmatch(key) or len(key) > MAX_KEY_CHARACTERS:
            raise InvalidRequest(
                f"Idempotency-Key must be 1 to {MAX_KEY_CHARACTERS} printable ASCII characters",
                param="Idempotency-Key",
                code="invalid_idempotency_key",
            )
        return _Name(key=key, retry_count=retry_count or 0)
    if retry_count is None or request.url.path not in CREATIONS:
        return None
    return _Name(key=None, retry_count=retry_count)


def _asked(request: Request, principal: Principal, name: _Name, *content: bytes) -> Asked:
    sealer = request.app.state.sealer
    digest = sealer.fingerprint(
        b"request", request.method.encode(), request.url.path.encode(), request.url.query.encode(), *content
    )
    return Asked(
        api_key_id=principal.key_id,
        name=digest if name.key is None else sealer.fingerprint(b"key", name.key.encode()),
        request=digest,
        retry_count=name.retry_count,
        lifetime=usecases.REPEATED_LIFETIME if name.implied else usecases.KEYED_LIFETIME,
    )


def _is_upload(request: Request) -> bool:
    return request.url.path == "/v1/files"


def _subject(body: bytes) -> str | None:
    """The id of what was made."""
    try:
        answer = json.loads(body)
    except ValueError:
        return None
    identity = answer.get("id") if isinstance(answer, dict) else None
    return identity if isinstance(identity, str) else None


def _bind(subject: str | None) -> None:
    """The request's log line says what it made, by the name that the workers' lines have for it."""
    if subject is not None:
        structlog.contextvars.bind_contextvars(**{_MADE.get(subject.partition("-")[0], "subject"): subject})
