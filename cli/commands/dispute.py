"""doublei dispute: two owners, two models, each key at each model, and whose commitment is the earlier."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.commands import credential
from cli.commands.log import named_log
from cli.commands.own_audit import journal_of, sendable, sit_through, suspect_url, vetted
from cli.commands.verify import SuspectApi
from cli.commands.wording import plain
from cli.dispute.folder import (
    PAGE_NAME,
    RECORD_NAME,
    Declared,
    Side,
    declared,
    evidence_path,
)
from cli.dispute.page import html_page
from cli.errors import UsageMistake
from cli.files import make_private_dir, write_private
from cli.owner.journal import AuditJournal
from evidence import bundle
from evidence.canonical import MAX_BYTES
from evidence.dispute.cross import PLACES, A, B, Finding
from evidence.dispute.judgment import Judgment, judge
from evidence.errors import DisputeInvalid, EvidenceError, ReceiptInvalid
from evidence.log.note import PublicKey
from evidence.log.receipt import MAX_RECEIPT_BYTES, Receipt
from evidence.plan import Suspect
from evidence.planning import PlanRequest
from probe.adapters import Api
from probe.address import SuspectUrl, VettedTarget
from probe.credential import Credential

_STYLES = {Finding.shown: "bold green", Finding.not_shown: "cyan", Finding.undecided: "yellow"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One owner's part of the command line."""

    letter: str
    key: Path | None
    endpoint: str | None
    model: str | None
    api: SuspectApi
    family: int | None
    receipt: Path | None
    token: str | None = field(repr=False)

    def option(self, name: str) -> str:
        """As it is typed."""
        return f"--{self.letter.lower()}-{name}"

    @property
    def given(self) -> list[str]:
        """What only asking needs, as far as it was given."""
        options = {
            "key": self.key,
            "endpoint": self.endpoint,
            "model": self.model,
            "family": self.family,
            "suspect-key-…": self.token,
        }
        return [self.option(name) for name, value in options.items() if value is not None]


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(dispute)


