"""Small files that are either whole or absent, whenever the writer is interrupted."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_private(path: Path, text: str) -> None:
    """Replace ``path`` by ``text``, readable by this user only; a reader never sees half of it."""
    with _whole_beside(path, text.encode()) as building:
        building.replace(path)
    settle(path.parent)


def create_private(path: Path, data: bytes) -> None:
    """Write a new file, readable by this user only; a reader never sees half of it.

    Raises:
        FileExistsError: there is something at ``path`` already, and it is left as it is.
    """
    with _whole_beside(path, data) as building:
        os.link(building, path)
    settle(path.parent)


def make_private_dir(path: Path) -> None:
    """Make the folder ``path`` if it is not there, and close it to other users either way."""
    path.mkdir(mode=0o700, exist_ok=True)
    path.chmod(0o700)


@contextmanager
def _whole_beside(path: Path, data: bytes) -> Iterator[Path]:
    """A complete file in the same folder under another name, gone afterwards if it is still there."""
    building = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(building, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield building
    finally:
        building.unlink(missing_ok=True)


def settle(folder: Path) -> None:
    """A name is durable once its folder is."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
