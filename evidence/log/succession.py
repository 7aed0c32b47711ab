"""Which key of a log follows which: said by the old key and the new one together, and entered into the log.

A succession is a signed note of four lines: what it is, the log's name, the key that retires, the key that
follows. The entry that tells of it stands at some index i. What the log signs of i entries or fewer is the
old key's, of more the new key's: from then on a retired key signs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from evidence.canonical import canonical_bytes
from evidence.errors import NoteInvalid
from evidence.log.checkpoint import Checkpoint, opened
from evidence.log.entry import EntryKind, record_digest
from evidence.log.note import Kind, Note, PublicKey, Signer, verify

HEADER = "double-i log key succession v1"
"""No log's name: those have no spaces. So a succession is never read as a checkpoint."""


def succeed(retired: Signer, successor: Signer) -> Note:
    """The note by which a key hands over.

    Raises:
        ValueError: they are not two keys of one log.
    """
    if retired.name != successor.name or {retired.kind, successor.kind} != {Kind.log}:
        raise ValueError("a key is followed by another of the same log")
    text = f"{HEADER}\n{retired.name}\n{retired.public}\n{successor.public}\n"
    return Note(text=text, signatures=(retired.sign(text), successor.sign(text)))


def record_of(note: str) -> dict[str, object]:
    """The record that the log's entry of a succession digests. It is published, unlike others."""
    return {"succession": note}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyChange:
    """One succession and the index of the entry that tells of it."""

    index: int
    retired: PublicKey
    successor: PublicKey
    note: str

    @classmethod
    def read(cls, index: int, note: str) -> KeyChange:
        """Read a succession and check both signatures.

        Raises:
            NoteInvalid: it is none, or one of the two keys has not signed it.
        """
        read = Note.from_text(note)
        lines = read.text.split("\n")
        if index < 0 or len(lines) != 5 or lines[0] != HEADER or lines[4]:
            raise NoteInvalid("not a succession of a log's keys")
        retired, successor = (PublicKey.from_text(line) for line in lines[2:4])
        if {retired.name, successor.name} != {lines[1]} or {retired.kind, successor.kind} != {Kind.log}:
            raise NoteInvalid(f"not a succession of keys of {lines[1]}")
        if set(verify(read, [retired, successor])) != {retired, successor} or retired == successor:
            raise NoteInvalid("a succession is signed by the key that retires and by the one that follows")
        return cls(index=index, retired=retired, successor=successor, note=note)

    @property
    def record_sha256(self) -> str:
        """What the entry says of it."""
        return record_digest(EntryKind.log_key, canonical_bytes(record_of(self.note)))


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyHistory:
    """The keys of one log from the first to the present one."""

    first: PublicKey
    changes: tuple[KeyChange, ...] = ()

    @classmethod
    def of(cls, trusted: PublicKey, successions: Iterable[tuple[int, str]]) -> KeyHistory:
        """The history that a key belongs to. It vouches for those before it, whose hand it took, and for
        those after it, which it named.

        Args:
            successions: index and note, as the log gives them, in order.

        Raises:
            NoteInvalid: one is not signed by both keys, they are no chain, or the key is not in it.
        """
        changes = tuple(KeyChange.read(index, note) for index, note in successions)
        for before, after in pairwise(changes):
            if before.index >= after.index or before.successor != after.retired:
                raise NoteInvalid("the keys of the log do not follow one another")
        made = cls(first=changes[0].retired if changes else trusted, changes=changes)
        if len(set(made.keys)) != len(made.keys):
            raise NoteInvalid("a retired key of the log comes back")
        if trusted not in made.keys:
            raise NoteInvalid(f"the key is not among those of {made.first.name}")
        return made

    @property
    def keys(self) -> Sequence[PublicKey]:
        """The oldest first."""
        return (self.first, *(change.successor for change in self.changes))

    @property
    def current(self) -> PublicKey:
        return self.keys[-1]

    def at(self, size: int) -> PublicKey:
        """Whose signature stands below a checkpoint of this size."""
        return self.keys[sum(change.index < size for change in self.changes)]

    def opened(self, note: Note) -> Checkpoint:
        """The checkpoint that the log's key of its size has signed.

        Raises:
            NoteInvalid: it is no checkpoint, or that key has not signed it; a retired key is named.
        """
        size = Checkpoint.from_text(note.text).size
        key = self.at(size)
        try:
            return opened(note, key)
        except NoteInvalid:
            for change in self.changes:
                if change.index < size and change.retired in verify(note, [change.retired]):
                    raise NoteInvalid(
                        f"a key that retired at entry {change.index} signed {size} entries: "
                        f"{change.retired.key_id.hex()}"
                    ) from None
            raise
