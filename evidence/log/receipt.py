"""A receipt: one entry of a log, the record that it is the digest of, and the proof that a signed checkpoint
covers it. Whoever trusts the log's key needs nothing else, and no connection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evidence.canonical import canonical_bytes, parse_canonical
from evidence.errors import EvidenceError, NoteInvalid, ProofInvalid, ReceiptInvalid
from evidence.log.checkpoint import Checkpoint, opened
from evidence.log.entry import Entry, record_digest
from evidence.log.merkle import HASH_BYTES, leaf_hash, verify_inclusion
from evidence.log.note import Note, PublicKey

FORMAT = "doublei-log-receipt/1"
MAX_RECEIPT_BYTES = 256 * 1024
_FIELDS = {"format", "entry", "record", "index", "hashes", "checkpoint"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Law: ``Receipt.from_bytes(bytes(receipt)) == receipt``. Nothing of it is checked before `proven`."""

    entry: str
    """the exact text that the leaf hashes"""
    record: Mapping[str, Any]
    index: int
    hashes: tuple[str, ...]
    """the inclusion proof (RFC 6962, 2.1.1), hex"""
    checkpoint: str
    """a signed note"""

    def __bytes__(self) -> bytes:
        return canonical_bytes(
            {
                "format": FORMAT,
                "entry": self.entry,
                "record": dict(self.record),
                "index": self.index,
                "hashes": list(self.hashes),
                "checkpoint": self.checkpoint,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Receipt:
        """Read a receipt.

        Raises:
            ReceiptInvalid: it is none.
        """
        try:
            value = parse_canonical(data[: MAX_RECEIPT_BYTES + 1])
        except EvidenceError as error:
            raise ReceiptInvalid(f"no receipt: {error}") from None
        if not isinstance(value, dict) or set(value) != _FIELDS or value["format"] != FORMAT:
            raise ReceiptInvalid(f"no receipt of the format {FORMAT}")
        texts = [value["entry"], value["checkpoint"]]
        index, hashes = value["index"], value["hashes"]
        if (
            not all(isinstance(text, str) for text in texts)
            or not isinstance(value["record"], dict)
            or isinstance(index, bool)
            or not isinstance(index, int)
            or not isinstance(hashes, list)
            or not all(isinstance(one, str) for one in hashes)
        ):
            raise ReceiptInvalid("a field of the receipt has the wrong type")
        return cls(
            entry=value["entry"],
            record=value["record"],
            index=index,
            hashes=tuple(hashes),
            checkpoint=value["checkpoint"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """An entry that a log's signed checkpoint covers, with the record it tells of."""

    entry: Entry
    record: Mapping[str, Any]
    index: int
    log: PublicKey
    checkpoint: Checkpoint


def proven(receipt: Receipt, keys: Sequence[PublicKey]) -> Proven:
    """Check a receipt against the keys of logs.

    Raises:
        ReceiptInvalid: none of the keys has signed its checkpoint, the checkpoint does not cover the entry,
            or the entry is not the record's.
    """
    log, checkpoint = _signed(receipt.checkpoint, keys)
    try:
        entry = Entry.from_bytes(receipt.entry.encode())
        verify_inclusion(
            leaf_hash(receipt.entry.encode()),
            receipt.index,
            checkpoint.size,
            [_hash(one) for one in receipt.hashes],
            checkpoint.root,
        )
        digest = record_digest(entry.kind, canonical_bytes(dict(receipt.record)))
    except (EvidenceError, ValueError) as error:
        raise ReceiptInvalid(f"entry {receipt.index} is not in the log that was signed: {error}") from None
    if digest != entry.record_sha256:
        raise ReceiptInvalid(f"entry {receipt.index} tells of another record")
    return Proven(entry=entry, record=receipt.record, index=receipt.index, log=log, checkpoint=checkpoint)


def _signed(note: str, keys: Sequence[PublicKey]) -> tuple[PublicKey, Checkpoint]:
    fault = "no log's key was given"
    for key in keys:
        try:
            return key, opened(Note.from_text(note), key)
        except NoteInvalid as error:
            fault = str(error)
    raise ReceiptInvalid(fault)


def _hash(text: str) -> bytes:
    made = bytes.fromhex(text)
    if len(made) != HASH_BYTES or made.hex() != text:
        raise ProofInvalid("a hash is 64 hex digits")
    return made
