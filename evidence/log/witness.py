"""What a log sends to a witness and gets back (C2SP tlog-witness, ``add-checkpoint``), as text.

A witness remembers the newest checkpoint of each log that it knows. It is shown the next one with a proof
that the old one is its beginning, and answers with a cosignature: what this witness saw only ever grew.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass

from evidence.errors import NoteInvalid
from evidence.log.merkle import HASH_BYTES
from evidence.log.note import MAX_NOTE_BYTES, Kind, Note, PublicKey, Signature, verify

MAX_PROOF = 63
"""Hashes in a submission, by the specification."""
MAX_SUBMISSION_BYTES = MAX_NOTE_BYTES + 64 * 64
SIZE_TYPE = "text/x.tlog.size"
"""Content type of the answer that says which size the witness knows."""

_OLD = re.compile(r"old (0|[1-9][0-9]{0,17})")
_SIZE = re.compile(r"(0|[1-9][0-9]{0,17})\n?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A checkpoint for a witness.

    Law: ``Submission.from_text(str(submission)) == submission``.
    """

    old_size: int
    """of the checkpoint that the witness is thought to know; 0: of none"""
    proof: tuple[bytes, ...]
    """consistency from the old size to the checkpoint's (RFC 6962, 2.1.2)"""
    note: Note

    def __str__(self) -> str:
        hashes = "".join(f"{base64.b64encode(one).decode()}\n" for one in self.proof)
        return f"old {self.old_size}\n{hashes}\n{self.note}"

    @classmethod
    def from_text(cls, text: str) -> Submission:
        """Read a request's body.

        Raises:
            NoteInvalid: it is none; no signature was looked at.
        """
        head, blank, note = text.partition("\n\n")
        first, *lines = head.split("\n")
        old = _OLD.fullmatch(first)
        if old is None or not blank:
            raise NoteInvalid("not a submission: 'old' and a size, hashes, an empty line and a checkpoint")
        if len(lines) > MAX_PROOF:
            raise NoteInvalid(f"more than {MAX_PROOF} hashes")
        return cls(old_size=int(old[1]), proof=tuple(map(_hash, lines)), note=Note.from_text(note))


def cosignature_of(note: Note, answer: str, witness: PublicKey) -> Signature:
    """The witness's signature line in its answer; lines of other keys are passed over.

    Raises:
        NoteInvalid: there is none, or it is not this witness's, over this note.
    """
    answered = Note.from_text(f"{note.text}\n{answer}")
    if witness.kind is not Kind.witness or witness not in verify(answered, [witness]):
        raise NoteInvalid(f"the answer holds no cosignature of {witness.name}")
    mine = (witness.name, witness.key_id)
    return next(one for one in answered.signatures if (one.name, one.key_id) == mine)


def known_size(answer: str) -> int:
    """The size that a witness says it knows.

    Raises:
        NoteInvalid: the answer is no size.
    """
    match = _SIZE.fullmatch(answer)
    if match is None:
        raise NoteInvalid("not a size")
    return int(match[1])


def parse_keys(text: str, kind: Kind) -> list[tuple[PublicKey, str]]:
    """Public keys of one kind, a line each, and what stands behind each (the address of a witness); lines
    that begin with ``#`` are comments. A name may have several keys, a key stands there once.

    Raises:
        NoteInvalid: a line is no such key, or there is none at all.
    """
    found: list[tuple[PublicKey, str]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split(maxsplit=1)
        if not words or line.startswith("#"):
            continue
        try:
            key = PublicKey.from_text(words[0])
        except NoteInvalid as error:
            raise NoteInvalid(f"line {number}: {error}") from None
        if key.kind is not kind:
            raise NoteInvalid(f"line {number}: the key is not a {kind.name}'s")
        if key in [one for one, _ in found]:
            raise NoteInvalid(f"line {number}: this key stands above already")
        found.append((key, words[1].strip() if len(words) > 1 else ""))
    if not found:
        raise NoteInvalid("there is no key")
    return found


def with_cosignatures(note: Note, signatures: Sequence[Signature]) -> Note:
    """The note with more signature lines below its own."""
    return Note(text=note.text, signatures=(*note.signatures, *signatures))


def _hash(line: str) -> bytes:
    try:
        made = base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError):
        made = b""
    if len(made) != HASH_BYTES or base64.b64encode(made).decode() != line:
        raise NoteInvalid(f"a line of the proof is not the base64 of {HASH_BYTES} bytes")
    return made