def dispute(
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="DIR", help="The dispute's folder; a new one.", show_default=False
        ),
    ],
    a_key: Annotated[Path | None, typer.Option(metavar="FILE", help="A's key file.")] = None,
    a_endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="Base URL of the model that A claims.")
    ] = None,
    a_model: Annotated[str | None, typer.Option(metavar="M", help="Its name there.")] = None,
    b_key: Annotated[Path | None, typer.Option(metavar="FILE", help="B's key file.")] = None,
    b_endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="Base URL of the model that B claims.")
    ] = None,
    b_model: Annotated[str | None, typer.Option(metavar="M", help="Its name there.")] = None,
    evidence: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Instead of asking, four times: A's key at A's model, A's at B's, B's at A's, B's at B's. "
            "Evidence files or bundles.",
            show_default=False,
        ),
    ] = None,
    a_receipt: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A log's receipt of A's commitment.")
    ] = None,
    b_receipt: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A log's receipt of B's commitment.")
    ] = None,
    trust_log: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="The key of a log that the receipts are from, or its file.",
            show_default=False,
        ),
    ] = None,
    a_suspect_key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="Variable with the credential of A's model.")
    ] = None,
    a_suspect_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with the credential of A's model.")
    ] = None,
    b_suspect_key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="Variable with the credential of B's model.")
    ] = None,
    b_suspect_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with the credential of B's model.")
    ] = None,
    a_api: Annotated[SuspectApi, typer.Option(help="What A's model speaks.")] = SuspectApi.chat,
    b_api: Annotated[SuspectApi, typer.Option(help="What B's model speaks.")] = SuspectApi.chat,
    a_family: Annotated[
        int | None, typer.Option(min=0, help="Family of A's key. Default: the first unopened.")
    ] = None,
    b_family: Annotated[
        int | None, typer.Option(min=0, help="Family of B's key. Default: the first unopened.")
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            "--allow",
            metavar="HOST:PORT",
            help="A loopback or private address that may be asked.",
            show_default=False,
        ),
    ] = None,
    sequential: Annotated[
        bool, typer.Option("--sequential", help="Decide after every mark; stop once enough is seen.")
    ] = False,
    alpha: Annotated[str | None, typer.Option(help="Significance level of each key. Default: 1e-6.")] = None,
    marks: Annotated[int | None, typer.Option(min=1, help="How many marks. Default: all.")] = None,
    probes_per_cue: Annotated[
        int | None, typer.Option(min=1, max=3, help="Questions for each cue. Default: 2.")
    ] = None,
    conclude: Annotated[
        bool, typer.Option("--conclude", help="Decide from what is on record, asking no more.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report on standard output, for programs.")
    ] = False,
) -> None:
    """Two owners claim two models: ask both with both keys, and put the order of the commitments beside it.

    The plans of the four audits are fixed together before the first question. Both audits of a key share its
    next number, so each has half of that number's alpha (Holm). One family of each key is opened. A run that
    was stopped goes on with the same command, and asks nothing twice.

    Whoever runs it needs both key files. Owners who would not hand theirs over run their own two audits and
    exchange the evidence: --evidence, four times. Either way the report is made from the four files alone,
    and says what they support and what they can't decide. A log's receipt (doublei log prove) proves how old
    a commitment is; without receipts the order is not proven.

    Exit status 0: the report was written, whatever it says.

    Examples:  doublei dispute --a-key a.key --a-endpoint https://a.example/v1 --a-model m --b-key b.key
    --b-endpoint https://b.example/v1 --b-model n -o dispute   |
    doublei dispute --evidence aa.json --evidence ab.json --evidence ba.json --evidence bb.json -o dispute
    """
    claims = {
        A: Claim(
            letter=A,
            key=a_key,
            endpoint=a_endpoint,
            model=a_model,
            api=a_api,
            family=a_family,
            receipt=a_receipt,
            token=credential.read_credential(a_suspect_key_env, a_suspect_key_file, prompt=False),
        ),
        B: Claim(
            letter=B,
            key=b_key,
            endpoint=b_endpoint,
            model=b_model,
            api=b_api,
            family=b_family,
            receipt=b_receipt,
            token=credential.read_credential(b_suspect_key_env, b_suspect_key_file, prompt=False),
        ),
    }
    logs = [named_log(text, option="--trust-log") for text in trust_log or ()]
    receipts = {letter: _receipt(claim) for letter, claim in claims.items() if claim.receipt is not None}
    console = Console(stderr=as_json)
    if evidence:
        asking = {
            "--allow": bool(allow),
            "--sequential": sequential,
            "--alpha": alpha is not None,
            "--marks": marks is not None,
            "--probes-per-cue": probes_per_cue is not None,
            "--conclude": conclude,
        }
        given = [*claims[A].given, *claims[B].given, *(name for name, is_given in asking.items() if is_given)]
        if given:
            raise UsageMistake(f"{given[0]} is for asking, and with --evidence nothing is asked")
        if len(evidence) != len(PLACES):
            raise UsageMistake("--evidence: give four files, each key at each model")
        _new_folder(output)
        judgment = _judged(evidence, receipts, logs)
    else:
        wished: dict[str, Any] = {"mode": "sequential"} if sequential else {}
        options = {"alpha": alpha, "marks": marks, "probes_per_cue": probes_per_cue}
        wished |= {name: value for name, value in options.items() if value is not None}
        paths = _ask(console, output, claims, PlanRequest(**wished), allow or (), conclude=conclude)
        judgment = _judged(paths, receipts, logs)
    record = judgment.to_record()
    _write(output, record)
    show(console, record)
    console.print(f"\nreport: {output / PAGE_NAME}", highlight=False, markup=False, soft_wrap=True)
    if as_json:
        print(json.dumps(record | {"report": str(output / PAGE_NAME)}))


def show(console: Console, record: Mapping[str, Any]) -> None:
    """The report on a terminal."""
    parties = record["parties"]
    table = Table(title=None, show_lines=True)
    table.add_column("")
    for letter in (A, B):
        table.add_column(f"{letter}'s model\n[dim]{escape(plain(parties[letter]['model']))}[/]")
    for key in (A, B):
        cells = [_cell(audit) for audit in record["audits"] if audit["key"] == key]
        table.add_row(f"{key}'s key\n[dim]{escape(plain(parties[key]['owner']))}[/]", *cells)
    console.print(table)
    _say(console, f"[bold]{escape(record['headline'])}[/]")
    order = record["order"]
    if order["earlier"]:
        owner = escape(plain(parties[order["earlier"]]["owner"]))
        proven = "" if order["proven"] else " [yellow](not proven)[/]"
        _say(console, f"The earlier commitment: [bold]{order['earlier']}'s[/], of {owner}{proven}")
    for title, items in (
        ("What this supports", record["supports"]),
        ("What this can't decide", record["cannot_decide"]),
    ):
        _say(console, f"\n[bold]{title}[/]")
        for item in items:
            _say(console, f"- {escape(plain(item))}")


def _cell(audit: Mapping[str, Any]) -> str:
    finding = Finding(audit["finding"])
    figures = f"p = {audit['p_value']} (allowed {audit['threshold']})"
    hits = f"triggers {audit['trigger_hits']}, elsewhere {audit['reference_hits']}"
    return (
        f"[{_STYLES[finding]}]{finding.value.replace('_', ' ')}[/]\n{escape(figures)}\n[dim]{escape(hits)}[/]"
    )


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)


