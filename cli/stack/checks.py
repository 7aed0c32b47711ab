"""Ways to see that a child is ready. Each answers at once or within about a second."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cli.stack.ports import HOST

_TIMEOUT_SECONDS = 1.0


class ReadyCheck(Protocol):
    """``started`` is when the child was started, in seconds since the epoch."""

    def is_ready(self, started: float) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Exits:
    """A one-shot: ready once it has ended well, which its supervisor sees by itself."""

    def is_ready(self, started: float) -> bool:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswersHttp:
    """GET ``path`` on a loopback port says 200."""

    port: int
    path: str

    def is_ready(self, started: float) -> bool:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=_TIMEOUT_SECONDS)
        try:
            connection.request("GET", self.path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswersSocket:
    """A server's own way of asking, behind a unix socket."""

    folder: Path
    ask: Callable[[Path], bool]

    def is_ready(self, started: float) -> bool:
        return self.ask(self.folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class TouchesFile:
    """The child writes ``path`` when it is ready; a file from before the start doesn't count."""

    path: Path

    def is_ready(self, started: float) -> bool:
        try:
            # File times come from a clock that ticks a few times in ten milliseconds.
            return self.path.stat().st_mtime >= started - 0.05
        except OSError:
            return False
