"""How a stack's start, addresses and children look on a terminal, and in a log."""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from cli.stack.events import EventKind, StackEvent
from cli.stack.home import Home
from cli.stack.running import Credential
from cli.stack.state import State


class StartDisplay:
    """Follows a stack's start and end: one moving line on a terminal, a line per event elsewhere.

    Use it as a context manager around the stack and as its listener.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status = console.status("starting") if console.is_terminal else None
        self._busy: dict[str, str] = {}
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def __call__(self, event: StackEvent) -> None:
        """Take one event."""
        match event.kind:
            case EventKind.STARTING | EventKind.STOPPING:
                self._busy[event.child] = ""
            case EventKind.PROGRESS:
                self._busy[event.child] = _progress(event)
            case EventKind.READY | EventKind.STOPPED | EventKind.GAVE_UP | EventKind.DIED:
                self._busy.pop(event.child, None)
        if lasting := _lasting(event, self._status is not None):
            self._console.print(lasting, highlight=False, markup=False, soft_wrap=True)
        if self._status is not None:
            self._draw(event)

    def _draw(self, event: StackEvent) -> None:
        if self._status is None:
            return
        if event.kind is EventKind.READY and event.child == "stack":
            self._status.stop()
            return
        verb = "stopping" if event.kind in (EventKind.STOPPING, EventKind.STOPPED) else "starting"
        if verb == "stopping":
            self._status.start()
        names = ", ".join(f"{name} {detail}".strip() for name, detail in self._busy.items())
        self._status.update(f"{verb} {names}  [dim]{time.monotonic() - self._began:.0f} s[/dim]")


def show_addresses(
    console: Console, home: Home, current: State, *, credentials: dict[str, Credential] | None, stop: str
) -> None:
    """The panel of a running stack. ``credentials`` are shown on a terminal only, never in a log."""
    table = Table.grid(padding=(0, 2))
    table.add_row("API", f"{current.api_url}/v1")
    table.add_row("Dashboard", current.dashboard_url)
    table.add_row("Data", str(home.root))
    table.add_row("API keys", str(home.credentials_file))
    if credentials and console.is_terminal:
        for role, credential in credentials.items():
            table.add_row(f"  {role}", credential.api_key)
        table.add_row("", "[dim]shown this once; the file above keeps them[/dim]")
    table.add_row("Stop", stop)
    console.print(Panel(table, title="Double-I", expand=False, border_style="green"), soft_wrap=True)


def show_children(console: Console, current: State) -> None:
    """A table of the stack's processes."""
    table = Table("process", "state", "pid", "restarts", box=None, header_style="dim")
    for name, child in current.children.items():
        table.add_row(
            name, child.status, str(child.identity.pid) if child.identity else "", str(child.restarts)
        )
    console.print(table)


def _progress(event: StackEvent) -> str:
    done = f"{event.done_bytes / 1e6:.0f} MB"
    if not event.total_bytes:
        return f"({event.text} {done})" if event.done_bytes else f"({event.text})"
    return f"({event.text} {done} of {event.total_bytes / 1e6:.0f} MB)"


def _lasting(event: StackEvent, on_terminal: bool) -> str:
    """The line an event leaves behind; empty when it leaves none."""
    match event.kind:
        case EventKind.DIED:
            return f"{event.child} stopped ({event.text}); again in {event.seconds:.1f} s"
        case EventKind.GAVE_UP:
            return f"{event.child} can't be kept running: {event.text}"
        case EventKind.READY if not on_terminal and event.child != "stack":
            return f"{event.child} ready in {event.seconds:.1f} s"
        case EventKind.STOPPED if not on_terminal:
            return f"{event.child} stopped"
    return ""
