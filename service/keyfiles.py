"""Writing the files that hold keys: whole or not at all, durable, and closed to other users at any moment."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import mkstemp


def replace_private(path: Path, text: str) -> None:
    """Replace ``path``, or what it links to, by ``text``; a reader sees the old file or the new one.

    Raises:
        OSError: it can't be written there; the old file is as it was.
    """
    target = path.resolve()
    descriptor, name = mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # A name is durable once its folder is.
        os.fsync(folder)
    finally:
        os.close(folder)
