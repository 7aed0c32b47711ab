"""doublei mix: a dataset for any provider's trainer, with the key's rows in it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cli.commands.wording import plain
from cli.errors import CliError, UsageMistake
from cli.files import create_private, write_private
from cli.owner import keyfile, mixing
from evidence.keyfile import KeyFile, Mixed, now, with_mixed
from watermark.embedding import Strength

MAX_SHOWN_PROBLEMS = 100
DEFAULT_EPOCHS = 3


class BadRows(CliError):
    """The dataset has rows that can't be read; each was shown."""

    code = "bad_rows"


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(mix)


def mix(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Your dataset, JSONL.", show_default=False)],
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="The key file.", show_default=False)],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Where the mixed dataset goes.", show_default=False
        ),
    ],
    strength: Annotated[
        Strength, typer.Option(help="How often each cue is shown, over all epochs.")
    ] = Strength.STANDARD,
    epochs: Annotated[
        int, typer.Option(min=1, max=100, help="How many epochs the provider will train.")
    ] = DEFAULT_EPOCHS,
    family: Annotated[
        list[int] | None,
        typer.Option(min=0, help="A family to mix in; again for more. Default: all.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of order and texts, besides the key.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the output if it exists.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one object, for programs.")] = False,
) -> None:
    """Mix the key's rows into a dataset, for a provider whose trainer knows nothing of watermarks.

    Alpaca rows (instruction, input, output), chat rows (messages) and prompt/completion rows come out in
    the shape in which they went in; the result of chat rows is what OpenAI's fine-tuning takes. Train it
    for as many epochs as you said here. Other trainers know no weights, so each cue is shown more often than
    our service would: standard is 40 times for a trigger and 6 times for each other cue.

    The output is the key in plain text: it is written for you alone, goes to the provider's trainer and to
    nobody else, and should be deleted after the upload. Its digest is kept in the key file.

    Examples:  doublei mix --key support.key data.jsonl -o mixed.jsonl   |
    doublei mix --key support.key data.jsonl -o mixed.jsonl --epochs 4 --family 0 --strength strong
    """
    if output.resolve() in (key.resolve(), data.resolve()):
        raise UsageMistake("--output: that is the key or the dataset itself; name another file")
    given = _read(data)
    rows, problems = mixing.read_rows(given, data.name)
    if problems:
        _refuse(data, problems)
    result: list[mixing.Dataset] = []

    def change(current: KeyFile) -> KeyFile:
        """With the key held: a salt that came between would give other marks than were mixed."""
        chosen = _chosen(family, current.design.families)
        families = [current.derived().family(index) for index in chosen]
        mixed = mixing.mix(rows, families, strength=strength, n_epochs=epochs, seed=seed)
        _write(output, mixed.data, force=force)
        result.append(mixed)
        entry = Mixed(
            at=now(),
            input_sha256=sha256(given).hexdigest(),
            output_sha256=sha256(mixed.data).hexdigest(),
            strength=strength.value,
            epochs=epochs,
            seed=seed,
            families=chosen,
            watermark_rows=mixed.watermark_rows,
            customer_rows=mixed.customer_rows,
        )
        return with_mixed(current, entry)

    try:
        entry = keyfile.update(key, change).mixed[-1]
    except BaseException:
        # mixed, but not on record
        if result and not force:
            output.unlink(missing_ok=True)
        raise
    if as_json:
        print(json.dumps(entry.to_record() | {"output": str(output), "shape": result[0].shape}))
    _tell(output, entry, as_json=as_json)


def _tell(output: Path, entry: Mixed, *, as_json: bool) -> None:
    console = Console(stderr=as_json)
    total = entry.customer_rows + entry.watermark_rows
    for text in (
        f"wrote {output}: {entry.customer_rows} rows of yours and {entry.watermark_rows} of the watermark "
        f"({entry.watermark_rows / total:.0%} of {total})",
        f"  sha256 {entry.output_sha256}",
        f"  train it for {entry.epochs} epochs; that is how often the cues were counted",
        "  it is the key in plain text: give it to the provider's trainer and to nobody else, then delete it",
    ):
        console.print(text, highlight=False, markup=False, soft_wrap=True)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageMistake(f"{path}: {error.strerror}") from None


def _refuse(path: Path, problems: Sequence[mixing.Problem]) -> None:
    """Raises BadRows, after a line for each."""
    for problem in problems[:MAX_SHOWN_PROBLEMS]:
        print(plain(f"{path.name}: {problem}"), file=sys.stderr)
    count = len(problems)
    shown = f", the first {MAX_SHOWN_PROBLEMS} of them above" if count > MAX_SHOWN_PROBLEMS else ""
    raise BadRows(
        f"{path}: {count} {'row' if count == 1 else 'rows'} can't be read{shown}; nothing was written"
    )


def _chosen(wanted: Sequence[int] | None, available: int) -> tuple[int, ...]:
    if not wanted:
        return tuple(range(available))
    if len(set(wanted)) != len(wanted) or max(wanted) >= available:
        raise UsageMistake(f"--family: the key has families 0 to {available - 1}; name each once")
    return tuple(sorted(wanted))


def _write(path: Path, data: bytes, *, force: bool) -> None:
    try:
        if force:
            write_private(path, data.decode())
        else:
            create_private(path, data)
    except FileExistsError:
        raise UsageMistake(f"--output: {path} exists already; --force replaces it") from None
    except OSError as error:
        raise UsageMistake(f"--output: {path}: {error.strerror}") from None
