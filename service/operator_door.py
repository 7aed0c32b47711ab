"""Where a process tells its operator how it is: metrics, and for a worker liveness and readiness.

A listener of its own, apart from what users reach. Metrics name queues, routes and outcomes, never a tenant,
a job, a model or a suspect. Without a token it listens on loopback addresses only.
"""

from __future__ import annotations

import hmac
import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from service.settings import Settings, SettingsError

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

log = structlog.get_logger(__name__)

READ_SECONDS = 5.0
"""For a request's head; nobody who has a use for this door is slow."""

Readiness = Callable[[], Mapping[str, str]]
"""Each part that is needed: "ok", or what is wrong with it."""


def open_door(
    settings: Settings, metrics: Collector, readiness: Readiness | None = None
) -> Callable[[], None]:
    """Listen at DOUBLEI_METRICS_ADDRESS, if it is set; returns what closes the door again.

    An address that is taken is an error line, not the end of the process: its work matters more.

    Raises:
        SettingsError: the address or the token can't be used.
    """
    address = settings.metrics_host_port
    if address is None:
        return lambda: None
    token = _token(settings.metrics_token_file)
    if token is None and not _is_loopback(address[0]):
        raise SettingsError(
            f"DOUBLEI_METRICS_ADDRESS: {address[0]} is not a loopback address; set DOUBLEI_METRICS_TOKEN_FILE"
        )
    try:
        server = _Server(address, _handler(metrics, readiness, token))
    except OSError as error:
        log.error("metrics.unavailable", port=address[1], error=error.strerror)
        return lambda: None
    threading.Thread(target=server.serve_forever, name="operator-door", daemon=True).start()

    def close() -> None:
        server.shutdown()
        server.server_close()

    return close


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 16


def _handler(
    metrics: Collector, readiness: Readiness | None, token: bytes | None
) -> type[BaseHTTPRequestHandler]:
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

    class Handler(BaseHTTPRequestHandler):
        timeout = READ_SECONDS
        server_version = "doublei"
        sys_version = ""

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            try:
                if path == "/metrics":
                    self._metrics()
                elif path == "/healthz":
                    self._say(200, {"status": "ok"})
                elif path == "/readyz" and readiness is not None:
                    self._ready(readiness())
                else:
                    self._say(404, {"status": "not found"})
            except OSError:
                self.close_connection = True
            except Exception as error:
                log.warning("metrics.failed", error=type(error).__name__)
                self._say(500, {"status": "failed"})

        def _metrics(self) -> None:
            if token is not None and not self._knows(token):
                self._say(401, {"status": "send the token of DOUBLEI_METRICS_TOKEN_FILE as a bearer token"})
                return
            self._send(200, CONTENT_TYPE_LATEST, generate_latest(metrics))

        def _knows(self, token: bytes) -> bool:
            given = self.headers.get("authorization", "").encode("latin-1", "replace")
            return hmac.compare_digest(given, b"Bearer " + token)

        def _ready(self, checks: Mapping[str, str]) -> None:
            ready = all(state == "ok" for state in checks.values())
            self._say(
                200 if ready else 503, {"status": "ready" if ready else "not ready", "checks": dict(checks)}
            )

        def _say(self, status: int, body: Mapping[str, Any]) -> None:
            self._send(status, "application/json", json.dumps(body).encode())

        def _send(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Every scrape would be a line."""

    return Handler


def _token(file: Path | None) -> bytes | None:
    if file is None:
        return None
    try:
        token = file.read_bytes().strip()
    except OSError as error:
        raise SettingsError(f"DOUBLEI_METRICS_TOKEN_FILE: {type(error).__name__}") from None
    if len(token) < 16:
        raise SettingsError("DOUBLEI_METRICS_TOKEN_FILE: a token has 16 characters or more")
    return token


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
