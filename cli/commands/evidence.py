"""`doublei evidence`: checking an audit's file offline. Reads one file and opens no connection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cli.commands.steps import show_steps
from evidence.canonical import MAX_BYTES
from evidence.check import Report, check

app = typer.Typer(help="Check the evidence of an audit offline.", no_args_is_help=True)

EXIT_CONSISTENT = 0
EXIT_FAILED = 1
EXIT_UNREADABLE = 2


@app.callback()
def _group() -> None:
    """Keeps `check` a subcommand although it is the only one."""


@app.command("check")
def check_file(
    file: Annotated[Path, typer.Argument(help="The evidence file, as downloaded.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print the report for machines.")] = False,
    sha256: Annotated[
        str | None, typer.Option(help="The file's SHA-256 as learned from elsewhere.", metavar="HEX")
    ] = None,
) -> None:
    """Decide an audit again from its file alone.

    Exit status: 0 when no step failed, 1 when one did, 2 when the file can't be read.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        typer.echo(f"{file}: {error.strerror}", err=True)
        raise typer.Exit(EXIT_UNREADABLE) from None
    report = check(data, expected_sha256=sha256)
    if as_json:
        typer.echo(json.dumps(report.to_record(), indent=2))
    else:
        _show(report, Console())
    raise typer.Exit(EXIT_CONSISTENT if report.consistent else EXIT_FAILED)


def _show(report: Report, console: Console) -> None:
    show_steps(console, report.steps)
    document = report.document
    if report.consistent and document is not None:
        p = document.decision.get("p_value_decimal", "none")
        console.print(
            f"\n[bold]{document.verdict.replace('_', ' ')}[/], p = {p}: self-consistent. What is not checked "
            "above rests on the word of those who made the file."
        )
    else:
        console.print("\n[bold red]This file proves nothing: a step failed.[/]")
