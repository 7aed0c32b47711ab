"""`doublei evidence`: an audit's file, checked and bundled offline, or its bundle from the service."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from cli import signing
from cli.client import Api
from cli.commands.connection import HomeOption, RoleOption, ServerOption, connect
from cli.commands.steps import show_steps
from cli.commands.wording import plain
from cli.errors import UsageMistake
from cli.files import create_private
from evidence import bundle
from evidence.canonical import MAX_BYTES
from evidence.check import Report, check
from evidence.comparison import PUBLISHED, TwoReports, compare
from evidence.errors import EvidenceError
from evidence.steps import Status, Step
from evidence.trust import Trust

app = typer.Typer(
    help="Check the evidence of an audit offline, or bundle it for others.", no_args_is_help=True
)

EXIT_CONSISTENT = 0
EXIT_FAILED = 1
EXIT_UNREADABLE = 2

_VERIFICATION = re.compile(r"verif-[0-9A-Za-z]{1,64}")


@app.command("check")
def check_file(
    file: Annotated[
        Path, typer.Argument(help="The evidence file or bundle, as downloaded.", show_default=False)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print the report for machines.")] = False,
    sha256: Annotated[
        str | None, typer.Option(help="The file's SHA-256 as learned from elsewhere.", metavar="HEX")
    ] = None,
    trust: Annotated[
        Path | None,
        typer.Option(
            help="What you trust: keys that sign bundles and logs, a line each; certificates of timestamp "
            "authorities (PEM).",
            metavar="FILE",
        ),
    ] = None,
) -> None:
    """Decide an audit again from its file alone.

    A bundle is decided twice, by two implementations that share no code; where they disagree the check fails.

    Exit status of an evidence file: 0 when no step failed, 1 when one did, 2 when the file can't be read.
    Of a bundle: 0 when trusted keys have signed it and the log, and every step passed but those that can
    stay open (order without a training, timestamps, spoken); 2 when another one could not be checked; 1 when
    a step failed or it is no bundle.
    """
    data = _read(file, MAX_BYTES)
    if bundle.looks_like_bundle(data):
        _check_bundle(data, sha256, signing.trusted(trust), as_json)
    if trust is not None:
        raise UsageMistake("a bare evidence file has no signature: --trust goes with a bundle")
    report = check(data, expected_sha256=sha256)
    if as_json:
        typer.echo(json.dumps(report.to_record(), indent=2))
    else:
        _show(report, Console())
    raise typer.Exit(EXIT_CONSISTENT if report.consistent else EXIT_FAILED)


@app.command("bundle")
def make_bundle(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE_OR_ID",
            help="The evidence file, as downloaded; or a verification's id: the service has a bundle of it.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Where to write it; evidence-<verification>.zip here."
        ),
    ] = None,
    sign: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Sign it with the key in this file.")
    ] = None,
    home: HomeOption = None,
    server: ServerOption = None,
    role: RoleOption = "owner",
) -> None:
    """Put an evidence file into a zip with its own checker, for somebody who has none of our software.

    The zip holds the evidence, the word lists, a statement of digests and verdict, its signature, and
    verify.py: one file that needs Python alone. The bundle of a service's audit is signed by the service,
    and has beside these the proofs that the audit is in the transparency log, and timestamps. Evidence that
    does not pass the check is not bundled. Nothing is overwritten. Prints the zip's SHA-256.

    Examples:  doublei evidence bundle verif-1a2b3c --as auditor
    |   doublei evidence bundle evidence.json --sign auditor.pem -o evidence-verif-1.zip
    """
    if _VERIFICATION.fullmatch(file) and not Path(file).exists():
        if sign is not None:
            raise UsageMistake(
                "--sign: the service signs the bundles that it gives; download the evidence instead"
            )
        with connect(home, server, role) as service:
            made = _fetched(service, file)
        path = Path(f"evidence-{file}.zip") if output is None else output
    else:
        made, path = _built(Path(file), sign, output)
    try:
        create_private(path, made)
    except FileExistsError:
        raise UsageMistake(f"{path} is there already and is left as it is") from None
    except OSError as error:
        raise UsageMistake(f"{path}: {error.strerror}") from None
    typer.echo(f"{hashlib.sha256(made).hexdigest()}  {path}")


@app.command("keys")
def service_keys(home: HomeOption = None, server: ServerOption = None, role: RoleOption = "owner") -> None:
    """Print the keys of a service that --trust takes, of bundles and log, as the service says them.

    Whoever relies on them should get them elsewhere too, and add the timestamp authority's certificate.

    Example:  doublei evidence keys > trust.txt
    """
    with connect(home, server, role) as service:
        lines = [str(service.get(path).get("key")) for path in ("/v1/evidence/key", "/v1/log/key")]
    for line in lines:
        typer.echo(plain(line))


@app.command("signing-key")
def signing_key(
    file: Annotated[Path, typer.Argument(help="The key file.", show_default=False)],
    show: Annotated[
        bool, typer.Option("--show", help="Print the public line of the key that is there.")
    ] = False,
    rotate: Annotated[
        bool,
        typer.Option("--rotate", help="Put a new key into the place of the one there. Prints both lines."),
    ] = False,
) -> None:
    """Make a key that signs bundles, in a new file that only you can read. Prints its public line.

    Hand the line to those who will check your bundles, by another way than the bundles; they put it into the
    file that they give to --trust. After --rotate they add the new line and keep the old one: with it the old
    bundles verify as before. Whoever no longer believes the old key takes its line out.
    """
    if rotate:
        if show:
            raise UsageMistake("--show only shows, --rotate changes the key: give one of them")
        old, new = signing.replace(file)
        typer.echo(signing.shown(new, file.stem))
        typer.echo(signing.shown(old, f"{file.stem}, retired"))
        return
    key = signing.read(file) if show else signing.create(file)
    typer.echo(signing.shown(key, file.stem))


def _fetched(service: Api, verification: str) -> bytes:
    """The service's bundle, if no step of its check fails."""
    data = service.download(f"/v1/verifications/{verification}/bundle")
    try:
        report = compare(bundle.read_bundle(data), Trust())
    except EvidenceError as error:
        raise UsageMistake(f"the service gave no bundle: {error}") from None
    if report.exit_status == EXIT_FAILED:
        raise UsageMistake(f"the service's bundle of {verification} proves nothing: it fails its own check")
    return data


