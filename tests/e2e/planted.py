"""Secrets planted to be looked for, and the places of a running stack where none may be."""

from __future__ import annotations

import base64
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import redis
from psycopg import sql

from cli.stack import postgres, valkey
from cli.stack.home import Home
from cli.stack.processes import marked
from cli.stack.state import State
from cli.stack.state import read as read_state

CHUNK = 1 << 22
DATABASES_OF_VALKEY = 16
MIN_NEEDLE_BYTES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """A secret by name, in every form in which it might be written down."""

    name: str
    forms: frozenset[bytes] = field(repr=False)

    @classmethod
    def of_bytes(cls, name: str, secret: bytes) -> Canary:
        """Raw bytes: as they are, in hex, in base64 of both alphabets, and as Python prints them."""
        return cls(
            name=name,
            forms=frozenset(
                {
                    secret,
                    secret.hex().encode(),
                    secret.hex().upper().encode(),
                    base64.b64encode(secret).rstrip(b"="),
                    base64.urlsafe_b64encode(secret).rstrip(b"="),
                    repr(secret)[2:-1].encode(),
                }
            ),
        )

    @classmethod
    def of_text(cls, name: str, secret: str) -> Canary:
        """A text: as it is, and as bytes might be written down."""
        assert len(secret) >= MIN_NEEDLE_BYTES
        raw = secret.encode()
        return cls(
            name=name,
            forms=frozenset({raw, raw.hex().encode(), base64.b64encode(raw).rstrip(b"=")}),
        )


def found_in(pieces: Iterator[tuple[str, bytes]], canaries: list[Canary]) -> list[str]:
    """Which canary is where, as "place: name"; never the secret itself."""
    hits = []
    for place, data in pieces:
        hits += [
            f"{place}: {canary.name}" for canary in canaries if any(form in data for form in canary.forms)
        ]
    return hits


def files(folder: Path, *, but: tuple[Path, ...] = ()) -> Iterator[tuple[str, bytes]]:
    """Every file below a folder, its path included in what is looked at; pieces overlap."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if Path(parent, name) not in but]
        for name in names:
            path = Path(parent, name)
            if path in but or path.is_symlink() or not path.is_file():
                continue
            yield str(path), os.fsencode(path)
            yield from _pieces(path)


def _pieces(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with path.open("rb") as stream:
            tail = b""
            while chunk := stream.read(CHUNK):
                yield str(path), tail + chunk
                tail = chunk[-256:]
    except FileNotFoundError:
        return  # a server removed it meanwhile


def state_of(home: Path) -> State:
    """What the supervisor says of itself."""
    state = read_state(Home(root=home))
    assert state is not None
    return state


def database(state: State) -> Iterator[tuple[str, bytes]]:
    """Every value of every table, as the database's superuser reads it; bytea as bytes."""
    with psycopg.connect(
        host=str(state.socket_dir), user=postgres.SUPERUSER, dbname=postgres.DATABASE
    ) as connection:
        tables = connection.execute(
            "SELECT schemaname, tablename FROM pg_tables"
            " WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 2"
        ).fetchall()
        assert len(tables) >= 15
        for schema, table in tables:
            rows = connection.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(schema, table)))
            columns = [column.name for column in rows.description or ()]
            for row in rows:
                for column, value in zip(columns, row, strict=True):
                    yield f"{table}.{column}", _as_bytes(value)
        activity = connection.execute("SELECT query FROM pg_stat_activity").fetchall()
        yield "pg_stat_activity", b"\n".join(_as_bytes(row[0]) for row in activity)


def _as_bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False).encode()
    return str(value).encode()


def queue(state: State) -> Iterator[tuple[str, bytes]]:
    """Every key of every database of the queue, over its protocol."""
    for number in range(DATABASES_OF_VALKEY):
        path = str(state.socket_dir / valkey.SOCKET_NAME)
        with redis.Redis(unix_socket_path=path, db=number) as client:
            for key in client.scan_iter():
                yield f"queue {number}", bytes(key)
                yield f"queue {number} {key!r}", repr(_value(client, key)).encode()


def _value(client: Any, key: bytes) -> object:
    match client.type(key):
        case b"string":
            return client.get(key)
        case b"list":
            return client.lrange(key, 0, -1)
        case b"set":
            return client.smembers(key)
        case b"zset":
            return client.zrange(key, 0, -1)
        case b"hash":
            return client.hgetall(key)
        case kind:
            raise AssertionError(f"a key of the unexpected type {kind!r}")


def processes(state: State) -> Iterator[tuple[str, bytes]]:
    """Command line and environment of every process of the stack, as the kernel shows them."""
    for process in marked(state.stack_id):
        for name in ("cmdline", "environ"):
            try:
                yield f"{process.pid}/{name}", Path(f"/proc/{process.pid}/{name}").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue


def temporary(state: State, since: float) -> Iterator[tuple[str, bytes]]:
    """What was written to the folders for temporary files since then, and the folder of the sockets."""
    yield from files(state.socket_dir)
    for folder in (Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp"), Path("/dev/shm")):
        for path in folder.iterdir() if folder.is_dir() else ():
            try:
                fresh = path.is_file() and not path.is_symlink() and path.stat().st_mtime >= since
            except OSError:
                continue
            if fresh and os.access(path, os.R_OK):
                yield from _pieces(path)
