"""A service that plays back an audit over real HTTP, and remembers what it was sent."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar


def audit(status: str, *, asked: int = 0, **fields: Any) -> dict[str, Any]:
    """A verification object."""
    return {
        "id": "verif-1",
        "object": "verification",
        "status": status,
        "mode": "fixed",
        "progress": {"asked": asked, "total": 208},
        "looks": [],
        "verdict": None,
        "reasons": None,
        "result": None,
        "error": None,
        "preregistration": {"audit_index": 3, "alpha_i": "1/1000000"},
    } | fields


def looks(*products: str) -> list[dict[str, Any]]:
    """A sequential audit's looks."""
    return [
        {"look": number + 1, "mark": number, "e_value": "11.4", "product": product, "at": 1}
        for number, product in enumerate(products)
    ]


RESULT = {
    "p_value_decimal": "9.19e-08",
    "alpha_i_decimal": "6.08e-07",
    "trigger_hits": 12,
    "trigger_total": 12,
    "reference_hits": 0,
    "reference_total": 84,
}
DETECTED = audit("succeeded", asked=208, verdict="detected", reasons=[], result=RESULT)


class Service:
    """Answers GETs of the verification with the given states, one after the other; the last one stays."""

    def __init__(self, *states: dict[str, Any]) -> None:
        self.states = list(states)
        self.requests: list[tuple[str, str, dict[str, Any], str]] = []
        """method, path, body, Authorization"""
        self.url = ""

    def answer(self, method: str, path: str) -> tuple[int, bytes]:
        """Status and body."""
        if path.endswith(("/report", "/report.pdf")):
            return 200, b"%PDF-1.7" if path.endswith("pdf") else b"<!doctype html>"
        if "verif-unknown" in path:
            message = "No such verification: \x1b[31mverif-unknown"
            return 404, json.dumps({"error": {"message": message}}).encode()
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return 200, json.dumps(state).encode()


def serving(*states: dict[str, Any]) -> AbstractContextManager[Service]:
    """A service that plays these states, for as long as the block lasts."""
    return running(Service(*states))


Playing = TypeVar("Playing", bound=Service)


@contextmanager
def running(service: Playing) -> Iterator[Playing]:
    """The service, for as long as the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            sent = json.loads(body) if body else {}
            authorization = self.headers.get("authorization", "")
            service.requests.append((self.command, self.path, sent, authorization))
            status, content = service.answer(self.command, self.path)
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = _do

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    service.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield service
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
