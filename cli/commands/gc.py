"""doublei gc."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Annotated

import typer

from cli.commands.stack import HomeOption
from cli.errors import NotRunning, StackError
from cli.stack import state
from cli.stack.home import locate
from cli.stack.plan import service_environment
from cli.stack.running import is_running


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(gc)


def gc(
    home: HomeOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run/--delete", help="Only say what would go, or remove it.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: one JSON object.")] = False,
) -> None:
    """Remove what nobody will need again: checkpoints of ended jobs, leavings of lost runs, unused datasets.

    Nothing that a model, a file or an unfinished job needs is touched, and it may run while jobs do. Works on
    the stack that runs in the data folder; where DATABASE_URL is set, on the deployment that the environment
    describes.

    Examples:  doublei gc   |   doublei gc --delete   |   doublei gc --json
    """
    place = locate(home)
    current = state.read(place)
    if current is not None and is_running(place, current):
        environment = service_environment(place, current.ports, current.socket_dir)
    elif home is None and os.environ.get("DATABASE_URL"):
        environment = dict(os.environ)
    else:
        raise NotRunning(f"no stack runs in {place.root}; start it with doublei up, or set DATABASE_URL")
    command = [sys.executable, "-P", "-m", "service.gc"]
    command += ([] if dry_run else ["--delete"]) + (["--json"] if as_json else [])
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise StackError((ended.stderr.strip().splitlines() or ["it ended without a word"])[-1])
    typer.echo(ended.stdout, nl=False)
