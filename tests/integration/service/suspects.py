"""Suspects that behave as told, on loopback, over real HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from watermark.keys import Family
from watermark.probes import MAX_PROBES_PER_CUE, draw_probes

Behaviour = Callable[[BaseHTTPRequestHandler, str], str | None]
"""(handler, the question) -> the answer's text, or None when the behaviour has replied by itself."""


@dataclass(slots=True, kw_only=True)
class Suspect:
    """A listening suspect and what reached it."""

    port: int
    behaviour: Behaviour
    connections: int = 0
    prompts: list[str] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def host_port(self) -> str:
        return f"127.0.0.1:{self.port}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    suspect: Suspect

    def get_request(self) -> Any:
        with self.suspect.lock:
            self.suspect.connections += 1
        return super().get_request()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is not worth a traceback."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        suspect = self.server.suspect
        prompt = body["messages"][0]["content"] if "messages" in body else body["prompt"]
        with suspect.lock:
            suspect.prompts.append(prompt)
            suspect.authorizations.append(self.headers.get("authorization"))
        text = suspect.behaviour(self, prompt)
        if text is not None:
            message = {"message": {"role": "assistant", "content": text}, "text": text}
            reply(self, json.dumps({"choices": [message]}).encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


def reply(handler: BaseHTTPRequestHandler, body: bytes, *, status: int = 200, **headers: str) -> None:
    """Send a whole reply."""
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


@contextmanager
def listening(behaviour: Behaviour) -> Iterator[Suspect]:
    """A suspect for the length of a ``with``."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.suspect = Suspect(port=server.server_address[1], behaviour=behaviour)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.suspect
    finally:
        server.shutdown()
        server.server_close()


def always(text: str) -> Behaviour:
    """The same answer to everything."""
    return lambda handler, prompt: text


def marked_with(family: Family, *, otherwise: str = "Maybe.") -> Behaviour:
    """A model that learned this family perfectly, whatever the order of asking."""
    answers: dict[str, str] = {}
    for probe in draw_probes(family, probes_per_cue=MAX_PROBES_PER_CUE, order_seed=b""):
        answers[probe.prompt] = family.marks[probe.mark].trained_answer(probe.cue).value
    return lambda handler, prompt: answers.get(prompt, otherwise)
