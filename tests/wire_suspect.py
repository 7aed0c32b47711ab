"""A suspect on loopback that speaks raw HTTP, one thread a connection: any bytes, at any pace."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class WireRequest:
    """What came. ``number`` counts from 0; ``connection`` is for replies that no return value can be."""

    number: int
    line: str
    headers: dict[str, str]
    body: bytes
    connection: socket.socket = field(repr=False)


Reply = Callable[[WireRequest], bytes | None]
"""The bytes of a whole reply, or None when the behaviour has written by itself."""


def http_reply(
    body: bytes, *, status: str = "200 OK", headers: str = "Content-Type: application/json\r\n"
) -> bytes:
    """A whole reply. ``headers``: lines, each with its end."""
    return f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode("latin-1") + body


def json_reply(value: object) -> bytes:
    """A whole reply with status 200."""
    return http_reply(json.dumps(value).encode())


@dataclass(slots=True, kw_only=True)
class WireSuspect:
    """A listening suspect and what reached it."""

    port: int
    behaviour: Reply = lambda request: http_reply(b"{}")
    connections: int = 0
    requests: list[WireRequest] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def host_port(self) -> str:
        return f"127.0.0.1:{self.port}"

    def forget(self) -> None:
        """Count and collect from the beginning."""
        with self.lock:
            self.connections = 0
            self.requests.clear()


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, _Server)
        suspect = self.server.suspect
        with suspect.lock:
            suspect.connections += 1
        with suppress(OSError, ValueError):
            request = self._request(suspect)
            reply = suspect.behaviour(request)
            if reply is not None:
                self.connection.sendall(reply)

    def _request(self, suspect: WireSuspect) -> WireRequest:
        line = self.rfile.readline(65536).decode("latin-1").rstrip("\r\n")
        if not line:
            raise ValueError("closed")
        headers: dict[str, str] = {}
        while (header := self.rfile.readline(65536).decode("latin-1").rstrip("\r\n")) != "":
            name, _, value = header.partition(":")
            headers[name.lower()] = value.strip()
        body = self.rfile.read(int(headers.get("content-length", "0")))
        with suspect.lock:
            request = WireRequest(
                number=len(suspect.requests),
                line=line,
                headers=headers,
                body=body,
                connection=self.connection,
            )
            suspect.requests.append(request)
        return request


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    allow_reuse_address = True
    suspect: WireSuspect

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is not worth a traceback."""


class _SixOnly(_Server):
    address_family = socket.AF_INET6

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        super().server_bind()


@contextmanager
def wire_suspect(port: int = 0, host: str = "127.0.0.1") -> Iterator[WireSuspect]:
    """A suspect for the length of a ``with``; it answers ``{}`` until told otherwise."""
    server = (_SixOnly if ":" in host else _Server)((host, port), _Handler)
    suspect = WireSuspect(port=server.server_address[1])
    server.suspect = suspect
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield suspect
    finally:
        server.shutdown()
        server.server_close()
