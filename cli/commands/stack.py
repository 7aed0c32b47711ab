"""doublei up, status, down."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cli.commands.display import StartDisplay, show_addresses, show_children
from cli.errors import AlreadyRunning, NotRunning, StackError
from cli.stack import state
from cli.stack.home import Home, is_locked, locate, prepare
from cli.stack.ports import HOST
from cli.stack.running import is_running, read_credentials, stop_running
from cli.stack.stack import Interrupted, Stack
from cli.stack.state import Phase, State

HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home", help="Data folder. Default: $DOUBLEI_HOME, or .doublei in this folder.", metavar="DIR"
    ),
]
PortOption = Annotated[
    int | None,
    typer.Option("--port", help="The API's port. Default: 8000, or any free one.", min=1, max=65535),
]
_STOP_TIMEOUT_SECONDS = 120.0


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(up)
    app.command()(status)
    app.command()(down)


def up(
    home: HomeOption = None,
    port: PortOption = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when it is up.")] = False,
) -> None:
    """Start the whole stack and keep it running until Ctrl-C.

    Postgres, the queue, the API, the workers, model serving and the dashboard, on this machine, as this
    user. The first start downloads the default model's weights and shows the API keys once.

    Examples:  doublei up   |   doublei up --home ~/doublei --port 8010   |   doublei up --detach
    """
    place = locate(home)
    console = Console()
    if detach:
        _up_detached(console, place, port)
        return
    try:
        with StartDisplay(console) as display, Stack(place, port=port, on_event=display) as stack:
            credentials = stack.credentials if stack.first_start else None
            show_addresses(console, place, stack.state, credentials=credentials, stop="Ctrl-C")
            try:
                stack.wait()
            except Interrupted:
                # The usual way to end this command.
                console.print("stopping (once more to hurry)", highlight=False)
    finally:
        _farewell(console, place)


def status(
    home: HomeOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: one JSON object.")] = False,
) -> None:
    """Say whether a stack runs in the data folder, and how its processes are. Exit status 3: it does not.

    Examples:  doublei status   |   doublei status --json | jq .api_url
    """
    place = locate(home)
    current = state.read(place)
    running = current is not None and is_running(place, current)
    if as_json:
        print(json.dumps(_as_record(place, current, running=running)))
        raise typer.Exit(0 if running else NotRunning.exit_code)
    if current is None or not running:
        raise NotRunning(f"no stack runs in {place.root}; start one with: doublei up")
    console = Console()
    show_addresses(console, place, current, credentials=None, stop="doublei down")
    show_children(console, current)


def down(home: HomeOption = None) -> None:
    """Stop the stack of the data folder, in order, and wait until nothing of it runs. Data stays.

    Examples:  doublei down   |   doublei down --home ~/doublei
    """
    place = locate(home)
    if not stop_running(place, timeout_seconds=_STOP_TIMEOUT_SECONDS):
        raise NotRunning(f"no stack runs in {place.root}")
    print("stopped")


def _up_detached(console: Console, place: Home, port: int | None) -> None:
    if is_locked(place):
        raise AlreadyRunning(f"a stack already runs in {place.root}: see 'doublei status'")
    prepare(place)
    first_start = not place.credentials_file.exists()
    log = place.logs / "supervisor.log"
    command = [sys.executable, "-P", "-m", "cli", "up", "--home", str(place.root)]
    if port is not None:
        command += ["--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        with console.status("starting"):
            current = _await_ready(place, process, log)
    except BaseException:
        process.send_signal(signal.SIGTERM)
        process.wait()
        raise
    credentials = read_credentials(place) if first_start else None
    show_addresses(console, place, current, credentials=credentials, stop="doublei down")


def _await_ready(place: Home, process: subprocess.Popen[bytes], log: Path) -> State:
    while process.poll() is None:
        current = state.read(place)
        if current is not None and current.supervisor.pid == process.pid and current.phase is Phase.READY:
            return current
        time.sleep(0.1)
    lines = log.read_text(errors="replace").strip().splitlines() or ["no message"]
    raise StackError(f"the stack did not start: {lines[-1].removeprefix('doublei: ')} (log: {log})")


def _as_record(place: Home, current: State | None, *, running: bool) -> dict[str, object]:
    if current is None or not running:
        return {"running": False, "home": str(place.root), "phase": current.phase if current else None}
    return {
        "running": True,
        "home": str(place.root),
        "phase": current.phase,
        "api_url": current.api_url,
        "dashboard_url": current.dashboard_url,
        "metrics": {
            "token_file": str(place.metrics_token_file),
            "api": f"http://{HOST}:{current.ports.metrics_api}/metrics",
            "worker-train": f"http://{HOST}:{current.ports.metrics_train}/metrics",
            "worker-probe": f"http://{HOST}:{current.ports.metrics_probe}/metrics",
        },
        "pid": current.supervisor.pid,
        "children": {
            name: {
                "state": child.status,
                "pid": child.identity.pid if child.identity else None,
                "restarts": child.restarts,
            }
            for name, child in current.children.items()
        },
    }


def _farewell(console: Console, place: Home) -> None:
    current = state.read(place)
    if current is not None and current.supervisor.pid == os.getpid() and current.phase is Phase.STOPPED:
        console.print(f"stopped; the data stays in {place.root}", highlight=False, soft_wrap=True)
