"""Real servers on loopback that behave as a suspect may."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address

import pytest

from probe.address import VettedTarget, parse_suspect_url, vet

Handler = Callable[["Request", asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the suspect received."""

    line: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True, kw_only=True)
class Suspect:
    """A listening suspect and what reached it."""

    port: int
    requests: list[Request] = field(default_factory=list)
    connections: int = 0

    @property
    def target(self) -> VettedTarget:
        return vet(
            parse_suspect_url(f"http://127.0.0.1:{self.port}/v1"),
            [ip_address("127.0.0.1")],
            {("127.0.0.1", self.port)},
        )


Serve = Callable[[Handler], AbstractAsyncContextManager[Suspect]]


@asynccontextmanager
async def _serve(handler: Handler) -> AsyncIterator[Suspect]:
    suspect = Suspect(port=0)

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        suspect.connections += 1
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {
                name.lower(): value.strip()
                for name, _, value in (line.partition(":") for line in head[1:])
                if name
            }
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            request = Request(line=head[0], headers=headers, body=body)
            suspect.requests.append(request)
            await handler(request, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(on_connection, "127.0.0.1", 0)
    suspect.port = server.sockets[0].getsockname()[1]
    try:
        yield suspect
    finally:
        server.close()


def http(
    body: bytes, *, status: str = "200 OK", headers: str = "Content-Type: application/json\r\n"
) -> bytes:
    """A whole reply."""
    return f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


def chat(text: object) -> bytes:
    """The body of a chat completion."""
    return json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}).encode()


@pytest.fixture
def serve() -> Serve:
    """`async with serve(handler) as suspect`."""
    return _serve


@pytest.fixture
def reply_http() -> Callable[..., bytes]:
    return http


@pytest.fixture
def chat_body() -> Callable[[object], bytes]:
    return chat
