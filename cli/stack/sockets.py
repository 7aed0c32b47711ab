"""Short-lived folders for unix sockets, whose paths Linux limits to 107 bytes."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

PREFIX = "doublei-"
_LONGEST_PARENT = 60
"""Leaves room for our folder's name and ``/.s.PGSQL.5432``."""


def make_socket_dir() -> Path:
    """A fresh folder that only this user can enter."""
    parent = tempfile.gettempdir()
    if len(os.fsencode(parent)) > _LONGEST_PARENT:
        parent = "/tmp"
    return Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))


def remove_socket_dir(path: Path) -> None:
    """Delete a folder made by ``make_socket_dir``; anything else, or another user's, is left alone."""
    try:
        ours = path.name.startswith(PREFIX) and path.lstat().st_uid in (os.geteuid(), _nobody())
    except OSError:
        return
    if ours and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)


def _nobody() -> int:
    """The folder is given to ``nobody`` where Postgres runs as that user."""
    return 65534 if os.geteuid() == 0 else os.geteuid()
