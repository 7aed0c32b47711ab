"""`doublei log`: auditing a service's transparency log from outside, and keeping what it signed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cli.client import Api, ApiError
from cli.commands.connection import HomeOption, RoleOption, ServerOption, connect, path_part
from cli.commands.steps import show_steps
from cli.commands.wording import plain
from cli.errors import CliError, UsageMistake
from cli.files import create_private, write_private
from evidence.errors import NoteInvalid, ReceiptInvalid
from evidence.log.audit import LogReport, Witnesses, audit, cosigned_by, told
from evidence.log.checkpoint import Checkpoint, opened
from evidence.log.note import Kind, Note, PublicKey
from evidence.log.receipt import MAX_RECEIPT_BYTES, Receipt, proven
from evidence.log.succession import KeyHistory
from evidence.log.witness import parse_keys
from evidence.steps import Status

app = typer.Typer(help="Audit the transparency log, and keep what it signs.", no_args_is_help=True)

PAGE_ENTRIES = 10_000
INCONSISTENT, NOT_FOUND = "log_inconsistent", "not_found"

EXIT_SOUND = 0
EXIT_FAILED = 1
EXIT_NOT_TRUSTED = 2

WitnessOption = Annotated[
    list[str] | None,
    typer.Option(
        "--witness",
        metavar="KEY",
        help="A witness's key as you know it, or a file of such keys, one a line. May be repeated.",
    ),
]
QuorumOption = Annotated[
    int | None,
    typer.Option(
        "--quorum", metavar="N", min=1, help="How many of the witnesses must have cosigned. Default: all."
    ),
]


class LogUnreadable(CliError):
    """The service does not give its log: nothing can be said of it."""

    code = "log_unreadable"
    exit_code = 2


class NotAsTrusted(CliError):
    """A checkpoint that lacks the signatures that were asked for."""

    code = "not_as_trusted"


@app.command("audit")
def audit_log(
    trust: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="The log's key as you know it, or a file that holds it."),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="FILE", help="An earlier checkpoint, as you saved it.")
    ] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Save the present checkpoint here if nothing failed.")
    ] = None,
    witness: WitnessOption = None,
    quorum: QuorumOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report for machines.")] = False,
    home: HomeOption = None,
    server: ServerOption = None,
    role: RoleOption = "owner",
) -> None:
    """Read the whole log, make every hash again, and hold it against what the log has signed.

    With an earlier checkpoint this shows what even the owner of the database can't hide: entries edited,
    deleted or dated back, and an old backup put in the log's place. Keep checkpoints away from the service.
    With witnesses it shows that others were shown this very log.

    Exit status: 0 when nothing failed, 1 when a step failed, 2 when the log can't be read, or when nothing
    failed but the key is the service's own word (no --trust).

    Examples:  doublei log audit --trust log.key --checkpoint monday.note --save tuesday.note
    """
    given = None if trust is None else named_log(trust, option="--trust")
    earlier = None if checkpoint is None else _read(checkpoint, "--checkpoint")
    witnesses = _witnesses(witness, quorum)
    if save is not None and not save.absolute().parent.is_dir():
        raise UsageMistake(f"--save: the folder {save.absolute().parent} does not exist")
    console = Console(stderr=as_json)
    with connect(home, server, role) as service, _reading(console) as advance:
        report, note = _audit(service, given, earlier, witnesses, advance)
    saved = None
    if save is not None and report.consistent and note is not None:
        _write(save, note, "--save")
        saved = str(save)
    if as_json:
        print(json.dumps(report.to_record() | {"saved": saved}, indent=2))
    else:
        _show(console, report, saved)
    if not report.consistent:
        raise typer.Exit(EXIT_FAILED)
    raise typer.Exit(EXIT_SOUND if report.trusted else EXIT_NOT_TRUSTED)


@app.command("checkpoint")
def save_checkpoint(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where to keep it.", show_default=False)
    ],
    trust: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="The log's key as you know it, or a file that holds it."),
    ] = None,
    witness: WitnessOption = None,
    quorum: QuorumOption = None,
    home: HomeOption = None,
    server: ServerOption = None,
    role: RoleOption = "owner",
) -> None:
    """Save the log's present checkpoint. Keep it away from the service; audits are held against it later.

    With --trust it is saved only if that key, or one that it named, has signed it; with --witness only if
    enough of the witnesses have. Exit status 1: it is not saved for that.

    Examples:  doublei log checkpoint -o monday.note --trust log.key --witness witnesses
    """
    given = None if trust is None else named_log(trust, option="--trust")
    witnesses = _witnesses(witness, quorum)
    with connect(home, server, role) as service:
        try:
            note = _text(service.download("/v1/log/checkpoint"))
            successions = [] if given is None else _successions(service)
        except ApiError as error:
            raise LogUnreadable(str(error)) from None
    try:
        made = Checkpoint.from_text(Note.from_text(note).text)
    except NoteInvalid as error:
        raise LogUnreadable(f"the service gave no checkpoint: {error}") from None
    if given is not None:
        try:
            KeyHistory.of(given, successions).opened(Note.from_text(note))
        except NoteInvalid as error:
            raise NotAsTrusted(f"not saved: {error}") from None
    cosigned = cosigned_by(note, witnesses.keys if witnesses else [])
    if witnesses is not None and (
        sum(one.at is not None for one in cosigned) < witnesses.quorum or any(one.forged for one in cosigned)
    ):
        raise NotAsTrusted(f"not saved: {plain(told(cosigned))}; wanted: {witnesses.quorum}")
    _write(output, note, "--output")
    print(f"saved {output}: {made.size} entries of {plain(made.origin)}")
    if witnesses is not None:
        print(plain(told(cosigned)))


@app.command("prove")
def prove(
    watermark: Annotated[
        str, typer.Argument(metavar="ID", help="The id of a key at the service.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The receipt.", show_default=False)
    ],
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Prove it under this checkpoint or receipt, not the present one."),
    ] = None,
    home: HomeOption = None,
    server: ServerOption = None,
    role: RoleOption = "owner",
) -> None:
    """Write a receipt of a key's commitment: its entry, the record behind it, and the proof that a signed
    checkpoint covers it. Whoever knows the log's key can check it without a connection.

    Two receipts show which commitment came first if they are of one checkpoint: whoever makes the second one
    gives the first one's with --checkpoint. Nothing is overwritten.

    Examples:  doublei log prove wm-1 -o mine.receipt   |
    doublei log prove wm-1 -o mine.receipt --checkpoint theirs.receipt
    """
    path = path_part(watermark)
    given = None if checkpoint is None else _note_in(_read(checkpoint, "--checkpoint"))
    try:
        with connect(home, server, role) as service:
            key = _key_of(service)
            entered = service.get(f"/v1/watermarks/{path}/commitment")
            note = given or _text(service.download("/v1/log/checkpoint"))
            size = opened(Note.from_text(note), key).size
            made = service.get(f"/v1/log/inclusion?index={int(entered['index'])}&size={size}")
        receipt = Receipt(
            entry=str(entered["entry"]),
            record=dict(entered["record"]),
            index=int(entered["index"]),
            hashes=tuple(str(one) for one in made["hashes"]),
            checkpoint=note,
        )
        found = proven(receipt, [key])
    except NoteInvalid as error:
        raise LogUnreadable(f"the log has not signed this checkpoint: {error}") from None
    except (KeyError, TypeError, ValueError, ReceiptInvalid) as error:
        raise LogUnreadable(f"the service proves no such entry: {error}") from None
    try:
        create_private(output, bytes(receipt))
    except FileExistsError:
        raise UsageMistake(f"--output: {output} exists already") from None
    except OSError as error:
        raise UsageMistake(f"--output: {output}: {error.strerror}") from None
    print(
        f"saved {output}: entry {found.index} of {found.checkpoint.size}, {found.entry.logged_at}; "
        f"log {plain(found.log.name)}"
    )


@app.command("key")
def show_key(home: HomeOption = None, server: ServerOption = None, role: RoleOption = "owner") -> None:
    """Print the log's public key, as the service says it. Whoever relies on it should get it elsewhere too.

    Examples:  doublei log key > log.key
    """
    with connect(home, server, role) as service:
        print(_key_of(service))


def _audit(
    service: Api,
    trusted: PublicKey | None,
    earlier: str | None,
    witnesses: Witnesses | None,
    advance: Callable[[int, int], None],
) -> tuple[LogReport, str | None]:
    """The report, and the checkpoint that the service gave.

    Raises:
        LogUnreadable: the service could not be reached, or refused something else than to sign.
    """

    def entries(count: int) -> Iterable[bytes]:
        done = 0
        for start in range(0, count, PAGE_ENTRIES):
            limit = min(PAGE_ENTRIES, count - start)
            page = service.download(f"/v1/log/entries?start={start}&limit={limit}").split(b"\n")[:-1]
            if not page:
                return
            yield from page[:limit]
            done += len(page[:limit])
            advance(done, count)

    try:
        key = trusted or _key_of(service)
        note, refusal = _checkpoint(service)
        successions = _successions(service)
        report = audit(
            key=key,
            trusted=trusted is not None,
            note=note,
            refusal=refusal,
            earlier=earlier,
            entries=entries,
            successions=successions,
            witnesses=witnesses,
        )
    except ApiError as error:
        raise LogUnreadable(str(error)) from None
    return report, note


def _checkpoint(service: Api) -> tuple[str | None, str]:
    """The note, or None and why the service signs nothing."""
    try:
        return _text(service.download("/v1/log/checkpoint")), ""
    except ApiError as error:
        if error.refusal != INCONSISTENT:
            raise
        return None, str(error)


def _key_of(service: Api) -> PublicKey:
    try:
        return _log_key(str(service.get("/v1/log/key").get("key")))
    except NoteInvalid as error:
        raise LogUnreadable(f"the service gave no key: {error}") from None


def _successions(service: Api) -> list[tuple[int, str]]:
    """Every change of the log's key, as the service gives them; nothing of them was checked.

    Raises:
        ApiError: it gives none.
        LogUnreadable: it gave something else.
    """
    try:
        shown = service.get("/v1/log/keys").get("data")
    except ApiError as error:
        if error.refusal == NOT_FOUND:
            # From before keys could be changed. One that hides a change shows the entry that tells of it.
            return []
        raise
    try:
        return [(int(one["index"]), str(one["note"])) for one in shown or []]
    except (KeyError, TypeError, ValueError):
        raise LogUnreadable("the service gave no list of the log's keys") from None


def _witnesses(texts: list[str] | None, quorum: int | None) -> Witnesses | None:
    """Keys as given, or from files of that name.

    Raises:
        UsageMistake: one is neither, or the quorum is larger than what was named.
    """
    if not texts:
        if quorum is not None:
            raise UsageMistake("--quorum: name the witnesses with --witness")
        return None
    keys: list[PublicKey] = []
    for text in texts:
        try:
            try:
                found = parse_keys(text, Kind.witness)
            except NoteInvalid:
                found = parse_keys(_read(Path(text), "--witness"), Kind.witness)
        except NoteInvalid as error:
            raise UsageMistake(f"--witness: {plain(text)}: {error}") from None
        keys += [key for key, _ in found if key not in keys]
    if quorum is not None and quorum > len(keys):
        raise UsageMistake(f"--quorum: {quorum} of {len(keys)} witnesses can't be")
    return Witnesses(keys=keys, quorum=quorum or len(keys))


def named_log(text: str, *, option: str) -> PublicKey:
    """A log's key as given, or from the file of that name.

    Raises:
        UsageMistake: it is neither.
    """
    try:
        return _log_key(text)
    except NoteInvalid:
        pass
    try:
        return _log_key(_read(Path(text), option))
    except NoteInvalid as error:
        raise UsageMistake(f"{option}: {text}: {error}") from None


def _note_in(text: str) -> str:
    """A checkpoint, from a note or from a receipt that has one."""
    try:
        return Receipt.from_bytes(text.encode(errors="replace")).checkpoint
    except ReceiptInvalid:
        return text


def _log_key(text: str) -> PublicKey:
    key = PublicKey.from_text(text)
    if key.kind is not Kind.log:
        raise NoteInvalid("a witness's key, not a log's")
    return key


def _read(file: Path, option: str) -> str:
    try:
        with file.open("rb") as stream:
            return _text(stream.read(MAX_RECEIPT_BYTES + 1))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no such file"
        raise UsageMistake(f"{option}: {plain(str(file))}: {reason}") from None


def _text(data: bytes) -> str:
    """Bytes that are no UTF-8 make a text that is no note."""
    return data.decode("utf-8", errors="replace")


def _write(file: Path, text: str, option: str) -> None:
    try:
        write_private(file, text)
    except OSError as error:
        raise UsageMistake(f"{option}: {file}: {error.strerror}") from None


@contextmanager
def _reading(console: Console) -> Iterator[Callable[[int, int], None]]:
    """A bar with rate and time left, on a terminal; the value takes entries done and entries in all."""
    columns = (
        TextColumn("reading the log"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("entries", total=None, rate="")

        def advance(done: int, count: int) -> None:
            speed = progress.tasks[0].speed
            rate = "" if speed is None else f"{speed:,.0f} entries/s"
            progress.update(task, completed=done, total=count, rate=rate)

        yield advance


def _show(console: Console, report: LogReport, saved: str | None) -> None:
    show_steps(console, report.steps)
    if not report.consistent:
        failed = {step.name for step in report.steps if step.status is Status.failed}
        if failed == {"witnesses"}:
            console.print("\n[bold red]The witnesses you named do not stand for this log.[/]")
        else:
            console.print("\n[bold red]A step failed: this is not the log that was signed.[/]")
        return
    size = 0 if report.checkpoint is None else report.checkpoint.size
    if report.trusted:
        told = f"{size} entries, every hash made again: the log is the one that its key has signed."
    else:
        told = f"{size} entries: self-consistent only. Name a key that you trust with --trust."
    console.print(f"\n{told}", highlight=False)
    if saved is not None:
        console.print(f"saved {saved}", highlight=False, markup=False, soft_wrap=True)