def _ask(
    console: Console,
    folder: Path,
    claims: Mapping[str, Claim],
    request: PlanRequest,
    allow: Sequence[str],
    *,
    conclude: bool,
) -> list[Path]:
    """Declare the four audits and finish those that are not; returns their evidence, in order."""
    urls = {letter: _url(claim) for letter, claim in claims.items()}
    sides = {letter: _side(claim, urls[letter]) for letter, claim in claims.items()}
    credentials = {letter: sendable(claim.token) for letter, claim in claims.items()}
    paths = {place: evidence_path(folder, place) for place in PLACES}
    unfinished = [place for place in PLACES if not paths[place].exists()]
    if conclude and not folder.exists():
        raise UsageMistake(f"--conclude: there is no unfinished dispute in {folder}")
    # Judged before anything is registered: a mistake costs no share of alpha.
    targets: dict[str, VettedTarget | None] = {
        letter: None if conclude else vetted(urls[letter], allow, option=claims[letter].option("endpoint"))
        for letter in sorted({model for _, model in unfinished})
    }
    plans = declared(folder, sides, request)
    state = "goes on" if plans.resumed else "is declared"
    console.print(
        f"{plans.dispute} {state}: four audits under one plan, sha256 {plans.sha256}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    for place in unfinished:
        _sit(console, plans, place, paths[place], targets[place[1]], credentials[place[1]])
    return list(paths.values())


def _sit(
    console: Console,
    plans: Declared,
    place: tuple[str, str],
    output: Path,
    target: VettedTarget | None,
    credential: Credential | None,
) -> None:
    audit = plans.audits[place]
    _say(console, f"\n[bold]{place[0]}'s key at {place[1]}'s model[/]")
    with AuditJournal(journal_of(output)) as journal:
        resumed = journal.header is not None
        if not resumed:
            journal.begin(audit.header)
        elif journal.header != audit.header:
            raise UsageMistake(f"{journal.path} is of another audit than the dispute's plan")
        sit_through(console, audit, journal, output, target, credential, resumed=resumed)


def _url(claim: Claim) -> SuspectUrl:
    if claim.key is None or claim.endpoint is None or claim.model is None:
        needed = ", ".join(claim.option(name) for name in ("key", "endpoint", "model"))
        raise UsageMistake(f"give {needed} (or --evidence, four times)")
    if not claim.model or not claim.model.isprintable():
        raise UsageMistake(f"{claim.option('model')}: give the model's name at the endpoint")
    return suspect_url(claim.endpoint, option=claim.option("endpoint"))


def _side(claim: Claim, url: SuspectUrl) -> Side:
    if claim.key is None or claim.model is None:
        raise UsageMistake(f"give {claim.option('key')} and {claim.option('model')}")
    suspect = Suspect(base_url=str(url), model=claim.model, api=Api(claim.api.value))
    return Side(key=claim.key, suspect=suspect, family=claim.family)


def _judged(paths: Sequence[Path], receipts: Mapping[str, Receipt], logs: Sequence[PublicKey]) -> Judgment:
    try:
        return judge([_evidence(path) for path in paths], receipts, logs)
    except DisputeInvalid as error:
        raise UsageMistake(str(error)) from None


def _evidence(path: Path) -> bytes:
    """An evidence file's bytes, out of a bundle too."""
    data = _bytes(path, MAX_BYTES)
    if not bundle.looks_like_bundle(data):
        return data
    try:
        return bundle.read_bundle(data)[bundle.EVIDENCE]
    except EvidenceError as error:
        raise UsageMistake(f"{path}: no bundle: {error}") from None


def _receipt(claim: Claim) -> Receipt:
    path = claim.receipt
    if path is None:
        raise UsageMistake(f"give {claim.option('receipt')}")
    try:
        return Receipt.from_bytes(_bytes(path, MAX_RECEIPT_BYTES))
    except ReceiptInvalid as error:
        raise UsageMistake(f"{claim.option('receipt')}: {path}: {error}") from None


def _bytes(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        raise UsageMistake(f"{path}: {error.strerror}") from None


def _new_folder(folder: Path) -> None:
    try:
        make_private_dir(folder)
    except OSError as error:
        raise UsageMistake(f"--output: {folder}: {error.strerror}") from None
    if (folder / PAGE_NAME).exists():
        raise UsageMistake(f"--output: {folder} has a report already")


def _write(folder: Path, record: Mapping[str, Any]) -> None:
    try:
        write_private(folder / PAGE_NAME, html_page(record))
        write_private(folder / RECORD_NAME, json.dumps(record, indent=2) + "\n")
    except OSError as error:
        raise UsageMistake(f"--output: {folder}: {error.strerror}") from None
