"""Blobs appear whole or not at all, under their digest, readable by nobody else."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import pytest

from service.storage import Storage


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """An empty store."""
    return Storage(tmp_path / "storage")


def everything(storage: Storage) -> list[Path]:
    """All files below the root."""
    return [path for path in storage.root.rglob("*") if path.is_file()]


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    """A stream of these."""
    for part in parts:
        yield part


async def test_a_stream_is_kept_under_its_digest(storage: Storage) -> None:
    digest, size = await storage.put_stream(chunks(b"ab", b"", b"c"))
    assert (digest, size) == (sha256(b"abc").hexdigest(), 3)
    assert storage.path(digest).read_bytes() == b"abc"
    assert everything(storage) == [storage.path(digest)]


async def test_a_broken_stream_leaves_nothing(storage: Storage) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * (3 << 20)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await storage.put_stream(broken())
    assert everything(storage) == []


async def test_the_same_bytes_are_stored_once(storage: Storage) -> None:
    kept = await asyncio.gather(*(storage.put_stream(chunks(b"same")) for _ in range(8)))
    assert len(set(kept)) == 1
    assert len(everything(storage)) == 1


def test_others_can_not_read(storage: Storage) -> None:
    digest, _ = storage.put_bytes(b"secret data")
    assert stat.S_IMODE(storage.path(digest).stat().st_mode) == 0o600
    for folder in (storage.root, storage.blobs_dir, storage.path(digest).parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_remove(storage: Storage) -> None:
    digest, _ = storage.put_bytes(b"x")
    assert storage.remove(digest) is True
    assert storage.remove(digest) is False
    assert everything(storage) == []


@pytest.mark.parametrize("name", ["", "..", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 64 + "\n"])
def test_only_a_digest_names_a_blob(storage: Storage, name: str) -> None:
    with pytest.raises(ValueError, match="SHA-256"):
        storage.path(name)


@pytest.mark.parametrize("name", ["", "..", "a/b", "/etc", ".hidden", "a" * 200])
def test_only_an_id_names_an_adapter_folder(storage: Storage, name: str) -> None:
    with pytest.raises(ValueError, match="job id"):
        storage.adapter_dir(name, 1)


def test_adapter_folders_are_apart_for_each_run(storage: Storage) -> None:
    folder = storage.adapter_dir("ftjob-abc", 2)
    assert folder == storage.adapters_dir / "ftjob-abc" / "2"
    assert not folder.exists()


def test_what_a_dead_process_left_is_swept_and_what_is_fresh_is_not(storage: Storage) -> None:
    old, fresh = storage.incoming_dir / "upload-old", storage.incoming_dir / "upload-fresh"
    for path in (old, fresh):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    assert storage.sweep_incoming() == 1
    assert everything(storage) == [fresh]
