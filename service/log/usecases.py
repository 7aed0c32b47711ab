"""Appending to the log, signing it and proving what is in it.

Everything is written for a plain session; an asynchronous one lends itself by ``run_sync``, so that a proof
and an append exist once. Whoever appends does it in the transaction of the deed: an entry exists if and only
if what it tells of was committed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import structlog
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from evidence.errors import NoteInvalid
from evidence.log import merkle
from evidence.log.checkpoint import Checkpoint, sign
from evidence.log.entry import EntryKind, entry_of
from evidence.log.merkle import Node
from evidence.log.note import Note, PublicKey, Signer
from evidence.log.succession import KeyChange, KeyHistory, succeed
from service.errors import InvalidRequest, ServiceError
from service.log import deeds, statements
from service.log.deeds import Deed
from service.log.signers import Signers
from service.log.statements import NewEntry

log = structlog.get_logger(__name__)


class LogInconsistent(ServiceError):
    """The log in the database is not the one that was signed. Nothing more is signed."""

    status = 500
    code = "log_inconsistent"
    type = "server_error"


class LogKeyMissing(ServiceError):
    """The log is signed with a key that this process does not have."""

    status = 500
    code = "log_key_missing"
    type = "server_error"


class NoSuchTree(InvalidRequest):
    """The log has no such entry or size."""

    code = "log_size"


def append(session: Session, *deeds: Deed) -> list[int]:
    """Enter deeds in the caller's transaction, as the last thing it waits for; returns their indexes.

    The lock is held until that transaction ends, so entries are numbered in the order of their commits.
    """
    session.execute(statements.lock())
    size, moment = session.execute(statements.head()).one()
    fresh: dict[Node, bytes] = {}

    def read(wanted: Sequence[Node]) -> Mapping[Node, bytes]:
        return _read(session, [node for node in wanted if node not in fresh]) | fresh

    made = []
    for index, deed in enumerate(deeds, start=size):
        entry = bytes(entry_of(deed.kind, deed.record, moment))
        leaf = merkle.leaf_hash(entry)
        fresh.update(merkle.grow(index, leaf, read))
        made.append(
            NewEntry(
                index=index,
                kind=deed.kind.value,
                subject=deed.subject,
                entry=entry,
                leaf_hash=leaf,
                record=deed.text,
            )
        )
    session.execute(statements.enter(made, fresh, moment))
    return list(range(size, size + len(deeds)))


def append_once(session: Session, deed: Deed) -> None:
    """The same for a transaction that may have been committed before without our hearing of it."""
    if session.execute(statements.same_record(deed.subject, deed.kind, deed.text)).first() is None:
        append(session, deed)


async def enter(session: AsyncSession, *deeds: Deed) -> list[int]:
    """`append` for the API."""
    return await session.run_sync(append, *deeds)


async def entered(session: AsyncSession, subject: str) -> list[dict[str, Any]]:
    """Kind and index of every entry about a thing. Whose it is was decided before."""
    found = await session.execute(statements.of_subject(subject))
    return [{"kind": row[0], "index": row[1]} for row in found]


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One entry, and the record that its leaf is the digest of."""

    index: int
    entry: str
    record: Mapping[str, Any]


async def told(session: AsyncSession, subject: str, kind: EntryKind) -> Told | None:
    """The first entry of a kind about a thing, with its record. Whose it is was decided before."""
    found = (await session.execute(statements.first_told(subject, kind.value))).one_or_none()
    if found is None:
        return None
    index, entry, record = found
    return Told(index=index, entry=entry.decode("ascii"), record=json.loads(record))


async def entries(session: AsyncSession, *, start: int, limit: int) -> Sequence[bytes]:
    """Exact bytes of a range, as far as the log goes."""
    return (await session.scalars(statements.entries(start=start, limit=limit))).all()


async def checkpoint(session: AsyncSession, signers: Signers) -> Note:
    """The signed checkpoint of what is committed now; kept the first time a size is signed.

    Raises:
        LogInconsistent: the log does not continue the last checkpoint that it signed.
        LogKeyMissing: the log names a key that is not in the key file.
    """
    return await session.run_sync(sign_checkpoint, signers)


async def keys(session: AsyncSession, signers: Signers) -> KeyHistory:
    """Every key of the log, with what says so.

    Raises:
        LogInconsistent: what is stored of its keys is not what they signed.
    """
    return await session.run_sync(key_history, signers.first)


