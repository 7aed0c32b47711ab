"""An adapter's files as one tar stream, checked against the manifest while they are sent."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from service.errors import ServiceError

CHUNK_BYTES = 1 << 20
_BLOCK_BYTES = tarfile.BLOCKSIZE
_END = b"\0" * (2 * _BLOCK_BYTES)


class AdapterDamaged(ServiceError):
    """A stored adapter is not what was published."""

    status = 500
    code = "adapter_damaged"
    type = "server_error"


def check(folder: Path, manifest: Mapping[str, str]) -> None:
    """Compare every file with its published SHA-256.

    Raises:
        AdapterDamaged: naming the first file that is missing or differs.
    """
    for name, expected in manifest.items():
        try:
            with (folder / name).open("rb") as file:
                actual = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            raise AdapterDamaged(f"the stored file {name} can't be read") from None
        if actual != expected:
            raise AdapterDamaged(f"the stored file {name} is not the published one")


def tar_chunks(folder: Path, manifest: Mapping[str, str], *, root: str) -> Iterator[bytes]:
    """The manifest's files under the folder name `root`, in pieces; the same bytes every time.

    Opens one file at a time and holds one piece in memory. Run `check` first: once bytes are on their way
    nothing can be taken back.
    """
    for name in sorted(manifest):
        path = folder / name
        info = tarfile.TarInfo(f"{root}/{name}")
        info.size = path.stat().st_size
        info.mode = 0o644
        yield info.tobuf(tarfile.PAX_FORMAT)
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
        yield b"\0" * (-info.size % _BLOCK_BYTES)
    yield _END
