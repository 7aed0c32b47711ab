"""Whether an audit was published: its entries in a log, their order, and the stamps of others on it.

Every entry is made again from the evidence in hand before its proof is looked at, so a proof shows that this
audit was entered and no other. What the bundle does not have is not checked, never passed; what it has and
does not hold fails, whoever it is signed by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from evidence import timestamps
from evidence.canonical import canonical_bytes, parse_canonical
from evidence.document import Document
from evidence.errors import EvidenceError, ProofInvalid
from evidence.log.checkpoint import Checkpoint, opened
from evidence.log.entry import Entry, EntryKind, record_digest
from evidence.log.merkle import leaf_hash, verify_consistency, verify_inclusion
from evidence.log.note import Note, PublicKey
from evidence.log.proof import NONE, WITH_RECORD, Proven, Publication
from evidence.steps import Status, Step
from evidence.trust import Trust

NO_PROOF = "no log proof is in this bundle: when everything was made rests on its maker's word"


class _Failed(Exception):
    """A step found something wrong."""


class _Open(Exception):
    """A step can't say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What is looked at."""

    publication: bytes
    """the file ``log.json``"""
    commitment_stamp: bytes
    """a timestamp authority's reply; empty if there is none"""
    verdict_stamp: bytes
    document: Document
    evidence_sha256: str


@dataclass(slots=True)
class _Case:
    given: Published
    trust: Trust
    publication: Publication | None = None
    earlier: Checkpoint | None = None
    later: Checkpoint | None = None
    records: Mapping[EntryKind, Mapping[str, object]] = field(default_factory=dict)

    @property
    def proofs(self) -> Publication:
        if self.publication is None:
            raise _Open(NO_PROOF)
        return self.publication

    @property
    def checkpoints(self) -> tuple[Checkpoint, Checkpoint]:
        """The earlier and the later one, whoever has signed them."""
        if self.earlier is None or self.later is None:
            self.earlier, self.later = _checkpoint(self.proofs.earlier), _checkpoint(self.proofs.checkpoint)
        return self.earlier, self.later


def check_published(given: Published, trust: Trust) -> tuple[Step, ...]:
    """The steps `published`, `order`, `history`, `checkpoints` and one for each timestamp. Total."""
    case = _Case(given=given, trust=trust)
    steps: list[Step] = []
    for number, (name, run) in enumerate(_STEPS, start=1):
        status, detail = _run(run, case)
        steps.append(Step(number=number, name=name, status=status, detail=detail))
    return tuple(steps)


def _run(step: Callable[[_Case], str], case: _Case) -> tuple[Status, str]:
    try:
        return Status.passed, step(case)
    except _Open as reason:
        return Status.not_checked, str(reason)
    except _Failed as failure:
        return Status.failed, str(failure)
    except EvidenceError as error:
        return Status.failed, f"{error.code}: {error}"
    except Exception as error:  # a hostile file must not get past a step by crashing it
        return Status.failed, f"the file made this step fail with {type(error).__name__}"


def _published(case: _Case) -> str:
    data = case.given.publication
    if data == NONE:
        raise _Open(NO_PROOF)
    case.publication = Publication.from_bytes(data)
    if not case.publication.complete:
        raise _Failed("a proof is missing: every kind of entry is either proven or said to be absent")
    _, later = case.checkpoints
    case.records = _records(case.given, case.publication)
    for one in case.publication.entries:
        entry = Entry(
            kind=one.kind,
            logged_at=one.logged_at,
            record_sha256=record_digest(one.kind, canonical_bytes(dict(case.records[one.kind]))),
        )
        Entry.from_bytes(bytes(entry))
        try:
            verify_inclusion(leaf_hash(bytes(entry)), one.index, later.size, one.hashes, later.root)
        except ProofInvalid as error:
            raise _Failed(f"this {one.kind} is not in the log: {error}") from None
    needed = {EntryKind.key_commitment, EntryKind.preregistration, EntryKind.verdict}
    if case.given.document.key.salt:
        needed.add(EntryKind.salt)
    if lost := sorted(needed & {*case.publication.absent}):
        raise _Open(f"the log has no entry of its {', '.join(lost)}")
    names = ", ".join(f"{one.kind} {one.index}" for one in case.publication.entries)
    return f"entries of {later.origin}, made again from this evidence: {names}"


def _records(given: Published, publication: Publication) -> dict[EntryKind, Mapping[str, object]]:
    """What each entry digests: as service.log.deeds enters it."""
    document, key = given.document, given.document.key
    records: dict[EntryKind, Mapping[str, object]] = {
        EntryKind.key_commitment: {
            "key": key.id,
            "owner": key.owner,
            "origin": key.origin,
            "grade": key.grade,
            "commitment": key.commitment,
            "commitment_record": dict(key.commitment_record),
        },
        EntryKind.salt: {"key": key.id, "salt": key.salt},
        EntryKind.preregistration: {
            "verification": document.verification,
            "preregistration_sha256": document.preregistration_sha256,
        },
        EntryKind.verdict: {
            "verification": document.verification,
            "evidence_sha256": given.evidence_sha256,
            "verdict": document.verdict,
        },
    }
    shown = {one.kind: one.record for one in publication.entries if one.kind in WITH_RECORD}
    return records | {kind: record for kind, record in shown.items() if record is not None}


