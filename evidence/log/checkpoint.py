"""Checkpoints: a log's name, size and root, signed by the log (C2SP tlog-checkpoint, v1)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass

from evidence.errors import NoteInvalid
from evidence.log.merkle import HASH_BYTES
from evidence.log.note import Kind, Note, PublicKey, Signer, verify

_SIZE = re.compile(r"0|[1-9][0-9]{0,17}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a log says that it holds.

    Law: ``Checkpoint.from_text(str(checkpoint)) == checkpoint``.
    """

    origin: str
    """the log's name, which is also its key's"""
    size: int
    root: bytes

    def __str__(self) -> str:
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def from_text(cls, text: str) -> Checkpoint:
        """Read a note's text. Extension lines are refused: no log here writes any.

        Raises:
            NoteInvalid: it is no checkpoint.
        """
        lines = text.split("\n")
        if len(lines) != 4 or lines[3] or not lines[0] or not _SIZE.fullmatch(lines[1]):
            raise NoteInvalid("not a checkpoint: a name, a size and a root, a line each")
        try:
            root = base64.b64decode(lines[2], validate=True)
        except (binascii.Error, ValueError):
            root = b""
        made = cls(origin=lines[0], size=int(lines[1]), root=root)
        if len(root) != HASH_BYTES or str(made) != text:
            raise NoteInvalid("a checkpoint's root is the base64 of 32 bytes")
        return made


def sign(checkpoint: Checkpoint, signer: Signer) -> Note:
    """The checkpoint as a note of its log.

    Raises:
        ValueError: the signer is not this log's.
    """
    if signer.name != checkpoint.origin or signer.kind is not Kind.log:
        raise ValueError("a checkpoint is signed by its own log")
    text = str(checkpoint)
    return Note(text=text, signatures=(signer.sign(text),))


def opened(note: Note, log: PublicKey) -> Checkpoint:
    """The checkpoint that this log has signed.

    Raises:
        NoteInvalid: it has not.
    """
    if log.kind is not Kind.log or log not in verify(note, [log]):
        raise NoteInvalid(f"the checkpoint is not signed by {log.name}")
    checkpoint = Checkpoint.from_text(note.text)
    if checkpoint.origin != log.name:
        raise NoteInvalid(f"the checkpoint is of {checkpoint.origin}, the key is {log.name}'s")
    return checkpoint


def witnessed(note: Note, witnesses: Sequence[PublicKey]) -> dict[PublicKey, int]:
    """Which of the witnesses have cosigned, and when, in seconds since the epoch.

    Raises:
        NoteInvalid: a cosignature that names one of them is not that witness's.
    """
    return verify(note, [key for key in witnesses if key.kind is Kind.witness])
