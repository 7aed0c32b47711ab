"""`doublei secrets`: the keys of a data folder's stack, kept, put back, and changed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from cli.backup.sealing import MIN_PASSPHRASE_CHARACTERS
from cli.commands.stack import HomeOption
from cli.errors import NotRunning, StackError, UsageMistake
from cli.files import create_private
from cli.key_backup import MAX_FILE_BYTES, NAMES, KeyBackup, is_sealed
from cli.stack import state
from cli.stack.home import locate, prepare
from cli.stack.plan import operator_task
from cli.stack.running import is_running

app = typer.Typer(
    help="Keep the keys that nothing can replace, put them back, and change them.", no_args_is_help=True
)

PassphraseOption = Annotated[
    Path | None,
    typer.Option("--passphrase-file", metavar="FILE", help="File with the passphrase. Default: ask for it."),
]


@app.command("backup")
def backup(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="A new file.", show_default=False)
    ],
    plain: Annotated[
        bool, typer.Option("--plain", help="Write them as they are, for a place that is itself closed.")
    ] = False,
    passphrase_file: PassphraseOption = None,
    home: HomeOption = None,
) -> None:
    """Write the keys that are lost with this machine into one file, under a passphrase.

    The key-encryption key (without it the stored watermark secrets are lost), the log's key (without it the
    log ends) and the witness's. Back them up again after each change of a key. The database and the stored
    files are not in it.

    Example:  doublei secrets backup -o doublei.keys
    """
    place = locate(home)
    keys = {name: text for name in NAMES if (text := _text_of(place.secrets / name)) is not None}
    if "kek" not in keys:
        raise UsageMistake(f"{place.secrets} holds no keys: name the data folder with --home")
    passphrase = None if plain else _passphrase(passphrase_file, confirm=True)
    made = KeyBackup(keys=keys)
    try:
        create_private(output, made.written(passphrase))
        again = KeyBackup.read(_read(output), passphrase)
    except FileExistsError:
        raise UsageMistake(f"{output} is there already and is left as it is") from None
    except OSError as error:
        raise UsageMistake(f"{output}: {error.strerror}") from None
    if again != made:
        raise StackError(f"{output} does not read back as it was written")
    how = "as they are: keep the file closed" if plain else "under the passphrase"
    typer.echo(f"wrote {output}: {', '.join(keys)}, {how}")


@app.command("restore")
def restore(
    file: Annotated[Path, typer.Argument(help="A backup of the keys.", show_default=False)],
    passphrase_file: PassphraseOption = None,
    home: HomeOption = None,
) -> None:
    """Put the keys of a backup into a data folder, before its first start or in place of lost ones.

    Nothing is overwritten: where another key is there already, nothing at all is written.

    Example:  doublei secrets restore doublei.keys --home ~/doublei
    """
    try:
        data = _read(file)
    except OSError as error:
        raise UsageMistake(f"{file}: {error.strerror}") from None
    passphrase = _passphrase(passphrase_file, confirm=False) if is_sealed(data) else None
    keys = KeyBackup.read(data, passphrase).keys
    place = locate(home)
    prepare(place)
    there = {name: _text_of(place.secrets / name) for name in keys}
    for name, text in keys.items():
        if there[name] not in (None, text):
            raise UsageMistake(f"{place.secrets / name} is another key: nothing was written")
    for name, text in keys.items():
        if there[name] is None:
            create_private(place.secrets / name, text.encode("ascii"))
    written = [name for name in keys if there[name] is None]
    typer.echo(f"wrote {', '.join(written) or 'nothing, all there'} into {place.secrets}")


@app.command("status")
def status(home: HomeOption = None) -> None:
    """Say which key-encryption keys there are, and how many stored secrets lie under each.

    Example:  doublei secrets status
    """
    _run(home, "service.resealing", "status")


@app.command("rotate-kek")
def rotate_kek(home: HomeOption = None) -> None:
    """Make a new key-encryption key and seal every stored secret again under it, while the stack runs.

    May be interrupted and run again. The old key opens what it sealed until it is dropped.

    Example:  doublei secrets rotate-kek && sleep 60 && doublei secrets drop-kek
    """
    _run(home, "service.resealing", "rotate")


@app.command("drop-kek")
def drop_kek(home: HomeOption = None) -> None:
    """Take the old key-encryption key out of its file, once nothing in the database lies under it.

    A backup of the database from before the change needs it still: keep the backup of the keys of that time.

    Example:  doublei secrets drop-kek
    """
    _run(home, "service.resealing", "drop")


@app.command("rotate-log-key")
def rotate_log_key(home: HomeOption = None) -> None:
    """Let another key sign the transparency log from now on; the log says so itself. Prints both public keys.

    Hand the new one to those who audit or witness the log. What the old key has signed stays good.

    Example:  doublei secrets rotate-log-key
    """
    _run(home, "service.log.rotation")


@app.command("rotate-evidence-key")
def rotate_evidence_key(home: HomeOption = None) -> None:
    """Let another key sign the service's bundles from now on. Prints the lines of both for a file of trust.

    Whoever checks bundles adds the new line and keeps the old one: old bundles verify as before.

    Example:  doublei secrets rotate-evidence-key >> trust.txt
    """
    _run(home, "service.evidence_key")


def _run(home: Path | None, module: str, *arguments: str) -> None:
    place = locate(home)
    current = state.read(place)
    if current is None or not is_running(place, current):
        raise NotRunning(f"no stack runs in {place.root}; start one with: doublei up")
    command, environment = operator_task(place, current, module, *arguments)
    status = subprocess.run(command, env=environment, cwd=place.root, stdin=subprocess.DEVNULL).returncode
    if status:
        raise typer.Exit(status if status > 0 else 1)


def _text_of(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StackError(f"{path} can't be read: {getattr(error, 'strerror', None) or 'not ASCII'}") from None


def _read(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(MAX_FILE_BYTES)


def _passphrase(file: Path | None, *, confirm: bool) -> str:
    """From the file's first line or from the terminal, never from the command line.

    Raises:
        UsageMistake: the file can't be read, or the passphrase is too short.
    """
    if file is None:
        found = str(typer.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True))
    else:
        try:
            if os.stat(file).st_mode & 0o077:
                raise UsageMistake(f"{file}: other users may read it; close it with: chmod 600 {file}")
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not a text"
            raise UsageMistake(f"--passphrase-file: {file}: {reason}") from None
        found = lines[0] if lines else ""
    if len(found) < MIN_PASSPHRASE_CHARACTERS:
        raise UsageMistake(f"the passphrase has fewer than {MIN_PASSPHRASE_CHARACTERS} characters")
    return found
