"""The tar stream of an adapter."""

from __future__ import annotations

import io
import pickle
import tarfile
from hashlib import sha256
from pathlib import Path

import pytest

from service.models import archive


def make(folder: Path, files: dict[str, bytes]) -> dict[str, str]:
    """Write files; returns their manifest."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return {name: sha256(content).hexdigest() for name, content in files.items()}


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, archive.CHUNK_BYTES + 7])
def test_any_size_reads_back(tmp_path: Path, size: int) -> None:
    """Padding included: the standard library reads it, and finds the end."""
    manifest = make(tmp_path, {"b.bin": b"x" * size, "a.txt": b"a"})
    data = b"".join(archive.tar_chunks(tmp_path, manifest, root="model"))
    with tarfile.open(fileobj=io.BytesIO(data)) as read:
        assert read.getnames() == ["model/a.txt", "model/b.bin"]
        stream = read.extractfile("model/b.bin")
        assert stream is not None
        assert stream.read() == b"x" * size
    assert len(data) % 512 == 0


def test_files_outside_the_manifest_are_not_sent(tmp_path: Path) -> None:
    """Only what was published."""
    manifest = make(tmp_path, {"a": b"1"})
    (tmp_path / "secret").write_text("x")
    assert b"secret" not in b"".join(archive.tar_chunks(tmp_path, manifest, root="m"))


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    """Before anything is sent."""
    manifest = make(tmp_path, {"a": b"1", "b": b"2"})
    archive.check(tmp_path, manifest)
    if damage == "changed":
        (tmp_path / "b").write_bytes(b"3")
    else:
        (tmp_path / "b").unlink()
    with pytest.raises(archive.AdapterDamaged, match="b ") as raised:
        archive.check(tmp_path, manifest)
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)  # noqa: S301
