"""The door: a bearer token on every route but /health."""

from __future__ import annotations

import hmac
import json
import secrets

from pydantic import SecretBytes
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from worker.serving.errors import ServingError, TokenRefused

OPEN_PATHS = frozenset({"/health"})
REQUEST_ID_HEADER = "x-request-id"
_MAX_REQUEST_ID = 128


def envelope(error: ServingError) -> dict[str, dict[str, str | None]]:
    """OpenAI's error shape."""
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}


class Door:
    """Refuses requests without the token before anything reads them, and gives every reply a request id."""

    def __init__(self, app: ASGIApp, *, token: SecretBytes) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = _request_id(headers.get(REQUEST_ID_HEADER))

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        if scope["path"] in OPEN_PATHS or self._admits(headers.get("authorization", "")):
            await self._app(scope, receive, send_with_id)
        else:
            await _refuse(send_with_id)

    def _admits(self, authorization: str) -> bool:
        scheme, _, given = authorization.partition(" ")
        same = hmac.compare_digest(given.strip().encode("latin-1", "replace"), self._token.get_secret_value())
        return same and scheme.lower() == "bearer"


def _request_id(given: str | None) -> str:
    if given and len(given) <= _MAX_REQUEST_ID and given.isascii() and given.isprintable():
        return given
    return f"req_{secrets.token_hex(12)}"


async def _refuse(send: Send) -> None:
    body = json.dumps(envelope(TokenRefused("a valid bearer token is required"))).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"www-authenticate", b"Bearer"),
    ]
    await send({"type": "http.response.start", "status": TokenRefused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
