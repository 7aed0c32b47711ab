"""Small files that are either whole or absent, whenever the writer is interrupted."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_private(path: Path, text: str) -> None:
    """Replace ``path`` by ``text``, readable by this user only; a reader never sees half of it."""
    building = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(building, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        building.replace(path)
    except BaseException:
        building.unlink(missing_ok=True)
        raise


def make_private_dir(path: Path) -> None:
    """Make the folder ``path`` if it is not there, and close it to other users either way."""
    path.mkdir(mode=0o700, exist_ok=True)
    path.chmod(0o700)
