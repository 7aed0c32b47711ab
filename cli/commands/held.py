"""doublei key register, open, import, export, delete: an owner's key and a service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.client import ApiError
from cli.commands.connection import HomeOption, ServerOption, connect, path_part
from cli.commands.key import FileArgument, advise
from cli.errors import UsageMistake
from cli.files import create_private
from cli.owner import keyfile
from evidence.canonical import canonical_bytes, parse_canonical
from evidence.errors import EvidenceError
from evidence.keyfile import KeyFile, Registered, now, with_audits, with_salt
from watermark.errors import WatermarkError

OWNER = "owner"
MAX_OPENING_BYTES = 64 * 1024

NameOption = Annotated[
    str, typer.Option("--name", metavar="TEXT", help="What the service shall call it.", show_default=False)
]
WatermarkArgument = Annotated[
    str, typer.Argument(metavar="WATERMARK", help="The key's id there, wm-….", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("register")(register_key)
    app.command("open")(open_family)
    app.command("import")(import_key)
    app.command("export")(export_key)
    app.command("delete")(delete_key)


def register_key(
    file: FileArgument, name: NameOption = "", home: HomeOption = None, server: ServerOption = None
) -> None:
    """Put the key's commitment on a service's record, and take the salt that it draws then into the file.

    The secret stays here. The service writes the commitment into its log before there is a salt, so audits
    through it have the grade committed. Do it before mixing: the salt decides the marks. Again after a lost
    answer is safe, and gives the same salt. Prints the key's id there, for the job's watermark.key.

    Examples:  doublei key register support.key   |
    doublei key register support.key --server https://doublei.example
    """
    key = keyfile.read(file)
    _refuse_used(key)
    body: dict[str, Any] = {"commitment": key.public_record(), "name": name or file.stem}
    with connect(home, server, OWNER) as service:
        origin = str(service.get("/v1/log/key").get("origin"))
        made = service.post("/v1/watermarks", body)
    identifier = _take_salt(file, made, origin)
    print(identifier)
    advise(
        f"{file} has its salt. Mix now (doublei mix --key {file} data.jsonl -o mixed.jsonl), upload the "
        f'result and start the job with "watermark": {{"key": "{identifier}"}}; nothing is added to it there'
    )


def open_family(
    file: FileArgument,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="A new file, for you alone.", show_default=False),
    ],
    family: Annotated[int, typer.Option(min=0, help="Which family.")] = 0,
) -> None:
    """Write down the opening of one family, for an audit by somebody else: its secret and blinding, and the
    public commitments. It says nothing of the key's secret and of the other families.

    Whoever has it knows that family's marks: give it to the auditor of your choice and to nobody else.

    Examples:  doublei key open support.key --family 1 -o family-1.json
    """
    _create(output, canonical_bytes(opened(keyfile.read(file), family)))
    advise(f"wrote {output}; the auditor's command: doublei verify --watermark … --opening {output}")


def import_key(
    file: FileArgument, name: NameOption = "", home: HomeOption = None, server: ServerOption = None
) -> None:
    """Hand the key to a service to keep: it gets the secret, seals it, marks data and audits with it.

    Salt and count of audits go along. A key without a salt that was never used gets one there, and so does
    the file. Prints the key's id there.

    Examples:  doublei key import support.key --name support
    """
    key = keyfile.read(file)
    with connect(home, server, OWNER) as service:
        origin = str(service.get("/v1/log/key").get("origin"))
        made = service.post("/v1/watermarks", {"key_file": key.to_record(), "name": name or file.stem})
    used = key.salt is not None or key.mixed or key.audits
    print(path_part(str(made.get("id"))) if used else _take_salt(file, made, origin))
    advise(f"the service keeps the key now, with the grade {made.get('grade')}")


def export_key(
    watermark: WatermarkArgument,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="A new file, for you alone.", show_default=False),
    ],
    home: HomeOption = None,
    server: ServerOption = None,
) -> None:
    """Get a key that a service keeps as a file of your own, its secret included.

    The service keeps it too; doublei key delete ends that. Audits are counted where they are made: the file
    has those that the service knows of.

    Examples:  doublei key export wm-1a2b -o support.key
    """
    with connect(home, server, OWNER) as service:
        data = service.download(f"/v1/watermarks/{path_part(watermark)}/key")
    try:
        KeyFile.from_record(parse_canonical(data))
    except (EvidenceError, WatermarkError) as error:
        raise ApiError(f"the API answered something that is no key file: {error}") from None
    _create(output, data)
    advise(f"wrote {output}; whoever has it has the key")


def delete_key(
    watermark: WatermarkArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    home: HomeOption = None,
    server: ServerOption = None,
) -> None:
    """Make a service forget a key: its secret is destroyed there, its grants end. Evidence stays.

    Examples:  doublei key export wm-1a2b -o support.key && doublei key delete wm-1a2b
    """
    if not yes and not typer.confirm(f"destroy the secret of {watermark} at the service?", err=True):
        raise UsageMistake("nothing was deleted")
    with connect(home, server, OWNER) as service:
        service.delete(f"/v1/watermarks/{path_part(watermark)}")
    advise(f"{watermark} is deleted")


def opened(key: KeyFile, family: int) -> dict[str, object]:
    """One family, for an audit. Raises: UsageMistake."""
    if family >= key.design.families:
        raise UsageMistake(f"--family: the key has families 0 to {key.design.families - 1}")
    return key.opened(family)


def read_opening(path: Path) -> dict[str, Any]:
    """What `open_family` wrote. Raises: UsageMistake."""
    try:
        with path.open("rb") as file:
            value = parse_canonical(file.read(MAX_OPENING_BYTES))
    except OSError as error:
        raise UsageMistake(f"--opening: {path}: {error.strerror}") from None
    except EvidenceError:
        value = None
    if not isinstance(value, dict):
        raise UsageMistake(f"--opening: {path} is not what doublei key open writes")
    return value


def note_audit(path: Path, audit: dict[str, Any], family: int) -> None:
    """An audit through a service, in the key's own history. Raises: UsageMistake."""
    entry = Registered(
        verification=str(audit["id"]),
        family=family,
        registered_at=now(),
        preregistration_sha256=str(audit["preregistration"]["sha256"]),
    )
    keyfile.update(path, lambda key: with_audits(key, [entry]))


def _refuse_used(key: KeyFile) -> None:
    if key.salt is not None:
        raise UsageMistake(
            f"the key has a salt already ({key.salt.source}), and another one would give other marks"
        )
    if key.mixed or key.audits:
        raise UsageMistake("the key was used without a salt already, and a salt would give other marks")


def _take_salt(file: Path, made: dict[str, Any], origin: str) -> str:
    """The service's salt into the key file; returns the key's id there."""
    identifier = path_part(str(made.get("id")))
    entries = [entry["index"] for entry in made.get("log") or () if entry.get("kind") == "key-commitment"]
    source = f"{origin}, {identifier}, log entry {json.dumps(entries)}"

    def change(key: KeyFile) -> KeyFile:
        if made.get("commitment") != key.committed.commitment:
            raise ApiError("the service answered with another commitment than the key's")
        return with_salt(key, str(made.get("salt")), source)

    try:
        keyfile.update(file, change)
    except WatermarkError as error:
        raise ApiError(f"the service gave a salt that is none: {error}") from None
    return identifier


def _create(path: Path, data: bytes) -> None:
    try:
        create_private(path, data)
    except FileExistsError:
        raise UsageMistake(f"--output: {path} exists already") from None
    except OSError as error:
        raise UsageMistake(f"--output: {path}: {error.strerror}") from None
