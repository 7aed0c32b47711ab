"""Free ports: the usual ones if nobody has them, those of the last start again, and none twice.

Between choosing a port and the child's bind lie seconds. Stacks of one user keep off each other's choice
by a lock file per port, held for the supervisor's life.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import socket
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cli.errors import StackError, UsageMistake

HOST = "127.0.0.1"
PREFERRED_API = 8000
PREFERRED_DASHBOARD = 8001
# Below the range that Linux gives to outgoing connections (32768 and up), so that none takes ours
# while a child restarts.
_ANY = range(20_000, 32_000)
_ATTEMPTS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The stack's TCP ports, all on the loopback address."""

    api: int
    dashboard: int
    serving: int
    metrics_api: int = 0
    metrics_train: int = 0
    metrics_probe: int = 0
    """0 in the state that an older version has left."""


class PortClaims:
    """Ports this process has claimed; released together."""

    def __init__(self) -> None:
        self._held: dict[int, int] = {}
        self._folder = Path(tempfile.gettempdir()) / f"doublei-ports-{os.geteuid()}"

    def choose(self, *, api: int | None, remembered: Ports | None) -> Ports:
        """Claim one port for each server; ``api`` insists, everything else falls back to any free port.

        Raises:
            UsageMistake: the port asked for is taken.
            StackError: no free port.
        """
        if api is not None and not self._claim(api):
            raise UsageMistake(f"port {api} is taken: name another with --port, or leave it out")
        first_api = remembered.api if remembered else PREFERRED_API
        first_dashboard = remembered.dashboard if remembered else PREFERRED_DASHBOARD
        return Ports(
            api=api or self._first_free(first_api, PREFERRED_API),
            dashboard=self._first_free(first_dashboard, PREFERRED_DASHBOARD),
            serving=self._first_free(remembered.serving if remembered else 0),
            metrics_api=self._first_free(remembered.metrics_api if remembered else 0),
            metrics_train=self._first_free(remembered.metrics_train if remembered else 0),
            metrics_probe=self._first_free(remembered.metrics_probe if remembered else 0),
        )

    def release(self) -> None:
        """Let other stacks have them."""
        for descriptor in self._held.values():
            os.close(descriptor)
        self._held.clear()

    def _first_free(self, *preferred: int) -> int:
        for port in preferred:
            if port and self._claim(port):
                return port
        for port in random.SystemRandom().sample(_ANY, _ATTEMPTS):
            if self._claim(port):
                return port
        raise StackError(f"no free port between {_ANY.start} and {_ANY.stop - 1} on {HOST}")

    def _claim(self, port: int) -> bool:
        if port in self._held:
            return False
        descriptor = self._lock(port)
        if descriptor is None:
            return False
        if not _is_free(port):
            os.close(descriptor)
            return False
        self._held[port] = descriptor
        return True

    def _lock(self, port: int) -> int | None:
        with suppress(FileExistsError):
            self._folder.mkdir(mode=0o700)
        if self._folder.lstat().st_uid != os.geteuid():
            raise StackError(f"{self._folder} belongs to another user: set TMPDIR to a folder of your own")
        try:
            descriptor = os.open(self._folder / str(port), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StackError(f"can't use {self._folder}: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor


def _is_free(port: int) -> bool:
    # The way asyncio's servers bind: connections of a stack just stopped (TIME_WAIT) don't count.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except PermissionError:
            raise UsageMistake(f"port {port} is reserved for root: name one above 1023 with --port") from None
        except OverflowError:
            raise UsageMistake(f"{port} is not a port: name one between 1024 and 65535") from None
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise StackError(f"can't listen on {HOST}:{port}: {error.strerror}") from None
    return True
