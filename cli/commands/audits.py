"""doublei watch, continue, conclude, report: audits on a running service."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from cli.client import Api
from cli.commands import wording
from cli.commands.audit_display import AuditDisplay, show_outcome
from cli.commands.connection import HomeOption, RoleOption, ServerOption, connect, path_part
from cli.errors import AuditNotFinished, UsageMistake

POLL_SECONDS = 0.5

VerificationArgument = Annotated[
    str, typer.Argument(metavar="VERIFICATION", help="The audit's id, verif-….", show_default=False)
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the verification object on standard output, for programs.")
]
WatchOption = Annotated[bool, typer.Option("--watch/--no-watch", help="Follow the audit to its end, or not.")]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(watch)
    app.command("continue")(continue_audit)
    app.command()(conclude)
    app.command()(report)


def watch(
    verification: VerificationArgument,
    as_json: JsonOption = False,
    home: HomeOption = None,
    server: ServerOption = None,
    role: RoleOption = "owner",
) -> None:
    """Follow an audit to its end: questions asked, and for a sequential one the product of e-values after
    every mark against the line that it must reach, both on logarithmic scales.

    Interrupting this command does not stop the audit. Exit status 0: the audit finished, whatever its
    verdict. 1: it failed, was cancelled, is paused, or something went wrong.

    Examples:  doublei watch verif-1a2b   |   doublei watch verif-1a2b --as auditor --json
    """
    path = f"/v1/verifications/{path_part(verification)}"
    with connect(home, server, role) as service:
        follow(service, Console(stderr=as_json), service.get(path), as_json=as_json)


def continue_audit(
    verification: VerificationArgument,
    watching: WatchOption = True,
    as_json: JsonOption = False,
    home: HomeOption = None,
    server: ServerOption = None,
    role: RoleOption = "owner",
) -> None:
    """Take up a paused sequential audit where it stopped. Nothing that was sent is sent again.

    Exit status as of watch.

    Examples:  doublei continue verif-1a2b   |   doublei continue verif-1a2b --no-watch
    """
    _take_up("continue", verification, connect(home, server, role), watching=watching, as_json=as_json)


def conclude(
    verification: VerificationArgument,
    watching: WatchOption = True,
    as_json: JsonOption = False,
    home: HomeOption = None,
    server: ServerOption = None,
    role: RoleOption = "owner",
) -> None:
    """End a paused audit as it is, with evidence of what was asked; its verdict is inconclusive.

    Exit status as of watch.

    Examples:  doublei conclude verif-1a2b
    """
    _take_up("conclude", verification, connect(home, server, role), watching=watching, as_json=as_json)


def report(
    verification: VerificationArgument,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="Ends in .html or .pdf.", show_default=False),
    ],
    home: HomeOption = None,
    server: ServerOption = None,
    role: RoleOption = "owner",
) -> None:
    """Save the report of a finished audit, as a page or as a PDF. An existing file is replaced.

    Examples:  doublei report verif-1a2b -o report.pdf   |   doublei report verif-1a2b -o report.html
    """
    kinds = {".html": "report", ".pdf": "report.pdf"}
    kind = kinds.get(output.suffix.lower())
    if kind is None:
        raise UsageMistake("--output: the file's name must end in .html or .pdf")
    if not output.absolute().parent.is_dir():
        raise UsageMistake(f"--output: the folder {output.absolute().parent} does not exist")
    path = f"/v1/verifications/{path_part(verification)}/{kind}"
    with connect(home, server, role) as service:
        content = service.download(path)
    try:
        output.write_bytes(content)
    except OSError as error:
        raise UsageMistake(f"--output: {output}: {error.strerror}") from None
    print(f"saved {output}")


def _take_up(step: str, verification: str, service: Api, *, watching: bool, as_json: bool) -> None:
    with service:
        audit = service.post(f"/v1/verifications/{path_part(verification)}/{step}")
        console = Console(stderr=as_json)
        if not watching:
            leave(console, audit, as_json=as_json)
            return
        follow(service, console, audit, as_json=as_json)


def leave(console: Console, audit: dict[str, Any], *, as_json: bool) -> None:
    """Say how to follow an audit that is not followed now."""
    if as_json:
        print(json.dumps(audit))
    else:
        console.print(f"follow it with: doublei watch {audit['id']}", highlight=False, soft_wrap=True)


def follow(service: Api, console: Console, audit: dict[str, Any], *, as_json: bool) -> None:
    """Show an audit until it rests.

    Raises:
        AuditNotFinished: it ended, or rests, without a verdict.
    """
    try:
        with AuditDisplay(console) as display:
            display.show(audit)
            while audit["status"] not in wording.RESTING:
                time.sleep(POLL_SECONDS)
                audit = service.get(f"/v1/verifications/{audit['id']}")
                display.show(audit)
    except KeyboardInterrupt:
        console.print(
            f"the audit goes on; follow it with: doublei watch {audit['id']}", highlight=False, soft_wrap=True
        )
        raise
    show_outcome(console, audit)
    if as_json:
        print(json.dumps(audit))
    _judge(audit)
    if not as_json:
        console.print(
            f"  the report: doublei report {audit['id']} -o report.pdf", highlight=False, soft_wrap=True
        )


def _judge(audit: dict[str, Any]) -> None:
    """Raises AuditNotFinished for every end but a verdict."""
    name, status = audit["id"], audit["status"]
    if status == "paused":
        raise AuditNotFinished(
            f"{name} is paused, undecided; go on with: doublei continue {name} "
            f"(or end it: doublei conclude {name})"
        )
    if status != "succeeded":
        told = (audit.get("error") or {}).get("message") or "no reason was given"
        raise AuditNotFinished(f"{name} {wording.plain(status)}: {wording.plain(str(told))}")
