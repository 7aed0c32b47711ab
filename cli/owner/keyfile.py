"""An owner's key in one private file.

All of it is in one file on purpose: a salt left behind on another machine would give other marks than those
that were trained, and a count of audits left behind would spend the same share of alpha twice.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cli.errors import UsageMistake
from cli.files import create_private, write_private
from evidence.canonical import canonical_bytes, parse_canonical
from evidence.errors import EvidenceError
from evidence.keyfile import KeyFile, KeyFileInvalid, check_owner, now
from watermark.errors import WatermarkError
from watermark.keys import SECRET_BYTES, Design, Secret

MAX_FILE_BYTES = 16 * 1024 * 1024


def create(path: Path, owner: str, design: Design) -> KeyFile:
    """Draw a key and write it. Never over an existing file.

    Raises:
        UsageMistake: the owner's name can't be used, or the file can't be made.
    """
    try:
        check_owner(owner)
    except KeyFileInvalid as error:
        raise UsageMistake(f"--owner: {error}") from None
    key = KeyFile(
        owner=owner,
        secret=Secret(
            value=secrets.token_bytes(SECRET_BYTES),
            blinding=secrets.token_bytes(SECRET_BYTES),
        ),
        design=design,
        created_at=now(),
    )
    try:
        create_private(path, canonical_bytes(key.to_record()))
    except FileExistsError:
        raise UsageMistake(f"{path} exists already; a key is never written over another file") from None
    except OSError as error:
        raise UsageMistake(f"{path}: {error.strerror}") from None
    return key


def read(path: Path) -> KeyFile:
    """The key in a file.

    Raises:
        UsageMistake: there is none, other users may read it, or it is damaged.
    """
    try:
        with path.open("rb") as file:
            return _read(path, file)
    except OSError as error:
        raise UsageMistake(f"{path}: {error.strerror}") from None


def update(path: Path, change: Callable[[KeyFile], KeyFile]) -> KeyFile:
    """Replace the key in a file by what ``change`` makes of it; one process at a time, whole or not at all.

    Raises:
        UsageMistake: as `read`, or the file can't be written.
        Whatever ``change`` raises; the file is then as it was.
    """
    # a link stays a link: what it leads to is replaced
    place = path.resolve()
    try:
        with _locked(place) as file:
            changed = change(_read(path, file))
            write_private(place, canonical_bytes(changed.to_record()).decode())
            return changed
    except KeyFileInvalid as error:
        raise UsageMistake(str(error)) from None
    except OSError as error:
        raise UsageMistake(f"{path}: {error.strerror}") from None


def _read(path: Path, file: BinaryIO) -> KeyFile:
    if os.fstat(file.fileno()).st_mode & 0o077:
        raise UsageMistake(f"{path}: other users may read it; close it with: chmod 600 {path}")
    try:
        return KeyFile.from_record(parse_canonical(file.read(MAX_FILE_BYTES + 1)))
    except (EvidenceError, WatermarkError) as error:
        raise UsageMistake(f"{path} is no key, or is damaged: {error}") from None


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """The file, held against other processes. It gets replaced, so whoever has waited looks again."""
    while True:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                yield file
                return
