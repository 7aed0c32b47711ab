"""Which service a command speaks to, and as whom: the stack of the data folder, or one that is named."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from cli.client import Api
from cli.commands.stack import HomeOption
from cli.errors import NotRunning, StackError, UsageMistake
from cli.stack import state
from cli.stack.home import locate
from cli.stack.running import is_running, read_credentials

KEY_VARIABLE = "DOUBLEI_API_KEY"
SERVER_VARIABLE = "DOUBLEI_SERVER"

ServerOption = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        help=f"The service's address, with the API key in ${KEY_VARIABLE}. Default: ${SERVER_VARIABLE}, or "
        "the stack that runs in the data folder.",
    ),
]
RoleOption = Annotated[
    str,
    typer.Option("--as", metavar="ROLE", help="Whose key of the data folder to use: owner or auditor."),
]

__all__ = ["HomeOption", "RoleOption", "ServerOption", "connect", "path_part"]

_IDENTIFIER = re.compile(r"[A-Za-z0-9_-]{1,128}")


def connect(home: Path | None, server: str | None, role: str) -> Api:
    """A client of the service that the options name. The API key comes from the environment or from the data
    folder's credentials, never from the command line.

    Raises:
        UsageMistake: the address is none, or there is no key for it.
        NotRunning: no stack runs in the data folder.
    """
    address = server or os.environ.get(SERVER_VARIABLE)
    if address:
        return Api(_checked(address), _key_from_environment())
    place = locate(home)
    current = state.read(place)
    if current is None or not is_running(place, current):
        raise NotRunning(
            f"no stack runs in {place.root}; start one with: doublei up (or name a service with --server)"
        )
    known = read_credentials(place)
    if role not in known:
        raise UsageMistake(f"--as: {place.credentials_file} has keys for {', '.join(sorted(known))}")
    return Api(current.api_url, known[role].api_key)


def path_part(identifier: str) -> str:
    """An id as it may stand in a path.

    Raises:
        UsageMistake: no id looks like that.
    """
    if not _IDENTIFIER.fullmatch(identifier):
        raise UsageMistake("an id has letters, digits, hyphens and underscores, such as verif-1a2b3c")
    return identifier


def _checked(address: str) -> str:
    try:
        parts = urlsplit(address)
        named = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        named = False
    if not named:
        raise UsageMistake("--server: give an address such as https://doublei.example")
    if parts.username is not None or parts.password is not None:
        raise UsageMistake(f"--server: put the API key into ${KEY_VARIABLE}, not into the address")
    return address.rstrip("/").removesuffix("/v1")


def _key_from_environment() -> str:
    key = os.environ.get(KEY_VARIABLE, "")
    if not key:
        raise UsageMistake(f"put the service's API key into ${KEY_VARIABLE}")
    if not key.isascii() or not key.isprintable():
        raise StackError(f"${KEY_VARIABLE} holds something that is no API key")
    return key
