"""Files on disk: content-addressed blobs for datasets, folders for adapters and for checkpoints.

A blob appears under its SHA-256 only when complete: it is written aside, synced, renamed, and its folder
synced. Nothing below the root is readable by other users.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import mkstemp
from types import TracebackType
from typing import BinaryIO, Self

_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")

RUNS_FOLDER = "runs"
"""Of the root: working folders of runs, each named `<job>.<epoch>`."""

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""System errors that mean: the disk, the account's quota or the process's file-size limit is exhausted."""

STALE_SECONDS = 24 * 3600
"""An unfinished upload older than this was left by a process that died."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """Stored bytes: their SHA-256 (hex) and their number."""

    sha256: str
    size_bytes: int


class Incoming:
    """Bytes on their way in. Leaving the context without `keep` removes them."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        descriptor, name = mkstemp(prefix="upload-", dir=storage.incoming_dir)
        self._file: BinaryIO = os.fdopen(descriptor, "wb", buffering=1 << 20)
        self._digest = sha256()
        self.path = Path(name)
        self.size_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._file.close()
        self.path.unlink(missing_ok=True)

    def write(self, data: bytes) -> None:
        """Append. Blocking, though usually only into a buffer of 1 MiB."""
        self._file.write(data)
        self._digest.update(data)
        self.size_bytes += len(data)

    def flush(self) -> None:
        """Make everything written so far readable at `path`."""
        self._file.flush()

    def sync(self) -> None:
        """Wait until everything written so far is on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def blob(self) -> Blob:
        """What these bytes are called once kept."""
        return Blob(sha256=self._digest.hexdigest(), size_bytes=self.size_bytes)

    def keep(self) -> Blob:
        """Make it durable under its digest. Idempotent: the same bytes are stored once."""
        blob = self.blob()
        target = self._storage.path(blob.sha256)
        if not target.exists():
            self.sync()
            target.parent.mkdir(mode=0o700, exist_ok=True)
            os.replace(self.path, target)
            _sync_folder(target.parent)
            _sync_folder(target.parent.parent)
        return blob


class Storage:
    """The storage folder."""

    def __init__(self, root: Path) -> None:
        """Creates what is missing below ``root``, with mode 0700."""
        self.root = root
        self.blobs_dir = root / "blobs"
        self.incoming_dir = root / "incoming"
        self.adapters_dir = root / "adapters"
        self.checkpoints_dir = root / "checkpoints"
        for folder in (root, self.blobs_dir, self.incoming_dir, self.adapters_dir, self.checkpoints_dir):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        """Where the blob of this SHA-256 lies, or would lie.

        Raises:
            ValueError: not a lower-case hex SHA-256.
        """
        if not _SHA256.fullmatch(digest):
            raise ValueError("not a SHA-256")
        return self.blobs_dir / digest[:2] / digest

    def adapter_dir(self, job_id: str, epoch: int) -> Path:
        """The folder of the adapter that run ``epoch`` of a job writes. Not created here.

        Raises:
            ValueError: the job id could name another folder.
        """
        return self.adapters_dir / self._run(job_id, epoch)

    def checkpoint_adapter_dir(self, job_id: str, epoch: int, step: int) -> Path:
        """The same of the adapter as that run had it after `step` steps.

        Raises:
            ValueError: the job id could name another folder.
        """
        return self.adapters_dir / f"{self._run(job_id, epoch)}-{step}"

    def states_dir(self, job_id: str, epoch: int) -> Path:
        """Where that run leaves what a later one can go on from. Not created here.

        Raises:
            ValueError: the job id could name another folder.
        """
        return self.checkpoints_dir / self._run(job_id, epoch)

    def remove_runs(self, job_id: str) -> None:
        """Remove all that runs of a job left: its adapters, its checkpoints, its working folders.

        Raises:
            ValueError: the job id could name another folder.
        """
        for folder in (self.adapters_dir, self.checkpoints_dir):
            shutil.rmtree((folder / self._run(job_id, 0)).parent, ignore_errors=True)
        self.remove_working_folders(job_id)

    def remove_working_folders(self, job_id: str) -> None:
        """Remove the folders in which runs of a job worked."""
        for run in (self.root / RUNS_FOLDER).glob(f"{job_id}.*"):
            shutil.rmtree(run, ignore_errors=True)

    @staticmethod
    def _run(job_id: str, epoch: int) -> Path:
        if not _NAME.fullmatch(job_id) or epoch < 0:
            raise ValueError("not a job id and run number")
        return Path(job_id) / str(epoch)

    def incoming(self) -> Incoming:
        """A place to write an upload to."""
        return Incoming(self)

    async def put_stream(self, chunks: AsyncIterator[bytes]) -> tuple[str, int]:
        """Store a stream; returns its SHA-256 and its size in bytes. Nothing is left of a broken one."""
        with self.incoming() as incoming:
            async for chunk in chunks:
                await asyncio.to_thread(incoming.write, chunk)
            blob = await asyncio.to_thread(incoming.keep)
        return blob.sha256, blob.size_bytes

    def put_bytes(self, data: bytes) -> tuple[str, int]:
        """Store bytes that are already in memory."""
        with self.incoming() as incoming:
            incoming.write(data)
            blob = incoming.keep()
        return blob.sha256, blob.size_bytes

    def remove(self, digest: str) -> bool:
        """Delete a blob; false if there was none. The caller knows that nothing refers to it."""
        target = self.path(digest)
        try:
            target.unlink()
        except FileNotFoundError:
            return False
        _sync_folder(target.parent)
        return True

    def stale_incoming(self, *, older_than_seconds: float = STALE_SECONDS) -> Iterator[Path]:
        """Uploads that a dead process left behind."""
        for path in list(_files(self.incoming_dir)):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > older_than_seconds:
                    yield path

    def sweep_incoming(self, *, older_than_seconds: float = STALE_SECONDS) -> int:
        """Remove them; returns how many."""
        removed = 0
        for path in self.stale_incoming(older_than_seconds=older_than_seconds):
            with suppress(FileNotFoundError):
                path.unlink()
                removed += 1
        return removed


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if path.is_file())


@contextmanager
def _folder(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    with _folder(path) as descriptor:
        os.fsync(descriptor)


def entries(folder: Path) -> list[Path]:
    """What is in a folder, by name; nothing where there is none."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
