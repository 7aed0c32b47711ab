"""Pre-registering an owner's own audit: number and plan are fixed before the first question."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.errors import UsageMistake
from cli.owner import keyfile
from cli.owner.journal import AuditJournal, Header
from evidence.audit import Records
from evidence.document import preregistration_digest
from evidence.keyfile import KeyFile, Registered, now, with_audits
from evidence.plan import Campaign, Parties, Suspect, preregistration_text
from evidence.planning import PlanOutOfRange, PlanRequest, Shape, asking_of, plan_of
from watermark.errors import PlanError
from watermark.nonces import AUDITOR, NONCE_BYTES, SERVICE, Nonces, nonce_commitment


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """A registered audit: what its questions and its verdict follow from."""

    key: KeyFile
    index: int
    """the how-manieth of the key"""
    header: Header
    records: Records


def registered(path: Path, journal: AuditJournal, suspect: Suspect, request: PlanRequest) -> Audit:
    """The audit in the journal, or with an empty journal a new one under the key's next number.

    Raises:
        UsageMistake: the plan is out of range or can't reach its alpha, and no number is spent; or the
            journal has another audit than the one that is wished, or one that the key file does not know.
    """
    header = journal.header
    if header is None:
        return _register(path, journal, suspect, request)
    return on_record(keyfile.read(path), header, suspect, request, place=journal.path)


def register(
    path: Path, suspects: Sequence[Suspect], request: PlanRequest, *, campaign: str = ""
) -> tuple[KeyFile, tuple[Header, ...]]:
    """An audit of each suspect under the key's next number, which is spent now. Nothing else is written.

    Args:
        campaign: the id under which several suspects share the number.

    Raises:
        UsageMistake: the plan is out of range or can't reach its alpha; no number is spent.
    """
    headers: list[Header] = []
    moment = now()

    def change(key: KeyFile) -> KeyFile:
        """With the key held, so that no two audits get one number."""
        number = len(key.numbers) + 1
        audits = []
        for position, suspect in enumerate(suspects):
            verification, nonce = f"verif-{secrets.token_hex(12)}", secrets.token_bytes(NONCE_BYTES)
            shared = Campaign(id=campaign, position=position, size=len(suspects)) if campaign else None
            text = _text(
                key, number, suspect, request, verification=verification, nonce=nonce, campaign=shared
            )
            plan: Mapping[str, Any] = json.loads(text)["plan"]
            headers.append(
                Header(
                    verification=verification,
                    registered_at=moment,
                    nonce=nonce.hex(),
                    preregistration=text,
                )
            )
            audits.append(
                Registered(
                    verification=verification,
                    family=plan["family"],
                    registered_at=moment,
                    preregistration_sha256=preregistration_digest(text),
                    campaign=campaign,
                )
            )
        return with_audits(key, audits)

    return keyfile.update(path, change), tuple(headers)


def rehearse(key: KeyFile, suspects: Sequence[Suspect], request: PlanRequest) -> None:
    """Whether `register` would take these, with several suspects under one number. Spends nothing.

    Raises:
        UsageMistake: as `register`.
    """
    for position, suspect in enumerate(suspects):
        campaign = Campaign(id="", position=position, size=len(suspects))
        number, nonce = len(key.numbers) + 1, bytes(NONCE_BYTES)
        _text(key, number, suspect, request, verification="", nonce=nonce, campaign=campaign)


def on_record(key: KeyFile, header: Header, suspect: Suspect, request: PlanRequest, *, place: Path) -> Audit:
    """The audit that a file has on record, if it is this key's and the one that is wished.

    Args:
        place: the file, for the messages.

    Raises:
        UsageMistake: it is another one, or the key file does not know it.
    """
    index = _index_in(key, header, place)
    registered = json.loads(header.preregistration)
    shared = registered.get("campaign")
    wished = _text(
        key,
        index,
        suspect,
        request,
        verification=header.verification,
        nonce=_nonce(header),
        campaign=None if shared is None else Campaign(**shared),
    )
    if wished != header.preregistration:
        differs = _first_difference(registered, json.loads(wished))
        raise UsageMistake(
            f"{place} has an unfinished audit with another {differs}: end it with the same options, "
            "or give another --output"
        )
    return _audit(key, index, header)


def _register(path: Path, journal: AuditJournal, suspect: Suspect, request: PlanRequest) -> Audit:
    # the number first: lost between the two, it is spent and nothing was asked
    key, (header,) = register(path, [suspect], request)
    journal.begin(header)
    return _audit(key, len(key.numbers), header)


def _text(
    key: KeyFile,
    index: int,
    suspect: Suspect,
    request: PlanRequest,
    *,
    verification: str,
    nonce: bytes,
    campaign: Campaign | None = None,
) -> str:
    """The pre-registration. The owner is claimant and auditor, and plays the service's part of the nonces."""
    shape = Shape(families=key.design.families, marks=key.design.marks, cues=key.design.cues)
    parties = Parties(
        verification=verification,
        claimant=key.owner,
        auditor=key.owner,
        key_id=key.id,
        commitment=key.committed.commitment,
        grade=key.grade,
        audit_index=index,
        # nobody counts an owner's own keys; the grade assumes that there were 2^20
        owner_commitments=1,
    )
    try:
        return preregistration_text(
            parties,
            suspect,
            asking_of(request),
            plan_of(
                request,
                shape,
                grade=key.grade,
                audit_index=index,
                campaign_size=1 if campaign is None else campaign.size,
            ),
            nonces={SERVICE: nonce_commitment(SERVICE, nonce), AUDITOR: ""},
            cues=shape.cues,
            available_marks=shape.marks,
            campaign=campaign,
        )
    except (PlanError, PlanOutOfRange) as error:
        raise UsageMistake(error.message.rstrip(".")) from None


def _audit(key: KeyFile, index: int, header: Header) -> Audit:
    record = json.loads(header.preregistration)
    return Audit(
        key=key,
        index=index,
        header=header,
        records=Records(
            preregistration=record,
            opening=key.opened(record["plan"]["family"]),
            nonces=Nonces(service=_nonce(header)).to_record(),
        ),
    )


def _index_in(key: KeyFile, header: Header, journal: Path) -> int:
    """The audit's number, if the key file has it on record as it stands in the journal."""
    digest = preregistration_digest(header.preregistration)
    for known in key.audits:
        if known.verification == header.verification and known.preregistration_sha256 == digest:
            return key.numbers.index(known.number) + 1
    raise UsageMistake(f"{journal} has an audit that this key file does not know; give another --output")


def _nonce(header: Header) -> bytes:
    return bytes.fromhex(header.nonce)


def _first_difference(registered: Mapping[str, Any], wished: Mapping[str, Any]) -> str:
    return next((name for name in sorted(registered) if registered[name] != wished.get(name)), "content")
