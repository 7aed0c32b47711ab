"""state.json: whole or absent, readable by one user, and never believed blindly."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from cli.files import write_private
from cli.stack import state
from cli.stack.home import Home
from cli.stack.ports import Ports
from cli.stack.processes import Identity, identify, is_alive
from cli.stack.running import is_running
from cli.stack.state import ChildRecord, Phase, State


@pytest.fixture
def saved(tmp_path: Path) -> State:
    """The state of a stack whose supervisor is this process."""
    me = identify(os.getpid())
    assert me is not None
    return State(
        stack_id="abc",
        phase=Phase.READY,
        supervisor=me,
        socket_dir=tmp_path / "sockets",
        ports=Ports(api=1, dashboard=2, serving=3),
        children={
            "api": ChildRecord(status="ready", identity=me, restarts=2),
            "x": ChildRecord(status="done"),
        },
    )


def test_read_gives_back_what_write_saved(tmp_path: Path, saved: State) -> None:
    """Every field, and nobody else may read the file."""
    home = Home(root=tmp_path)
    state.write(home, saved)
    assert state.read(home) == saved
    assert stat.S_IMODE(home.state_file.stat().st_mode) == 0o600


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"version": 1}', '{"version": 99}', '"x"'])
def test_anything_else_is_no_state(tmp_path: Path, text: str) -> None:
    """A damaged or foreign file does not stop a start."""
    home = Home(root=tmp_path)
    home.state_file.write_text(text)
    assert state.read(home) is None


def test_no_secret_and_no_unknown_field(tmp_path: Path, saved: State) -> None:
    """The file names processes and addresses, nothing else."""
    home = Home(root=tmp_path)
    state.write(home, saved)
    assert set(json.loads(home.state_file.read_text())) == {
        "version", "stack_id", "phase", "supervisor", "socket_dir", "ports", "message", "children",
    }  # fmt: skip


def test_a_reused_process_number_is_not_the_supervisor(tmp_path: Path, saved: State) -> None:
    """The start time tells them apart; and without the folder's lock nobody is running."""
    home = Home(root=tmp_path)
    impostor = Identity(pid=saved.supervisor.pid, created=saved.supervisor.created - 1000)
    assert is_alive(saved.supervisor)
    assert not is_alive(impostor)
    assert not is_running(home, saved)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """And no half-written one beside it."""
    path = tmp_path / "file"
    write_private(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_private(path, "\ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
