"""What a bundle carries of the log: proofs of the entries about one audit, and the checkpoints they lead to.

The proofs hold no entry: whoever checks makes each one again from the evidence it belongs to, so that the
proof of another audit proves nothing. Only a training and a model are not in the evidence; their records are
here. Layout: docs/evidence-format.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evidence.canonical import canonical_bytes, parse_canonical
from evidence.errors import EvidenceError
from evidence.log.entry import EntryKind
from evidence.log.merkle import HASH_BYTES

FORMAT = "doublei-log-proof/1"
ORDER = (
    EntryKind.key_commitment,
    EntryKind.salt,
    EntryKind.training,
    EntryKind.model,
    EntryKind.preregistration,
    EntryKind.verdict,
)
"""As these deeds follow each other."""
WITH_RECORD = frozenset({EntryKind.training, EntryKind.model})
NONE = canonical_bytes({})
"""The file of an audit that no log knows of."""


class PublicationError(EvidenceError):
    """A file of log proofs that can't be read."""

    code = "publication_invalid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """One entry's place in the log, with what proves it."""

    kind: EntryKind
    index: int
    logged_at: str
    """as in the entry"""
    hashes: tuple[bytes, ...]
    """the inclusion proof in the tree of the later checkpoint, from the leaf upwards"""
    record: Mapping[str, object] | None = None
    """what the entry digests, for the kinds of `WITH_RECORD`"""

    def to_record(self) -> dict[str, object]:
        """For `Publication.to_bytes`."""
        shown = {} if self.record is None else {"record": dict(self.record)}
        return shown | {
            "kind": self.kind.value,
            "index": self.index,
            "logged_at": self.logged_at,
            "hashes": [one.hex() for one in self.hashes],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """Everything that the log says about one audit.

    Law: ``Publication.from_bytes(publication.to_bytes()) == publication``.
    """

    entries: tuple[Proven, ...]
    """in `ORDER`; every kind is either here or among the absent"""
    absent: tuple[EntryKind, ...]
    """kinds that the log's keeper says it has no entry of"""
    earlier: str
    """a signed note: the checkpoint nearest the commitment"""
    checkpoint: str
    """the checkpoint nearest the verdict; may be the same"""
    consistency: tuple[bytes, ...]
    """that the earlier tree begins the later one"""
    authority: str
    """who stamps the checkpoints; "" if no timestamp authority was configured"""

    def to_bytes(self) -> bytes:
        """The file ``log.json``."""
        return canonical_bytes(
            {
                "format": FORMAT,
                "entries": [one.to_record() for one in self.entries],
                "absent": [kind.value for kind in self.absent],
                "earlier": self.earlier,
                "checkpoint": self.checkpoint,
                "consistency": [one.hex() for one in self.consistency],
                "authority": self.authority,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Publication:
        """Read the file.

        Raises:
            NotCanonical, PublicationError: it is none. Whether every kind is there is for `complete` to say.
        """
        value = parse_canonical(data)
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise PublicationError(f"not log proofs of the format {FORMAT}")
        try:
            made = cls(
                entries=tuple(_proven(one) for one in value["entries"]),
                absent=tuple(EntryKind(kind) for kind in value["absent"]),
                earlier=_text(value["earlier"]),
                checkpoint=_text(value["checkpoint"]),
                consistency=_hashes(value["consistency"]),
                authority=_text(value["authority"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise PublicationError("a member is missing or of another type") from None
        if made.to_bytes() != data:
            raise PublicationError("log proofs, but not as this format writes them")
        return made

    @property
    def complete(self) -> bool:
        """Whether each kind is there once, or said to be absent."""
        return sorted([*(one.kind for one in self.entries), *self.absent]) == sorted(ORDER)

    def entry(self, kind: EntryKind) -> Proven | None:
        """The proof of a kind, unless it is absent."""
        return next((one for one in self.entries if one.kind is kind), None)


def _proven(value: Any) -> Proven:
    kind = EntryKind(value["kind"])
    record = value.get("record")
    if (record is not None) is not (kind in WITH_RECORD) or not isinstance(record, dict | None):
        raise ValueError("a record where there is none, or none")
    index = value["index"]
    if not isinstance(index, int) or isinstance(index, bool):
        raise TypeError("an index is an integer")
    return Proven(
        kind=kind,
        index=index,
        logged_at=_text(value["logged_at"]),
        hashes=_hashes(value["hashes"]),
        record=record,
    )


def _hashes(value: Any) -> tuple[bytes, ...]:
    hashes = tuple(bytes.fromhex(one) for one in value)
    if not isinstance(value, list) or any(len(one) != HASH_BYTES for one in hashes):
        raise ValueError("a hash is 32 bytes in hex")
    return hashes


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value