def key_history(session: Session, first: PublicKey) -> KeyHistory:
    """The log's keys; ``first`` is the one of a log whose key was never changed.

    Raises:
        LogInconsistent: what is stored of its keys is not what they signed.
    """
    rows = session.execute(statements.successions(deeds.LOG_ITSELF)).all()
    try:
        told = [(index, str(json.loads(record)["succession"])) for index, record in rows]
        # The newest key speaks for the chain; whether it is the file's is for whoever signs to see.
        trusted = KeyChange.read(*told[-1]).successor if told else first
        return KeyHistory.of(trusted, told)
    except (NoteInvalid, ValueError, KeyError, TypeError):
        _refuse("what it holds of its keys is not what they signed")


def hand_over(session: Session, retired: Signer, successor: Signer) -> int:
    """Enter that another key signs the log from now on; returns the entry's index.

    Raises:
        ValueError: they are not two keys of one log.
    """
    return append(session, deeds.log_key(succeed(retired, successor)))[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inclusion:
    """That an entry is in a tree, with what proves it."""

    leaf: bytes
    root: bytes
    proof: Sequence[bytes]


async def inclusion(session: AsyncSession, *, index: int, size: int) -> Inclusion:
    """Prove an entry.

    Raises:
        NoSuchTree: the log is smaller, or the entry is not below the size.
        LogInconsistent: the stored tree has a hole.
    """
    return await session.run_sync(_inclusion, index, size)


async def consistency(session: AsyncSession, *, first: int, second: int) -> Sequence[bytes]:
    """Prove that one tree begins another.

    Raises:
        NoSuchTree: the log is smaller, or the first size is the larger one.
        LogInconsistent: the stored tree has a hole.
    """
    return await session.run_sync(_consistency, first, second)


def sign_checkpoint(session: Session, signers: Signers) -> Note:
    """`checkpoint` for a plain session."""
    size, last = session.execute(statements.standing()).one()
    # Read after the size: a retired key must not sign a size that covers its own retirement.
    history = key_history(session, signers.first)
    if last is not None:
        signed = _signed_before(last, history)
        if signed.size > size:
            _refuse(f"the log has {size} entries and signed a checkpoint of {signed.size}")
        if merkle.root(signed.size, reader(session)) != signed.root:
            _refuse(f"the log's first {signed.size} entries are not those it signed")
        if signed.size == size:
            return Note.from_text(last)
    key = history.at(size)
    signer = signers.of(key)
    if signer is None:
        raise LogKeyMissing(f"Nothing is signed: DOUBLEI_LOG_KEY_FILE does not hold the log's key {key}.")
    root = merkle.root(size, reader(session))
    note = sign(Checkpoint(origin=signer.name, size=size, root=root), signer)
    session.execute(statements.add_checkpoint(size, str(note)))
    return note


def _signed_before(note: str, history: KeyHistory) -> Checkpoint:
    try:
        return history.opened(Note.from_text(note))
    except NoteInvalid:
        _refuse("the last checkpoint is not signed by this log's key")


def _refuse(reason: str) -> NoReturn:
    log.error("log.inconsistent", reason=reason)
    raise LogInconsistent(f"Nothing is signed: {reason}.")


def _inclusion(session: Session, index: int, size: int) -> Inclusion:
    _check_size(session, size, "size")
    if index >= size:
        raise NoSuchTree(f"A log of {size} entries has no entry {index}.", param="index")
    leaf = session.scalars(statements.leaf(index)).one_or_none()
    if leaf is None:
        raise LogInconsistent(f"Entry {index} is missing.")
    read = reader(session)
    return Inclusion(leaf=leaf, root=merkle.root(size, read), proof=merkle.inclusion_proof(index, size, read))


def _consistency(session: Session, first: int, second: int) -> Sequence[bytes]:
    _check_size(session, second, "second")
    if first > second:
        raise NoSuchTree(f"A log of {second} entries was never one of {first}.", param="first")
    return merkle.consistency_proof(first, second, reader(session))


def _check_size(session: Session, wanted: int, param: str) -> None:
    size = session.execute(statements.size()).scalar_one()
    if wanted > size:
        raise NoSuchTree(f"The log has {size} entries, not {wanted}.", param=param)


def reader(session: Session) -> merkle.Read:
    """Nodes of the stored tree, for the functions of `evidence.log.merkle`."""
    return lambda wanted: _read(session, wanted)


def _read(session: Session, wanted: Sequence[Node]) -> dict[Node, bytes]:
    """Every node asked for.

    Raises:
        LogInconsistent: one is missing.
    """
    if not wanted:
        return {}
    found = {(level, index): made for level, index, made in session.execute(statements.nodes(wanted))}
    for node in wanted:
        if node not in found:
            raise LogInconsistent(f"The stored tree lacks node {node[1]} of level {node[0]}.")
    return found
