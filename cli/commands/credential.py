"""The suspect's credential, from where the user says it is: never from the command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from cli.errors import UsageMistake

MAX_KEY_BYTES = 4096

VariableOption = Annotated[
    str | None,
    typer.Option(
        "--suspect-key-env",
        metavar="NAME",
        help="Environment variable that holds the suspect's credential.",
    ),
]
FileOption = Annotated[
    Path | None,
    typer.Option("--suspect-key-file", metavar="FILE", help="File that holds the suspect's credential."),
]
PromptOption = Annotated[bool, typer.Option("--suspect-key-prompt", help="Ask for the suspect's credential.")]


def read_credential(variable: str | None, file: Path | None, *, prompt: bool) -> str | None:
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