def _built(file: Path, sign: Path | None, output: Path | None) -> tuple[bytes, Path]:
    data = _read(file, MAX_BYTES)
    signers = [] if sign is None else [signing.read(sign)]
    failed = [step.name for step in check(data).steps if step.status is Status.failed]
    if failed:
        raise UsageMistake(f"{file} proves nothing: {failed[0]} failed; see: doublei evidence check {file}")
    try:
        made = bundle.make_bundle(data, *signers)
        return made, Path(bundle.bundle_name(data)) if output is None else output
    except EvidenceError as error:
        raise UsageMistake(f"{file}: {error}") from None


def _read(file: Path, limit: int) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(limit + 1)
    except OSError as error:
        typer.echo(f"{file}: {error.strerror}", err=True)
        raise typer.Exit(EXIT_UNREADABLE) from None


def _check_bundle(data: bytes, expected: str | None, trust: Trust, as_json: bool) -> NoReturn:
    actual = hashlib.sha256(data).hexdigest()
    if expected is not None and actual != expected.lower():
        _refuse(f"the bundle's SHA-256 is {actual}, not the expected one", as_json)
    try:
        files = bundle.read_bundle(data)
    except EvidenceError as error:
        _refuse(f"no bundle: {error}", as_json)
    report = compare(files, trust)
    if as_json:
        typer.echo(json.dumps(report.to_record() | {"sha256": actual}, indent=2))
    else:
        _show_bundle(report, Console())
    raise typer.Exit(report.exit_status)


def _refuse(why: str, as_json: bool) -> NoReturn:
    if as_json:
        typer.echo(json.dumps({"exit": EXIT_FAILED, "refused": why}, indent=2))
    else:
        typer.echo(f"This file proves nothing: {why}", err=True)
    raise typer.Exit(EXIT_FAILED)


def _show_bundle(report: TwoReports, console: Console) -> None:
    steps = report.standalone["steps"]
    # the standalone check can't read timestamps: its step gives way to those of ours
    stamps = [step.to_record() for step in report.published if step.name not in PUBLISHED]
    show_steps(
        console,
        [
            Step(
                number=number,
                name=step["name"],
                status=Status(step["status"]),
                detail=step["detail"],
            )
            for number, step in enumerate((*steps[:-2], *stamps, steps[-1]), start=1)
        ],
    )
    if report.own_verifier:
        console.print("\nThe verify.py inside is this software's; it was not run.")
    else:
        console.print("\n[yellow]The verify.py inside is not this software's; it was not run.[/]")
    for difference in report.disagreements:
        console.print(f"[bold red]The two implementations disagree:[/] {escape(difference)}")
    if report.exit_status == EXIT_FAILED:
        console.print("\n[bold red]This bundle proves nothing: a step failed.[/]")
        return
    verdict = str(report.standalone["verdict"]).replace("_", " ")
    p = report.standalone["p_value_decimal"] or "none"
    signed = any((step["name"], step["status"]) == ("signature", Status.passed) for step in steps)
    by = "signed by a key that you trust" if signed else "self-consistent only"
    if signed and report.exit_status != 0:
        by += ", but a step could not be checked"
    console.print(
        f"\n[bold]{escape(verdict)}[/], p = {escape(str(p))}: {by}, decided twice alike. What is not checked "
        "above rests on the word of those who made the file."
    )


def _show(report: Report, console: Console) -> None:
    show_steps(console, report.steps)
    document = report.document
    if report.consistent and document is not None:
        p = document.decision.get("p_value_decimal", "none")
        console.print(
            f"\n[bold]{document.verdict.replace('_', ' ')}[/], p = {p}: self-consistent. What is not checked "
            "above rests on the word of those who made the file."
        )
    else:
        console.print("\n[bold red]This file proves nothing: a step failed.[/]")
