"""The command line's manners: one line for a mistake, statuses for scripts, no key in a log."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from cli.commands.display import StartDisplay, show_addresses
from cli.errors import CliError
from cli.stack.events import EventKind, StackEvent
from cli.stack.home import Home
from cli.stack.ports import Ports
from cli.stack.processes import Identity
from cli.stack.running import Credential
from cli.stack.state import Phase, State


def _doublei(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("status",), 3, "no stack runs"),
        (("down",), 3, "no stack runs"),
        (("up", "--port", "1x"), 2, "--port"),
        (("sing",), 2, "sing"),
    ],
)
def test_mistakes(tmp_path: Path, arguments: tuple[str, ...], status: int, words: str) -> None:
    """Said on standard error, without a stack trace, with a status that a script can use."""
    home = () if arguments[0] == "sing" else ("--home", str(tmp_path / "home"))
    outcome = _doublei(*arguments, *home)
    assert outcome.returncode == status
    assert words in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert not (tmp_path / "home").exists()


def test_a_folder_with_other_things_is_one_line(tmp_path: Path) -> None:
    """And nothing is written there."""
    (tmp_path / "thesis.tex").touch()
    outcome = _doublei("up", "--home", str(tmp_path))
    assert outcome.returncode == 2
    assert outcome.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_status_for_programs(tmp_path: Path) -> None:
    """JSON also when nothing runs."""
    outcome = _doublei("status", "--json", "--home", str(tmp_path / "home"))
    assert outcome.returncode == 3
    assert json.loads(outcome.stdout)["running"] is False


@pytest.mark.parametrize("terminal", [True, False])
def test_keys_are_shown_on_a_terminal_only(tmp_path: Path, terminal: bool) -> None:
    """Output that goes to a file or a log names the credentials file and no key."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=200)
    current = State(
        stack_id="x",
        phase=Phase.READY,
        supervisor=Identity(pid=1, created=0.0),
        socket_dir=tmp_path,
        ports=Ports(api=8000, dashboard=8001, serving=8002),
    )
    keys = {"owner": Credential(organization="org-1", api_key="di_secret")}
    show_addresses(console, Home(root=tmp_path), current, credentials=keys, stop="Ctrl-C")
    assert ("di_secret" in out.getvalue()) is terminal
    assert "credentials.json" in out.getvalue()
    assert "di_secret" not in repr(keys)


def test_the_display_says_what_happened_line_by_line_without_a_terminal() -> None:
    """A log shows deaths and their reasons, without control characters."""
    out = io.StringIO()
    with StartDisplay(Console(file=out, force_terminal=False, width=200)) as display:
        display(StackEvent(kind=EventKind.STARTING, child="api"))
        display(StackEvent(kind=EventKind.DIED, child="api", text="exit status 1: [no] disk", seconds=0.5))
        display(StackEvent(kind=EventKind.READY, child="api", seconds=1.25))
        display(StackEvent(kind=EventKind.READY, child="stack"))
    assert out.getvalue() == "api stopped (exit status 1: [no] disk); again in 0.5 s\napi ready in 1.2 s\n"


def test_every_error_has_a_code_of_its_own() -> None:
    """A class without one can't even be written."""
    with pytest.raises(TypeError, match="needs a code"):
        type("Codeless", (CliError,), {})


def test_the_command_line_starts_without_heavy_imports() -> None:
    """No torch, and neither the service nor the worker: they are processes, not imports."""
    code = "import sys, cli.app; print(sorted({m.partition('.')[0] for m in sys.modules}))"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for heavy in ("'torch'", "'transformers'", "'service'", "'worker'", "'fastapi'", "'celery'"):
        assert heavy not in modules
