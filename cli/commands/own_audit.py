"""doublei verify --key: an audit from the owner's own machine, with the key in a file and no service."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from rich.console import Console

from cli.commands.audit_display import AuditDisplay, show_outcome
from cli.errors import AuditNotFinished, UsageMistake
from cli.files import create_private
from cli.owner.asking import Sitting
from cli.owner.journal import AuditJournal
from cli.owner.registering import Audit, registered
from evidence.audit import Conclusion
from evidence.document import write
from evidence.plan import Suspect
from evidence.planning import PlanRequest
from probe.adapters import Api
from probe.address import HostPort, SuspectUrl, VettedTarget, parse_suspect_url, plain_host, resolve_and_vet
from probe.credential import Credential
from probe.errors import AddressNotAllowed, NameNotResolved, SuspectUrlError
from watermark.numerals import decimal_text, fraction_text
from watermark.replay import read_plan

JOURNAL_SUFFIX = ".journal"


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnAudit:
    """What the command line asked for."""

    key: Path
    endpoint: str
    model: str
    api: Api
    plan: PlanRequest
    allow: Sequence[str]
    output: Path
    conclude: bool
    """decide from what is on record, and ask nothing more"""
    as_json: bool
    credential: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """An audit whose evidence is on the disk."""

    sitting: Sitting
    conclusion: Conclusion
    sha256: str
    """of the evidence"""


def audit_alone(wished: OwnAudit) -> None:
    """Register, ask, decide and write the evidence; or go on where an earlier run stopped.

    Raises:
        UsageMistake: nothing was registered or sent.
        AuditNotFinished: it stopped undecided and can be continued.
        JournalNotWritten: the disk would not take the record of a question.
        KeyboardInterrupt: the user stopped it; it can be continued.
    """
    if not wished.model or not wished.model.isprintable():
        raise UsageMistake("--model: give the model's name at the suspect")
    _refuse_output(wished.output)
    credential = sendable(wished.credential)
    place = journal_of(wished.output)
    if wished.conclude and not place.exists():
        raise UsageMistake(f"--conclude: there is no unfinished audit in {place}")
    url = suspect_url(wished.endpoint, option="--endpoint")
    suspect = Suspect(base_url=str(url), model=wished.model, api=wished.api)
    # Judged before anything is registered: a mistake costs no share of alpha.
    target = None if wished.conclude else vetted(url, wished.allow, option="--endpoint")
    console = Console(stderr=wished.as_json)
    with AuditJournal(place) as journal:
        resumed = journal.header is not None
        audit = registered(wished.key, journal, suspect, wished.plan)
        ended = sit_through(console, audit, journal, wished.output, target, credential, resumed=resumed)
    _report(console, ended, wished)


def journal_of(output: Path) -> Path:
    """Where an unfinished audit is kept whose evidence will be in ``output``."""
    return output.with_name(output.name + JOURNAL_SUFFIX)


def sit_through(
    console: Console,
    audit: Audit,
    journal: AuditJournal,
    output: Path,
    target: VettedTarget | None,
    credential: Credential | None,
    *,
    resumed: bool,
) -> Ended:
    """Ask what is left, decide and write the evidence, in place of the journal.

    Args:
        target: whom to ask; None decides from what is on record.

    Raises:
        AuditNotFinished, JournalNotWritten, KeyboardInterrupt: as `audit_alone`.
        UsageMistake: the evidence can't be written; the journal stays.
    """
    _announce(console, audit, resumed=resumed)
    with AuditDisplay(console) as display:
        sitting = Sitting(audit, journal, lambda sitting: display.show(_view(sitting, "running")))
        if target is not None:
            sitting.ask(target, credential)
            _refuse_unfinished(console, sitting)
        conclusion = sitting.conclusion()
        display.show(_view(sitting, "succeeded"))
    data = write(sitting.document(conclusion))
    _save(output, data)
    journal.path.unlink()
    return Ended(sitting=sitting, conclusion=conclusion, sha256=sha256(data).hexdigest())


def suspect_url(text: str, *, option: str) -> SuspectUrl:
    """Raises `UsageMistake`, naming the option."""
    try:
        return parse_suspect_url(text)
    except SuspectUrlError as error:
        raise UsageMistake(f"{option}: {error}") from None


def vetted(url: SuspectUrl, allow: Sequence[str], *, option: str) -> VettedTarget:
    """Where a suspect is asked.

    Raises:
        UsageMistake: its name has no address, or one that may not be asked.
    """
    try:
        return asyncio.run(resolve_and_vet(url, frozenset(_host_port(text) for text in allow)))
    except NameNotResolved as error:
        raise UsageMistake(f"{option}: {error}; nothing was registered") from None
    except AddressNotAllowed as error:
        raise UsageMistake(f"{option}: {error}; if it is meant, add: --allow {url.host_port}") from None


def _host_port(text: str) -> HostPort:
    host, _, port = text.rpartition(":")
    try:
        if not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
            raise SuspectUrlError
        return plain_host(host.strip("[]"), bracketed=host.startswith("[")), int(port)
    except SuspectUrlError:
        raise UsageMistake("--allow: give HOST:PORT, such as 127.0.0.1:8000") from None


def sendable(token: str | None) -> Credential | None:
    """A credential as it is sent.

    Raises:
        UsageMistake: it can't be; it is not shown.
    """
    try:
        return None if token is None else Credential(token)
    except ValueError as error:
        raise UsageMistake(f"the suspect's credential can't be sent: {error}") from None


def _refuse_output(output: Path) -> None:
    if output.exists():
        raise UsageMistake(f"--output: {output} exists already; evidence is never written over")
    if not output.absolute().parent.is_dir():
        raise UsageMistake(f"--output: the folder {output.absolute().parent} does not exist")


def _refuse_unfinished(console: Console, sitting: Sitting) -> None:
    if sitting.interrupted and sitting.left:
        console.print(
            "stopped; the same command goes on where it was, and asks nothing twice", soft_wrap=True
        )
        raise KeyboardInterrupt
    if sitting.undecided:
        raise AuditNotFinished(
            "the time was up before enough was seen: the same command goes on where it was (or end it: add "
            "--conclude)"
        )


def _save(output: Path, data: bytes) -> None:
    try:
        create_private(output, data)
    except OSError as error:
        raise UsageMistake(
            f"--output: {output}: {error.strerror}; the same command writes it again, with nothing asked"
        ) from None


def _announce(console: Console, audit: Audit, *, resumed: bool) -> None:
    alpha_i = decimal_text(read_plan(audit.records.preregistration).alpha_i)
    state = "goes on" if resumed else "is registered"
    console.print(
        f"{audit.header.verification} {state}: audit {audit.index} of this key, alpha_i = {alpha_i} "
        f"(grade {audit.key.grade})",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _report(console: Console, ended: Ended, wished: OwnAudit) -> None:
    conclusion = ended.conclusion
    result = _view(ended.sitting, "succeeded") | {
        "verdict": conclusion.verdict,
        "reasons": list(conclusion.reasons),
        "result": dict(conclusion.decision),
        "evidence": str(wished.output),
        "evidence_sha256": ended.sha256,
    }
    show_outcome(console, result)
    for text in (
        f"  evidence: {wished.output} (sha256 {ended.sha256})",
        f"  check it offline: doublei evidence check {wished.output}",
        "  it opens the family that was asked; the key's other families stay secret",
    ):
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    if wished.as_json:
        print(json.dumps(result))


def _view(sitting: Sitting, status: str) -> dict[str, Any]:
    """The audit as the service's API shows one, for the same display and the same programs."""
    plan = read_plan(sitting.audit.records.preregistration)
    seen = () if sitting.standing is None else sitting.standing.looks
    return {
        "id": sitting.audit.header.verification,
        "object": "verification",
        "status": status,
        "mode": plan.mode,
        "progress": {"asked": sitting.asked, "total": len(sitting.drawn)},
        "looks": [
            {
                "look": number,
                "mark": look.mark,
                "e_value": decimal_text(look.e_value),
                "product": decimal_text(look.product),
            }
            for number, look in enumerate(seen, start=1)
        ],
        "verdict": None,
        "reasons": None,
        "result": None,
        "error": None,
        "preregistration": {"audit_index": sitting.audit.index, "alpha_i": fraction_text(plan.alpha_i)},
    }