def _order(case: _Case) -> str:
    entries = case.proofs.entries
    for one, other in pairwise(entries):
        if one.index >= other.index or one.logged_at > other.logged_at:
            raise _Failed(f"the {other.kind} was not entered after the {one.kind}")
    training, model = (case.proofs.entry(kind) for kind in (EntryKind.training, EntryKind.model))
    trained = {} if training is None or training.record is None else training.record
    marks = trained.get("watermark")
    if trained and (not isinstance(marks, dict) or marks["commitment"] != case.given.document.key.commitment):
        raise _Failed("the training was not with this key")
    if model is not None and model.record is not None:
        suspect = parse_canonical(case.given.document.preregistration.encode())["suspect"]["model"]
        if not trained or model.record["job"] != trained["job"] or model.record["model"] != suspect:
            raise _Failed("the model is another one than was trained, or than was asked")
    if training is None:
        raise _Open("commitment and audit follow each other; no training with this key is in the bundle")
    named = "" if model is None else ", which gave the suspect's model"
    return f"committed, then trained with this key at {training.logged_at}{named}, then audited"


def _history(case: _Case) -> str:
    earlier, later = case.checkpoints
    committed = case.proofs.entry(EntryKind.key_commitment)
    if earlier.origin != later.origin:
        raise _Failed("the two checkpoints are of two logs")
    if earlier.size == 0 or (committed is not None and committed.index >= earlier.size):
        raise _Failed("the earlier checkpoint does not cover the commitment")
    verify_consistency(earlier.size, later.size, earlier.root, later.root, case.proofs.consistency)
    if earlier == later:
        return f"commitment and verdict are under one checkpoint of {later.size} entries"
    return f"the log of {earlier.size} entries is the beginning of that of {later.size}"


def _checkpoints(case: _Case) -> str:
    proofs, logs = case.proofs, case.trust.logs
    if not logs:
        raise _Open("no log's key was given with --trust: who has signed the checkpoints is its maker's word")
    for text in (proofs.earlier, proofs.checkpoint):
        _signed_by(Note.from_text(text), logs)
    return f"{case.checkpoints[1].origin}, whose key you trust, has signed both"


def _signed_by(note: Note, logs: tuple[PublicKey, ...]) -> None:
    names = note.text.split("\n", 1)[0]
    own = [key for key in logs if key.name == names]
    if not own:
        raise _Failed("no log that you trust has signed a checkpoint")
    for key in own:
        if any((one.name, one.key_id) == (key.name, key.key_id) for one in note.signatures):
            opened(note, key)
            return
    raise _Failed("no log that you trust has signed a checkpoint")


def _commitment_stamp(case: _Case) -> str:
    following = case.proofs.entry(EntryKind.training) or case.proofs.entry(EntryKind.preregistration)
    return _stamp(
        case,
        case.given.commitment_stamp,
        note=case.proofs.earlier,
        of=case.proofs.entry(EntryKind.key_commitment),
        before=following,
    )


def _verdict_stamp(case: _Case) -> str:
    return _stamp(
        case,
        case.given.verdict_stamp,
        note=case.proofs.checkpoint,
        of=case.proofs.entry(EntryKind.verdict),
        before=None,
    )


def _stamp(case: _Case, reply: bytes, *, note: str, of: Proven | None, before: Proven | None) -> str:
    if not reply:
        if not case.proofs.authority:
            raise _Open("no timestamp authority was configured: the times are the service's own clock")
        raise _Open(f"{case.proofs.authority} has not stamped it, or not in time")
    text = Note.from_text(note).text
    moment = timestamps.stamped_at(reply, text)
    if of is None:
        raise _Failed("it stamps a checkpoint, and what was to be under it is not in the log")
    wrong = timestamps.contradiction(
        moment, logged_at=of.logged_at, before=None if before is None else before.logged_at
    )
    if wrong:
        raise _Failed(wrong)
    if not case.trust.authorities:
        raise _Open(
            f"it says {timestamps.shown(moment)}; no authority's root certificate was given with --trust"
        )
    timestamps.verify(reply, text, case.trust.authorities)
    what = f" and before the {before.kind}" if before is not None else ""
    return f"stamped at {timestamps.shown(moment)} by an authority that you trust{what}"


def _checkpoint(note: str) -> Checkpoint:
    return Checkpoint.from_text(Note.from_text(note).text)


_STEPS: tuple[tuple[str, Callable[[_Case], str]], ...] = (
    ("published", _published),
    ("order", _order),
    ("history", _history),
    ("checkpoints", _checkpoints),
    ("commitment stamp", _commitment_stamp),
    ("verdict stamp", _verdict_stamp),
)
