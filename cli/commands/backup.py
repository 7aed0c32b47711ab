"""`doublei backup` and `doublei restore`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from cli.backup import sealing
from cli.backup.restoring import restore
from cli.backup.taking import Progress, take
from cli.commands.stack import HomeOption
from cli.errors import UsageMistake
from cli.stack.home import locate

PassphraseOption = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        metavar="FILE",
        help=f"Holds the passphrase of the keys. Default: ${sealing.PASSPHRASE_VARIABLE}.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("backup")(backup)
    app.command("restore")(restore_folder)


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The backup to write.")],
    passphrase_file: PassphraseOption = None,
    without_keys: Annotated[
        bool, typer.Option("--without-keys", help="Leave the keys out: you keep DIR/secrets elsewhere.")
    ] = False,
    home: HomeOption = None,
) -> None:
    """Write database, stored files and keys of a data folder into one file, while the service runs or not.

    The keys are sealed with a passphrase; datasets and models are in the file as they are: keep it private.

    Examples:  doublei backup monday.tar --passphrase-file pass   |   doublei backup monday.tar --without-keys
    """
    passphrase = sealing.read_passphrase(passphrase_file)
    if without_keys and passphrase is not None:
        raise UsageMistake("give a passphrase or --without-keys, not both")
    if not without_keys and passphrase is None:
        raise UsageMistake(
            f"the backup holds keys: name a passphrase with --passphrase-file or in"
            f" ${sealing.PASSPHRASE_VARIABLE}, or leave them out with --without-keys"
        )
    console = Console()
    with _bars(console) as progress:
        taken = take(locate(home), file.absolute(), passphrase, progress)
    megabytes = taken.size_bytes / 1e6
    print(f"{file}: the database (schema {taken.schema}) and {taken.files} files, {megabytes:.1f} MB")


def restore_folder(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The backup to read.")],
    passphrase_file: PassphraseOption = None,
    keys: Annotated[
        Path | None, typer.Option("--keys", metavar="DIR", help="Where the keys are that it does not hold.")
    ] = None,
    home: HomeOption = None,
) -> None:
    """Make an empty data folder what it was when the backup was taken. Then: doublei up.

    Examples:  doublei restore monday.tar --home ~/doublei --passphrase-file pass
    """
    place, console = locate(home), Console()
    with _bars(console) as progress:
        manifest = restore(
            file.absolute(),
            place,
            passphrase=sealing.read_passphrase(passphrase_file),
            keys_folder=keys,
            progress=progress,
        )
    print(f"{place.root}: as of {manifest.created_at}; start it with: doublei up --home {place.root}")


@contextmanager
def _bars(console: Console) -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:

        def progress(text: str, size_bytes: int) -> Callable[[int], None]:
            for earlier in bars.task_ids:
                bars.update(earlier, visible=False)
            task = bars.add_task(text, total=size_bytes or None)
            return lambda done: bars.advance(task, done)

        yield progress
