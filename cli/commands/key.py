"""doublei key: an owner's key in a file of its own, with no service behind it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cli.commands.wording import plain
from cli.errors import UsageMistake
from cli.files import create_private
from cli.owner import keyfile
from evidence.canonical import canonical_text
from evidence.keyfile import KeyFile, with_salt
from watermark.errors import DesignError, RecordError
from watermark.keys import MAX_FAMILIES, MIN_FAMILIES, Design
from watermark.marks import MAX_CUES, MAX_MARKS, MIN_CUES, MIN_MARKS
from watermark.numerals import decimal_text
from watermark.significance import DEFAULT_ALPHA, alpha_for_audit

DEFAULT_MARKS = 16
"""More than a service's 12: a self-generated key has to show 20 bits more, which are five marks' worth."""

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The key file.", show_default=False)]

app = typer.Typer(
    help="Keep a watermark key in a file of your own: no service sees it, and none is needed. register, "
    "import, export and delete are for a service that trains with it, or keeps it.",
    no_args_is_help=True,
)


@app.command()
def new(
    file: FileArgument,
    owner: Annotated[
        str,
        typer.Option(
            "--owner", metavar="NAME", help="Who claims; part of the commitment.", show_default=False
        ),
    ],
    families: Annotated[
        int, typer.Option(min=MIN_FAMILIES, max=MAX_FAMILIES, help="Independent sets of marks.")
    ] = MIN_FAMILIES,
    marks: Annotated[
        int, typer.Option(min=MIN_MARKS, max=MAX_MARKS, help="Marks of each family.")
    ] = DEFAULT_MARKS,
    cues: Annotated[int, typer.Option(min=MIN_CUES, max=MAX_CUES, help="Cues of each mark.")] = 8,
) -> None:
    """Draw a key and write it to a new file that only you can read. Prints its public commitment.

    Nothing is overwritten. Keep a copy in a safe place: whoever has the file has the key, and without it
    nothing can be proven. An audit opens one family; the others stay secret.

    Its evidence has the grade self-generated, since nobody but you says when it was drawn: an audit must be
    2^20 times surer than with a key that a service has salted.

    Examples:  doublei key new support.key --owner "Example Ltd"   |
    doublei key new support.key --owner "Example Ltd" --families 3 --marks 12
    """
    try:
        design = Design(families=families, marks=marks, cues=cues)
    except DesignError as error:
        raise UsageMistake(str(error)) from None
    key = keyfile.create(file, owner, design)
    print(key.committed.commitment)
    advise(
        f"{file} holds the key. Before training publish its commitment (doublei key commit {file}), or "
        f"register it with the service that will train (doublei key register {file})"
    )


@app.command("commit")
def publish(
    file: FileArgument,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write it there instead; never over a file."),
    ] = None,
) -> None:
    """Print what to publish before training: owner, design and commitments. Nothing of it is secret.

    Put it where others can see when it was there: a public repository, a timestamping service, a newspaper.
    The evidence alone can't show how old a commitment is.

    A service that trains for you puts it into its log and salts the key: doublei key register.

    Examples:  doublei key commit support.key   |   doublei key commit support.key -o commitment.json
    """
    text = canonical_text(keyfile.read(file).public_record())
    if output is None:
        print(text)
        return
    try:
        create_private(output, text.encode())
        # it is to be published
        output.chmod(0o644)
    except FileExistsError:
        raise UsageMistake(f"--output: {output} exists already") from None
    except OSError as error:
        raise UsageMistake(f"--output: {output}: {error.strerror}") from None
    advise(f"wrote {output}")


@app.command()
def salt(
    file: FileArgument,
    value: Annotated[
        str, typer.Argument(metavar="HEX", help="16 to 128 bytes in hexadecimal.", show_default=False)
    ],
    source: Annotated[
        str,
        typer.Option(
            "--source", metavar="TEXT", help="Where it is from, so that others can look.", show_default=False
        ),
    ],
) -> None:
    """Set, once, a salt that nobody could know when the commitment was published: a round of a public
    beacon, a provider's nonce, the checkpoint of a log.

    The marks depend on it, so it can't be changed, and not be set once rows were mixed. A salt that you
    typed in proves nothing by itself: the evidence names it, readers can compare it with what was published
    and with the date of your commitment, and the grade stays self-generated.

    Examples:  doublei key salt support.key 5a81…e0 --source "drand, round 4711"
    """
    try:
        keyfile.update(file, lambda key: with_salt(key, value, source))
    except RecordError:
        raise UsageMistake("HEX: give an even number of hexadecimal digits") from None
    advise(f"{file} has its salt; its rows may be mixed now: doublei mix --key {file} data.jsonl -o …")


@app.command()
def show(
    file: FileArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print one object, for programs.")] = False,
) -> None:
    """Show what is public of a key and what was done with it. Never the secret.

    Examples:  doublei key show support.key   |   doublei key show support.key --json
    """
    facts = _facts(keyfile.read(file))
    if as_json:
        print(json.dumps(facts))
        return
    for name, value in facts.items():
        if name != "mixed":
            print(f"{name.replace('_', ' '):<18}{_said(value)}")
    for mixed in facts["mixed"] if isinstance(facts["mixed"], list) else ():
        print(f"mixed {mixed['at']}: {mixed['strength']}, families {_said(mixed['families'])}")
        print(f"  from {mixed['input_sha256']}\n  to   {mixed['output_sha256']}")


def _facts(key: KeyFile) -> dict[str, object]:
    following = len(key.numbers) + 1
    return {
        "owner": key.owner,
        "key": key.id,
        "commitment": key.committed.commitment,
        "design": f"{key.design.families} families of {key.design.marks} marks with {key.design.cues} cues",
        "grade": key.grade,
        "created_at": key.created_at,
        "salt": None if key.salt is None else key.salt.value.hex(),
        "salt_source": None if key.salt is None else key.salt.source,
        "families_opened": list(key.families_opened),
        "families_left": key.design.families - len(key.families_opened),
        "audits": len(key.audits),
        "next_alpha": decimal_text(alpha_for_audit(DEFAULT_ALPHA, following, key.grade)),
        "mixed": [mixed.to_record() for mixed in key.mixed],
    }


def _said(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) or "none"
    return "none" if value is None else plain(str(value))


def advise(text: str) -> None:
    """What to do next, beside what the command prints for programs."""
    Console(stderr=True).print(text, highlight=False, markup=False, soft_wrap=True)
