"""The outermost ASGI layer: request ids, one log line a request, body caps, and no failure without envelope.

Plain ASGI, because it must see streamed bodies as they pass and answer even when everything inside failed.
"""

from __future__ import annotations

import re
import time
from typing import Protocol

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api import errors
from service.errors import ServiceError, TooLarge, UnsupportedMedia
from service.ids import new_id
from service.logs import frames

log = structlog.get_logger()

MAX_BODY_BYTES = 4 * 1024 * 1024
"""For every route but uploads, whose own cap is a setting."""
UPLOAD_ROUTES = frozenset({("POST", "/v1/files")})
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_PLAIN_SEGMENT = re.compile(
    r"[a-z0-9_]{0,24}|(?:org|key|file|wm|grant|ftjob|verif|camp)-[0-9A-Za-z]{12,24}|ft:[a-z0-9:._-]{1,200}",
    re.IGNORECASE,
)
_QUIET = frozenset({"/healthz", "/readyz"})


class Observe(Protocol):
    """Hears of a request's end. ``route`` is the template, None where none fits the path."""

    def __call__(self, *, method: str, route: str | None, status: int | None, seconds: float) -> None: ...


class RequestContext:
    """Wraps the application; see the module."""

    def __init__(self, app: ASGIApp, *, upload_bytes: int, observe: Observe) -> None:
        """``upload_bytes``: the cap on the whole body of an upload, form fields included. ``observe`` hears
        of each request's end."""
        self._app = app
        self._observe = observe
        self._upload_bytes = upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        exchange = _Exchange(receive, send, request_id, self._limit(scope))
        started = time.monotonic()
        try:
            refusal = exchange.refuse_headers(Headers(scope=scope))
            if refusal is not None:
                await errors.response_of(refusal)(scope, receive, exchange.send)
            else:
                await self._app(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            log.info("request.abandoned")
        except Exception as error:
            # The message of an exception may quote data or a secret: the log gets the type and the frames.
            log.error("request.crashed", error=type(error).__name__, frames=frames(error))
            if not exchange.response_started:
                await errors.internal_error(request_id)(scope, receive, exchange.send)
        finally:
            seconds = time.monotonic() - started
            self._observe(
                method=scope["method"], route=_template(scope), status=exchange.status, seconds=seconds
            )
            if scope["path"] not in _QUIET:
                log.info(
                    "request.finished",
                    method=scope["method"],
                    path=_shown_path(scope["path"]),
                    status=exchange.status,
                    milliseconds=round(seconds * 1000, 1),
                )
            structlog.contextvars.clear_contextvars()

    def _limit(self, scope: Scope) -> int:
        return self._upload_bytes if (scope["method"], scope["path"]) in UPLOAD_ROUTES else MAX_BODY_BYTES


class _Exchange:
    """One request's channels, watched."""

    def __init__(self, receive: Receive, send: Send, request_id: str, max_body_bytes: int) -> None:
        self._receive = receive
        self._send = send
        self._request_id = request_id
        self._max_body_bytes = max_body_bytes
        self._received_bytes = 0
        self.status: int | None = None

    @property
    def response_started(self) -> bool:
        return self.status is not None

    def refuse_headers(self, headers: Headers) -> ServiceError | None:
        """What the headers alone already forbid: compressed bodies, and those declared too long."""
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            return UnsupportedMedia("a compressed request body is not accepted; send it as it is")
        declared = headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > self._max_body_bytes:
            return TooLarge(self._too_large())
        return None

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._received_bytes += len(message.get("body", b""))
            if self._received_bytes > self._max_body_bytes:
                # An HTTPException is what FastAPI lets through while it reads a body.
                raise HTTPException(413, self._too_large())
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message)["x-request-id"] = self._request_id
        await self._send(message)

    def _too_large(self) -> str:
        return f"the request body is over {self._max_body_bytes} bytes"


def _request_id(scope: Scope) -> str:
    """The caller's own id if it is a plain token, else a fresh one."""
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else new_id("req")


def _template(scope: Scope) -> str | None:
    """``/v1/files/{file_id}``: what the router found."""
    route = scope.get("route")
    path = getattr(route, "path", None)
    return path if isinstance(path, str) else None


def _shown_path(path: str) -> str:
    """The path with every part hidden that is neither a word of a route nor an id of ours: what somebody
    puts there by mistake may be a secret."""
    return "/".join(part if _PLAIN_SEGMENT.fullmatch(part) else "…" for part in path.split("/"))
