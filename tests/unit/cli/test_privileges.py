"""Postgres never runs as root, and runs all the same when we are root."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from cli.errors import StackError
from cli.stack import postgres
from cli.stack.privileges import Privileges, postgres_privileges

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to step down")


@pytest.fixture
def server() -> Path:
    """The program that refuses to run as root."""
    return postgres.binary("postgres")


@pytest.mark.skipif(os.geteuid() == 0, reason="root has to step down")
def test_an_ordinary_user_runs_it_directly(server: Path, tmp_path: Path) -> None:
    """No prefix, no change of owner."""
    assert postgres_privileges(binary=server, data_parent=tmp_path) == Privileges()


@needs_root
def test_root_appears_as_somebody_else(server: Path, tmp_path: Path) -> None:
    """Whatever way was found, the program behind it is not root."""
    privileges = postgres_privileges(binary=server, data_parent=tmp_path)
    user = subprocess.run((*privileges.prefix, "id", "-u"), capture_output=True, text=True, check=True).stdout
    assert int(user) != 0


@needs_root
def test_no_way_is_one_clear_line(server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the programs that step down there is a message that says what to do."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(StackError, match="run as an ordinary user"):
        postgres_privileges(binary=server, data_parent=tmp_path)
