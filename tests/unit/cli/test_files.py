"""Files that are whole or absent."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from cli.files import create_private, write_private


def test_a_new_file_is_private_and_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "key"
    create_private(path, b"first")
    with pytest.raises(FileExistsError):
        create_private(path, b"second")
    assert path.read_bytes() == b"first"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["key"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError("disk full")

    write_private(tmp_path / "old", "as it was")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        create_private(tmp_path / "new", b"x")
    with pytest.raises(OSError, match="disk full"):
        write_private(tmp_path / "old", "x")
    assert os.listdir(tmp_path) == ["old"]
    assert (tmp_path / "old").read_text() == "as it was"
