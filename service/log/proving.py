"""What the log says of one audit: the proofs that its bundle carries.

Written for a plain session, like `service.log.usecases`. Whose audit it is was decided before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy.orm import Session

from evidence.bundle import NOT_PUBLISHED, Publishing
from evidence.log import merkle
from evidence.log.entry import Entry, EntryKind
from evidence.log.proof import ORDER, WITH_RECORD, Proven, Publication
from evidence.timestamps import contradiction
from service.log import statements, usecases
from service.log.signers import Signers


@dataclass(frozen=True, slots=True, kw_only=True)
class Subjects:
    """Whose entries are looked for."""

    key: str
    verification: str
    job: str | None
    """that trained with the key, if there is one to be named"""
    gave_suspect: bool
    """whether the suspect is the model which that job has published"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    index: int
    entry: Entry
    record: Mapping[str, object] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Covering:
    """A checkpoint, and the stamp on it."""

    size: int
    note: str
    reply: bytes = b""
    authority: str = ""


def publishing(session: Session, signers: Signers, subjects: Subjects, *, authority: str) -> Publishing:
    """Proofs of the audit's entries. Signs a checkpoint if none covers the verdict yet.

    The checkpoints are the smallest that cover commitment and verdict, or the smallest stamped ones: what was
    proved once is proved alike later, but for a stamp that came meanwhile.

    Args:
        authority: of the settings; "" for none.

    Raises:
        LogInconsistent: the log is not the one that was signed.
    """
    found = _found(session, subjects)
    verdict, committed = found.get(EntryKind.verdict), found.get(EntryKind.key_commitment)
    if verdict is None:
        return NOT_PUBLISHED
    if session.execute(statements.covering(verdict.index)).first() is None:
        usecases.sign_checkpoint(session, signers)
    later = earlier = _covering(session, verdict)
    commitment_stamp = b""
    if committed is not None:
        following = found.get(EntryKind.training) or found.get(EntryKind.preregistration)
        earlier = _covering(session, committed, before=following, within=later.size)
        commitment_stamp = earlier.reply
    read = usecases.reader(session)
    return Publishing(
        proofs=Publication(
            entries=tuple(
                Proven(
                    kind=kind,
                    index=found[kind].index,
                    logged_at=found[kind].entry.logged_at,
                    hashes=tuple(merkle.inclusion_proof(found[kind].index, later.size, read)),
                    record=found[kind].record if kind in WITH_RECORD else None,
                )
                for kind in ORDER
                if kind in found
            ),
            absent=tuple(kind for kind in ORDER if kind not in found),
            earlier=earlier.note,
            checkpoint=later.note,
            consistency=tuple(merkle.consistency_proof(earlier.size, later.size, read)),
            authority=later.authority or earlier.authority or authority,
        ),
        commitment_stamp=commitment_stamp,
        verdict_stamp=later.reply,
    )


def _covering(
    session: Session, found: _Found, *, before: _Found | None = None, within: int | None = None
) -> _Covering:
    """The smallest stamped checkpoint that covers an entry, if its stamp proves what it is to prove; else the
    smallest. A stamp that came too late is left out, since it would be held against the evidence."""
    row = session.execute(statements.stamped(found.index)).first()
    if row is not None and (within is None or row[0] <= within):
        wrong = contradiction(
            row[2].stamped_at,
            logged_at=found.entry.logged_at,
            before=None if before is None else before.entry.logged_at,
        )
        if not wrong:
            return _Covering(size=row[0], note=row[1], reply=row[2].reply, authority=row[2].authority)
    size, note = session.execute(statements.covering(found.index)).one()
    return _Covering(size=size, note=note)


def _found(session: Session, subjects: Subjects) -> dict[EntryKind, _Found]:
    """The entries that tell of the audit, by kind. Of a job's runs the last one before the audit."""
    found = _told(session, subjects.key, EntryKind.key_commitment, EntryKind.salt)
    found |= _told(session, subjects.verification, EntryKind.preregistration, EntryKind.verdict)
    planned = found.get(EntryKind.preregistration)
    if subjects.job is None or planned is None:
        return found
    trained = _told(session, subjects.job, EntryKind.training, EntryKind.model)
    wanted = [EntryKind.training, *([EntryKind.model] if subjects.gave_suspect else [])]
    for kind in wanted:
        one = trained.get(kind)
        # a record that was deleted with its owner's data can't be shown, and the entry alone says nothing
        if one is None or one.record is None or one.index > planned.index:
            break
        found[kind] = one
    return found


def _told(session: Session, subject: str, *kinds: EntryKind) -> dict[EntryKind, _Found]:
    """The newest entry of each kind about a subject."""
    return {
        EntryKind(kind): _Found(
            index=index,
            entry=Entry.from_bytes(entry),
            record=None if record is None else json.loads(record),
        )
        for index, kind, entry, record in session.execute(statements.all_told(subject))
        if kind in kinds
    }
