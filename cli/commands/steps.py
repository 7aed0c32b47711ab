"""The numbered steps of a check, as a terminal shows them."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.commands.wording import plain
from evidence.steps import Status, Step

_STYLES = {Status.passed: "green", Status.failed: "bold red", Status.not_checked: "yellow"}


def show_steps(console: Console, steps: Iterable[Step]) -> None:
    """A line each."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for step in steps:
        style = _STYLES[step.status]
        status = step.status.value.replace("_", " ")
        # what a file or a service says of itself is text, not markup, and has no control characters
        table.add_row(str(step.number), step.name, f"[{style}]{status}[/]", escape(plain(step.detail)))
    console.print(table)
