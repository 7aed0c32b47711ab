"""What a log publishes of a deed: kind, time and a digest of its record, and nothing that tells whose it is.

The bytes that a leaf hashes are canonical JSON on one line. They have one shape, so that a log of a million
entries is read with one pattern.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from evidence.canonical import canonical_bytes, digest
from evidence.errors import MalformedEntry

VERSION = 1

_SHAPE = re.compile(
    rb'\{"kind":"([a-z][a-z-]{0,39})","logged_at":"'
    rb"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z)"
    rb'","record_sha256":"([0-9a-f]{64})","v":1\}'
)


class EntryKind(StrEnum):
    """What this version enters. A reader takes kinds that it does not know as they are."""

    key_commitment = "key-commitment"
    salt = "salt"
    training = "training"
    model = "model"
    preregistration = "preregistration"
    verdict = "verdict"
    log_key = "log-key"
    """which key signs from now on; see `evidence.log.succession`"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry.

    Law: ``Entry.from_bytes(bytes(entry)) == entry``.
    """

    kind: str
    logged_at: str
    """ISO 8601 in UTC with microseconds, so that times compare as texts"""
    record_sha256: str

    def __bytes__(self) -> bytes:
        return canonical_bytes(
            {
                "kind": self.kind,
                "logged_at": self.logged_at,
                "record_sha256": self.record_sha256,
                "v": VERSION,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Entry:
        """Read an entry.

        Raises:
            MalformedEntry: it is none of this version, or spelled otherwise.
        """
        match = _SHAPE.fullmatch(data)
        if match is None:
            raise MalformedEntry("not an entry of version 1 in its canonical spelling")
        kind, logged_at, record = (part.decode("ascii") for part in match.groups())
        try:
            datetime.fromisoformat(logged_at)
        except ValueError:
            raise MalformedEntry("an entry's time is none") from None
        return cls(kind=kind, logged_at=logged_at, record_sha256=record)


def record_digest(kind: str, record: bytes) -> str:
    """Hex digest of a record's canonical bytes, in the domain of its kind: an entry of one kind is never
    another's."""
    return digest(f"doublei/log/{kind}/v1", record)


def entry_of(kind: str, record: Mapping[str, object], logged_at: datetime) -> Entry:
    """The entry that tells of a record."""
    moment = logged_at.astimezone(UTC).replace(tzinfo=None)
    return Entry(
        kind=kind,
        logged_at=f"{moment.isoformat(timespec='microseconds')}Z",
        record_sha256=record_digest(kind, canonical_bytes(dict(record))),
    )
