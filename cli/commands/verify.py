"""doublei verify: an audit through a service that keeps the key, or from this machine with a key file."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from cli.client import Api as Client
from cli.commands import credential
from cli.commands.audits import JsonOption, WatchOption, follow, leave
from cli.commands.connection import HomeOption, RoleOption, ServerOption, connect
from cli.commands.held import note_audit, opened, read_opening
from cli.commands.own_audit import OwnAudit, audit_alone
from cli.errors import UsageMistake
from cli.owner import keyfile
from evidence.planning import PlanRequest
from probe.adapters import Api

OWN_ROLE = "owner"


class SuspectApi(StrEnum):
    """Which wire format the suspect speaks."""

    chat = "chat"
    completions = "completions"


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(verify)


def verify(
    model: Annotated[
        str, typer.Option("--model", metavar="M", help="The model's name there.", show_default=False)
    ],
    watermark: Annotated[
        str | None, typer.Option("--watermark", metavar="ID", help="The id of a key that a service keeps.")
    ] = None,
    suspect: Annotated[
        str | None, typer.Option("--suspect", metavar="URL", help="With --watermark: the suspect's base URL.")
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            "--key",
            metavar="FILE",
            help="A key file; no service is needed. With --watermark: registered there.",
        ),
    ] = None,
    opening: Annotated[
        Path | None,
        typer.Option(
            "--opening", metavar="FILE", help="With --watermark: a family that the key's owner opened."
        ),
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", metavar="URL", help="With --key: the suspect's base URL.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="With --key: the evidence.")
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            "--allow",
            metavar="HOST:PORT",
            help="With --key: a loopback or private address that may be asked.",
            show_default=False,
        ),
    ] = None,
    conclude: Annotated[
        bool, typer.Option("--conclude", help="With --key: end an unfinished audit, asking no more.")
    ] = False,
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
    suspect_key_env: credential.VariableOption = None,
    suspect_key_file: credential.FileOption = None,
    suspect_key_prompt: credential.PromptOption = False,
    watching: WatchOption = True,
    as_json: JsonOption = False,
    home: HomeOption = None,
    server: ServerOption = None,
    role: RoleOption = OWN_ROLE,
) -> None:
    """Ask a suspect with a watermark key, and follow the audit to its verdict.

    Through a service that keeps the key (--watermark and --suspect), or from this machine with a key file
    (--key, --endpoint and -o): then no service is needed, and the evidence has the grade self-generated. A
    run of the second kind that was stopped goes on with the same command, and asks nothing twice.

    Through a service where a key of yours is registered (--key, --watermark and --suspect): it is sent the
    one family that is asked, opened, and nothing else of the key. An auditor gets that from the owner
    (--opening).

    The plan is registered before the first question, and every audit of a key makes the next one's share of
    alpha smaller. The suspect's credential comes from a variable, a file or a prompt, never from the command
    line. Exit status 0: the audit finished, whatever its verdict. 1: it did not, or something went wrong.

    Examples:  doublei verify --watermark wm-1 --suspect https://llm.example/v1 --model m --sequential   |
    doublei verify --key support.key --endpoint https://llm.example/v1 --model m --suspect-key-env SUSPECT_KEY
    -o evidence.json
    """
    plan: dict[str, Any] = {"mode": "sequential"} if sequential else {}
    wished = {"alpha": alpha, "marks": marks, "probes_per_cue": probes_per_cue, "family": family}
    plan |= {name: value for name, value in wished.items() if value is not None}
    through_service = {
        "--watermark": watermark is not None,
        "--suspect": suspect is not None,
        "--server": server is not None,
        "--home": home is not None,
        "--as": role != OWN_ROLE,
        "--no-watch": not watching,
    }
    alone = {
        "--endpoint": endpoint is not None,
        "--output": output is not None,
        "--allow": bool(allow),
        "--conclude": conclude,
    }
    if key is not None and opening is not None:
        raise UsageMistake("--opening: a key file opens its families itself; give one of the two")
    if key is None or watermark is not None:
        _refuse_given(alone, "goes with --key, not with a service's --watermark")
        if watermark is None or suspect is None:
            raise UsageMistake(
                "give --watermark ID and --suspect URL, or --key FILE, --endpoint URL and -o FILE"
            )
    else:
        _refuse_given(through_service, "is for audits through a service, not for --key")
        if endpoint is None or output is None:
            raise UsageMistake("--key: give --endpoint URL and -o FILE as well")
    token = credential.read_credential(suspect_key_env, suspect_key_file, prompt=suspect_key_prompt)
    if watermark is None and key is not None and endpoint is not None and output is not None:
        audit_alone(
            OwnAudit(
                key=key,
                endpoint=endpoint,
                model=model,
                api=Api(api.value),
                plan=PlanRequest(**plan),
                allow=allow or (),
                output=output,
                conclude=conclude,
                as_json=as_json,
                credential=token,
            )
        )
        return
    who: dict[str, Any] = {"base_url": suspect, "model": model, "api": api.value}
    if token is not None:
        who["api_key"] = token
    request = {"watermark": watermark, "suspect": who, "plan": plan}
    asked = family or 0
    if key is not None:
        request["opening"] = opened(keyfile.read(key), asked)
    if opening is not None:
        request["opening"] = read_opening(opening)
    _through_service(
        connect(home, server, role),
        request,
        watching=watching,
        as_json=as_json,
        registered=lambda audit: None if key is None else note_audit(key, audit, asked),
    )


def _refuse_given(given: dict[str, bool], why: str) -> None:
    """Raises UsageMistake for the first option that was given."""
    for name, is_given in given.items():
        if is_given:
            raise UsageMistake(f"{name} {why}")


def _through_service(
    connection: Client,
    request: dict[str, Any],
    *,
    watching: bool,
    as_json: bool,
    registered: Callable[[dict[str, Any]], None],
) -> None:
    with connection as service:
        audit = service.post("/v1/verify", request)
        registered(audit)
        console = Console(stderr=as_json)
        index = audit["preregistration"]["audit_index"]
        console.print(
            f"registered as {audit['id']}: audit {index} of this key, {audit['progress']['total']} questions",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        if not watching:
            leave(console, audit, as_json=as_json)
            return
        follow(service, console, audit, as_json=as_json)
