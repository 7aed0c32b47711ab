"""Taking a backup while the service runs.

The database is dumped from one snapshot. A stored file never changes, and is there before the row that names
it; so a link to each file is made before the snapshot, and to the new ones after it: what the snapshot names
is among them, unless it was made and deleted in between. That is looked at, and then all is done again.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from cli.backup import archive, sealing
from cli.backup.archive import DUMP, STORAGE, Manifest
from cli.errors import CliError, UsageMistake
from cli.files import settle
from cli.stack import postgres, state
from cli.stack.home import Home
from cli.stack.plan import ChildSpec, Site, stores
from cli.stack.running import is_running
from cli.stack.stack import Stack

PASSING = frozenset({"incoming", "runs"})
"""Folders of the storage whose files belong to requests and runs under way; nothing on record names them."""
ATTEMPTS = 3
LOCK_WAIT = "60s"
CREDENTIALS = "credentials.json"

Progress = Callable[[str, int], archive.Advance]
"""Told what is done now and how many bytes of it there are; hears of the bytes done."""


class BackupFailed(CliError):
    """No backup was made."""

    code = "backup_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A backup that lies complete at its place."""

    files: int
    size_bytes: int
    schema: str


def take(home: Home, target: Path, passphrase: bytes | None, progress: Progress) -> Taken:
    """Write the archive; it appears under its name when it is complete and on the disk.

    Without a passphrase the keys are left out.

    Raises:
        UsageMistake: there is no data, or something is at `target`.
        BackupFailed: the database can't be dumped.
    """
    if not postgres.is_initialised(home.postgres):
        raise UsageMistake(f"{home.root} holds no data of a service: name its folder with --home")
    if target.exists():
        raise UsageMistake(f"{target} exists: name another file")
    if not target.parent.is_dir():
        raise UsageMistake(f"{target.parent} is no folder")
    staging = home.root / f"backup.{secrets.token_hex(4)}"
    staging.mkdir(mode=0o700)
    try:
        with _sockets(home) as socket_dir:
            schema = _snapshot(home, socket_dir, staging, progress)
        return _write(home, staging, target, passphrase, schema, progress)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _sockets(home: Home) -> Iterator[Path]:
    """Where the database answers; it is started for the time being if no stack runs."""
    current = state.read(home)
    if current is not None and is_running(home, current):
        yield current.socket_dir
        return
    with Stack(home, plan=only_postgres) as stack:
        yield stack.state.socket_dir


def only_postgres(site: Site) -> tuple[ChildSpec, ...]:
    """A stack of nothing but the database."""
    return tuple(spec for spec in stores(site) if spec.name in ("cluster", "postgres"))


def _snapshot(home: Home, socket_dir: Path, staging: Path, progress: Progress) -> str:
    """The dump and links to the files that it names; returns the schema's revision."""
    for _ in range(ATTEMPTS):
        _link_all(home.storage, staging / STORAGE)
        with psycopg.connect(
            host=str(socket_dir), user=postgres.SUPERUSER, dbname=postgres.DATABASE
        ) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            snapshot, schema = connection.execute(
                "SELECT pg_export_snapshot(), (SELECT version_num FROM alembic_version)"
            ).fetchone() or ("", "")
            progress("dumping the database", 0)
            _dump(socket_dir, str(snapshot), staging / DUMP)
            named = [
                *(f"blobs/{row[0][:2]}/{row[0]}" for row in connection.execute(
                    "SELECT DISTINCT sha256 FROM files WHERE deleted_at IS NULL"
                )),
                *(str(row[0]) for row in connection.execute(
                    "SELECT adapter_path FROM models WHERE deleted_at IS NULL"
                )),
            ]  # fmt: skip
        _link_all(home.storage, staging / STORAGE)
        if all((staging / STORAGE / name).exists() for name in named):
            return str(schema)
    raise BackupFailed("a file that the database names is missing in the storage: see 'doublei status'")


def _dump(socket_dir: Path, snapshot: str, target: Path) -> None:
    target.unlink(missing_ok=True)
    command = [
        str(postgres.binary("pg_dump")), "--host", str(socket_dir), "--username", postgres.SUPERUSER,
        "--format", "custom", "--no-owner", "--no-privileges", "--snapshot", snapshot,
        "--lock-wait-timeout", LOCK_WAIT, "--file", str(target), postgres.DATABASE,
    ]  # fmt: skip
    run(command, failure=BackupFailed, what="the database can't be dumped")


def run(command: list[str], *, failure: type[CliError], what: str) -> None:
    """One of Postgres's programs, without the passphrase in its environment.

    Raises:
        CliError: of the kind given, with the program's last line.
    """
    environment = {name: value for name, value in os.environ.items() if name != sealing.PASSPHRASE_VARIABLE}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment | {"LC_ALL": "C"}, check=False
    )
    if done.returncode != 0:
        words = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise failure(f"{what}: {words[-1][:300]}")


def _link_all(storage: Path, target: Path) -> None:
    for folder, folders, names in os.walk(storage):
        relative = Path(folder).relative_to(storage)
        if relative == Path():
            folders[:] = [name for name in folders if name not in PASSING]
        for name in names:
            copy = target / relative / name
            if copy.exists():
                continue
            copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # deleted meanwhile
                try:
                    os.link(Path(folder) / name, copy)
                except FileNotFoundError:
                    raise
                except OSError:  # the storage lies on another file system, or on one without links
                    shutil.copyfile(Path(folder) / name, copy)


def _write(
    home: Home, staging: Path, target: Path, passphrase: bytes | None, schema: str, progress: Progress
) -> Taken:
    paths = {
        path.relative_to(staging).as_posix(): path for path in sorted(staging.rglob("*")) if path.is_file()
    }
    total = sum(path.stat().st_size for path in paths.values())
    advance = progress("hashing", total)
    members = {name: archive.digest(path, advance) for name, path in paths.items()}
    manifest = Manifest(
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        schema=schema,
        has_keys=passphrase is not None,
        members=members,
    )
    keys = None
    if passphrase is not None:
        keys = sealing.seal(_keys(home), passphrase, manifest.to_bytes())
    building = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    descriptor = os.open(building, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            archive.write(file, manifest, keys, paths, progress("writing", total))
            file.flush()
            os.fsync(file.fileno())
        os.link(building, target)
    except FileExistsError:
        raise UsageMistake(f"{target} exists: name another file") from None
    except OSError as error:
        raise BackupFailed(f"{target} can't be written: {error.strerror}") from None
    finally:
        building.unlink(missing_ok=True)
    settle(target.parent)
    return Taken(files=len(members) - 1, size_bytes=target.stat().st_size, schema=schema)


def _keys(home: Home) -> dict[str, bytes]:
    keys = {path.name: path.read_bytes() for path in sorted(home.secrets.iterdir()) if path.is_file()}
    if home.credentials_file.exists():
        keys[CREDENTIALS] = home.credentials_file.read_bytes()
    return keys
