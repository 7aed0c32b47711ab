"""Making a data folder from a backup: beside its place, then renamed, so that it is whole or not there."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from cli.backup import archive, sealing
from cli.backup.archive import DUMP, Reader
from cli.backup.taking import CREDENTIALS, Progress, only_postgres, run
from cli.errors import CliError, UsageMistake
from cli.files import settle
from cli.stack import postgres
from cli.stack.home import Home, prepare
from cli.stack.stack import Stack

NEEDED_KEYS = ("kek", "log-key")
"""Without the first no watermark secret opens; without the second nobody can continue the log."""
_NAME = re.compile(r"[a-z][a-z0-9.-]{0,63}")


class RestoreFailed(CliError):
    """Nothing was restored, and nothing is left of the attempt."""

    code = "restore_failed"


def restore(
    source: Path, home: Home, *, passphrase: bytes | None, keys_folder: Path | None, progress: Progress
) -> archive.Manifest:
    """Fill an empty or new data folder. `keys_folder` holds the keys that were kept apart.

    Raises:
        UsageMistake: the folder has something in it, or a passphrase or keys are missing.
        WrongPassphrase, ArchiveDamaged, RestoreFailed: and nothing is left behind.
    """
    if home.root.exists() and (not home.root.is_dir() or any(home.root.iterdir())):
        raise UsageMistake(f"{home.root} is not empty: name an empty or new folder with --home")
    home.root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    building = Home(root=home.root.with_name(f".{home.root.name}.restoring-{secrets.token_hex(4)}"))
    try:
        with archive.reading(source) as reader:
            keys = _keys(reader, passphrase, keys_folder)
            prepare(building)
            _put_keys(building, keys)
            reader.extract(
                lambda name: building.root / name, progress("unpacking", reader.manifest.size_bytes)
            )
            manifest = reader.manifest
        progress("restoring the database", 0)
        _load(building)
        for leftover in (building.root / DUMP, building.state_file):
            leftover.unlink(missing_ok=True)
        _sync(building.storage)
        os.rename(building.root, home.root)
    except BaseException:
        shutil.rmtree(building.root, ignore_errors=True)
        raise
    settle(home.root.parent)
    return manifest


def _keys(reader: Reader, passphrase: bytes | None, folder: Path | None) -> Mapping[str, bytes]:
    if reader.keys is not None:
        if passphrase is None:
            raise UsageMistake(
                f"the backup's keys are sealed: name its passphrase with --passphrase-file, or in"
                f" ${sealing.PASSPHRASE_VARIABLE}"
            )
        keys = sealing.unseal(reader.keys, passphrase, reader.manifest_bytes)
    elif folder is None:
        raise UsageMistake("the backup has no keys: name the folder where you keep them with --keys")
    else:
        keys = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    for name in NEEDED_KEYS:
        if name not in keys:
            raise UsageMistake(f"the key file {name} is missing")
    return {name: value for name, value in keys.items() if _NAME.fullmatch(name)}


def _put_keys(home: Home, keys: Mapping[str, bytes]) -> None:
    for name, value in keys.items():
        path = home.credentials_file if name == CREDENTIALS else home.secrets / name
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(value)
            file.flush()
            os.fsync(file.fileno())


def _load(home: Home) -> None:
    with Stack(home, plan=only_postgres) as stack:
        command = [
            str(postgres.binary("pg_restore")), "--host", str(stack.state.socket_dir),
            "--username", postgres.SUPERUSER, "--dbname", postgres.DATABASE, "--no-owner",
            "--single-transaction", "--exit-on-error", str(home.root / DUMP),
        ]  # fmt: skip
        run(command, failure=RestoreFailed, what="the database can't be restored")


def _sync(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
