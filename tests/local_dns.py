"""A DNS server on loopback that answers as a test tells it to, over real UDP and TCP."""

from __future__ import annotations

import socketserver
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

Records = Sequence[str] | None
"""Lines such as ``suspect.test. 0 IN A 192.0.2.1``; none of them: no such record; None: no such name."""
Zone = Callable[[str, str, int], Records]
"""(name without the last dot, "A" or "AAAA", how often this was asked before) -> the answer. It may sleep."""


class Silence(Exception):
    """Raised by a zone: this question gets no answer at all."""


class Truncate(Exception):
    """Raised by a zone: over UDP, say that the answer needs TCP."""


@dataclass(slots=True, kw_only=True)
class LocalDns:
    """A running server and what it was asked."""

    zone: Zone
    port: int = 0
    asked: Counter[tuple[str, str]] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", self.port)

    def answer(self, wire: bytes, *, over_udp: bool) -> bytes | None:
        """The reply to one message."""
        query = dns.message.from_wire(wire)
        name = query.question[0].name.to_text().rstrip(".").lower()
        kind = query.question[0].rdtype.name
        with self.lock:
            before = self.asked[name, kind]
            self.asked[name, kind] += 1
        reply = dns.message.make_response(query, recursion_available=True)
        try:
            records = self.zone(name, kind, before if over_udp else before - 1)
        except Silence:
            return None
        except Truncate:
            if over_udp:
                reply.flags |= dns.flags.TC
                return reply.to_wire()
            records = self.zone(name, kind, -1)
        if records is None:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        for line in records or ():
            owner, ttl, _, rdtype, rdata = line.split(maxsplit=4)
            reply.answer.append(dns.rrset.from_text(owner, int(ttl), "IN", rdtype, rdata))
        return reply.to_wire(max_size=65535)


class _Udp(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        wire, sock = self.request
        reply = self.server.dns.answer(wire, over_udp=True)  # type: ignore[attr-defined]
        if reply is not None:
            # a slow answer may find the server closed, as its asker has gone
            with suppress(OSError):
                sock.sendto(reply, self.client_address)


class _Tcp(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        (length,) = struct.unpack("!H", self.rfile.read(2))
        reply = self.server.dns.answer(self.rfile.read(length), over_udp=False)  # type: ignore[attr-defined]
        if reply is not None:
            self.wfile.write(struct.pack("!H", len(reply)) + reply)


def _one_port() -> tuple[Any, Any]:
    """Servers on a port that is free for UDP and for TCP: what is free for one may be taken for the other."""
    socketserver.ThreadingTCPServer.allow_reuse_address = True
    for _ in range(50):
        udp: Any = socketserver.ThreadingUDPServer(("127.0.0.1", 0), _Udp)
        try:
            return udp, socketserver.ThreadingTCPServer(udp.server_address, _Tcp)
        except OSError:
            udp.server_close()
    raise OSError("no port is free for UDP and TCP")


@contextmanager
def local_dns(zone: Zone) -> Iterator[LocalDns]:
    """A server for the length of a ``with``."""
    found = LocalDns(zone=zone)
    udp, tcp = _one_port()
    found.port = udp.server_address[1]
    for server in (udp, tcp):
        server.dns = found
        server.daemon_threads = True
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield found
    finally:
        for server in (udp, tcp):
            server.shutdown()
            server.server_close()
