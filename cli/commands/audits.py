"""doublei verify, watch, continue, conclude, report: audits on a running service."""

from __future__ import annotations

import json
import os
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from cli.client import Api
from cli.commands import wording
from cli.commands.audit_display import AuditDisplay, show_outcome
from cli.commands.connection import HomeOption, RoleOption, ServerOption, connect, path_part
from cli.errors import CliError, UsageMistake

POLL_SECONDS = 0.5
MAX_KEY_BYTES = 4096

VerificationArgument = Annotated[
    str, typer.Argument(metavar="VERIFICATION", help="The audit's id, verif-….", show_default=False)
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the verification object on standard output, for programs.")
]
WatchOption = Annotated[bool, typer.Option("--watch/--no-watch", help="Follow the audit to its end, or not.")]


class AuditNotFinished(CliError):
    """The audit failed, was cancelled, or is paused; the message says which and what to do."""

    code = "audit_not_finished"


class SuspectApi(StrEnum):
    """Which wire format the suspect speaks."""

    chat = "chat"
    completions = "completions"


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(verify)
    app.command()(watch)
    app.command("continue")(continue_audit)
    app.command()(conclude)
    app.command()(report)


def verify(
    watermark: Annotated[
        str, typer.Option("--watermark", metavar="ID", help="The watermark key's id.", show_default=False)
    ],
    suspect: Annotated[
        str,
        typer.Option("--suspect", metavar="URL", help="The suspect's base URL, to /v1.", show_default=False),
    ],
    model: Annotated[
        str, typer.Option("--model", metavar="M", help="The model's name there.", show_default=False)
    ],
    api: Annotated[SuspectApi, typer.Option("--api", help="What the suspect speaks.")] = SuspectApi.chat,
    sequential: Annotated[
        bool, typer.Option("--sequential", help="Decide after every mark; stop once enough is seen.")
    ] = False,
    alpha: Annotated[str | None, typer.Option(help="Significance level. Default: 1e-6.")] = None,
    marks: Annotated[int | None, typer.Option(min=1, help="How many marks. Default: all.")] = None,
    probes_per_cue: Annotated[
        int | None, typer.Option(min=1, max=3, help="Questions for each cue. Default: 2.")
    ] = None,
    family: Annotated[int | None, typer.Option(min=0, help="Which family to open. Default: 0.")] = None,
    suspect_key_env: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Environment variable that holds the suspect's credential."),
    ] = None,
    suspect_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File that holds the suspect's credential.")
    ] = None,
    suspect_key_prompt: Annotated[
        bool, typer.Option("--suspect-key-prompt", help="Ask for the suspect's credential.")
    ] = False,
    watching: WatchOption = True,
    as_json: JsonOption = False,
    home: HomeOption = None,
    server: ServerOption = None,
    role: RoleOption = "owner",
) -> None:
    """Ask a suspect with a watermark key, and follow the audit to its verdict.

    The plan is registered before the first question, and every audit of a key makes the next one's share of
    alpha smaller. The suspect's credential comes from a variable, a file or a prompt, never from the command
    line. Exit status 0: the audit finished, whatever its verdict. 1: it did not, or something went wrong.

    Examples:  doublei verify --watermark wm-1 --suspect https://llm.example/v1 --model m --sequential   |
    doublei verify --watermark wm-1 --suspect http://127.0.0.1:8000/v1 --model m --suspect-key-env SUSPECT_KEY
    """
    who: dict[str, Any] = {"base_url": suspect, "model": model, "api": api.value}
    credential = _credential(suspect_key_env, suspect_key_file, prompt=suspect_key_prompt)
    if credential is not None:
        who["api_key"] = credential
    plan: dict[str, Any] = {"mode": "sequential"} if sequential else {}
    wished = {"alpha": alpha, "marks": marks, "probes_per_cue": probes_per_cue, "family": family}
    plan |= {name: value for name, value in wished.items() if value is not None}
    with connect(home, server, role) as service:
        audit = service.post("/v1/verify", {"watermark": watermark, "suspect": who, "plan": plan})
        console = Console(stderr=as_json)
        index = audit["preregistration"]["audit_index"]
        console.print(
            f"registered as {audit['id']}: audit {index} of this key, {audit['progress']['total']} questions",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        if not watching:
            _leave(console, audit, as_json=as_json)
            return
        _follow(service, console, audit, as_json=as_json)


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
        _follow(service, Console(stderr=as_json), service.get(path), as_json=as_json)


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
            _leave(console, audit, as_json=as_json)
            return
        _follow(service, console, audit, as_json=as_json)


def _leave(console: Console, audit: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(audit))
    else:
        console.print(f"follow it with: doublei watch {audit['id']}", highlight=False, soft_wrap=True)


def _follow(service: Api, console: Console, audit: dict[str, Any], *, as_json: bool) -> None:
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


def _credential(variable: str | None, file: Path | None, *, prompt: bool) -> str | None:
    """The suspect's credential from at most one place.

    Raises:
        UsageMistake: two places, or nothing usable there.
    """
    if sum((variable is not None, file is not None, prompt)) > 1:
        raise UsageMistake("give the suspect's credential in one way: variable, file or prompt")
    if variable is not None:
        found, place = os.environ.get(variable, ""), "--suspect-key-env: the variable"
    elif file is not None:
        found, place = _read(file), "--suspect-key-file: the file"
    elif prompt:
        found, place = typer.prompt("The suspect's credential", hide_input=True, err=True), "the prompt"
    else:
        return None
    found = found.strip()
    if not found or not found.isascii() or not found.isprintable():
        raise UsageMistake(f"{place} holds no credential of printable ASCII characters")
    return found


def _read(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return stream.read(MAX_KEY_BYTES).decode("ascii", errors="replace")
    except OSError as error:
        raise UsageMistake(f"--suspect-key-file: {file}: {error.strerror}") from None
