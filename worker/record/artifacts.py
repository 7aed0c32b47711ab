"""A run's folder, and moving what it made into storage so that it is there whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.storage import RUNS_FOLDER, Storage
from worker.errors import RunFailed

REQUIRED = ("adapter_config.json", "adapter_model.safetensors")


@contextmanager
def run_folder(storage: Storage, job_id: str, epoch: int) -> Iterator[Path]:
    """An empty folder that only this user can read, removed at the end, and those of earlier runs now.

    It lies on storage's own file system, so that artifacts move by a rename.
    """
    runs = storage.root / RUNS_FOLDER
    runs.mkdir(mode=0o700, exist_ok=True)
    storage.remove_working_folders(job_id)
    folder = runs / f"{job_id}.{epoch}"
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def keep(storage: Storage, target: Path, output: Path) -> tuple[str, dict[str, str]]:
    """Make the files of `output` durable as `target`, a folder of one of the job's adapters.

    Returns that folder relative to the storage and each file's SHA-256.

    Raises:
        RunFailed: the trainer did not leave an adapter.
    """
    if missing := [name for name in REQUIRED if not (output / name).is_file()]:
        raise RunFailed("incomplete_artifacts", f"{missing[0]} is missing")
    manifest = {path.name: _synced_sha256(path) for path in sorted(output.iterdir()) if path.is_file()}
    target.parent.mkdir(mode=0o700, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    _sync_folder(output)
    output.rename(target)
    _sync_folder(target.parent)
    _sync_folder(storage.adapters_dir)
    return str(target.relative_to(storage.root)), manifest


def discard(storage: Storage, job_id: str, epoch: int) -> None:
    """Remove an adapter that was not published after all."""
    shutil.rmtree(storage.adapter_dir(job_id, epoch), ignore_errors=True)


def _synced_sha256(path: Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
