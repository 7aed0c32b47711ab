"""A listener on loopback in front of a real model: it counts who connects, and passes every byte on."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Listener:
    """What reached it. ``delay_seconds`` holds back each piece that a client sends."""

    host: str
    port: int
    connections: int = 0
    pieces: int = 0
    """how many pieces of bytes clients sent: grows with every question, also on a kept connection"""
    delay_seconds: float = 0.0
    _server: socket.socket = field(repr=False)
    _upstream_port: int = 0

    @classmethod
    def open(cls, host: str = "127.0.0.1", port: int = 0) -> Listener:
        """Listen; connections wait until `serve` says where to."""
        server = socket.create_server((host, port), backlog=64)
        return cls(host=host, port=int(server.getsockname()[1]), _server=server)

    @property
    def host_port(self) -> str:
        """As grants and the operator's setting write it."""
        return f"{self.host}:{self.port}"

    @property
    def base_url(self) -> str:
        """As a suspect's."""
        return f"http://{self.host_port}/v1"

    def serve(self, upstream_port: int) -> None:
        """Pass everything on to this port of 127.0.0.1, from now on."""
        self._upstream_port = upstream_port
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        self._server.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                self.connections += 1
                upstream = socket.create_connection(("127.0.0.1", self._upstream_port))
                for source, sink, counted in ((client, upstream, True), (upstream, client, False)):
                    threading.Thread(target=self._pass_on, args=(source, sink, counted), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                if counted:
                    self.pieces += 1
                    time.sleep(self.delay_seconds)
                sink.sendall(piece)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
