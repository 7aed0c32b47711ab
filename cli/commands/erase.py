"""doublei erase: an owner's data at a service, all of it."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from cli.commands.connection import HomeOption, ServerOption, connect, path_part
from cli.commands.wording import plain


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(erase)


def erase(
    organization: Annotated[
        str,
        typer.Argument(
            metavar="ORGANIZATION", help="Your own id, org-…, as confirmation.", show_default=False
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one object, for programs.")] = False,
    home: HomeOption = None,
    server: ServerOption = None,
) -> None:
    """Delete all that you have at a service: files, models, keys, and what you wrote into jobs.

    Nothing may be running. Export first what you want to keep (doublei key export). What stays is listed: the
    log's digests, finished audits' evidence, the trail of who did what, and your API keys.

    Examples:  doublei erase org-1a2b   |   doublei erase org-1a2b --json
    """
    with connect(home, server, "owner") as service:
        done = service.delete(f"/v1/data?confirm={path_part(organization)}")
    if as_json:
        print(json.dumps(done))
        return
    for title, counts in (("deleted", done.get("deleted")), ("remaining", done.get("remaining"))):
        for name, count in sorted(counts.items()) if isinstance(counts, dict) else ():
            print(f"{title:<12}{plain(str(name)).replace('_', ' '):<24}{count}")
