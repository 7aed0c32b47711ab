"""A log's receipt: what proves an entry, and every way in which it proves nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from evidence.errors import ReceiptInvalid
from evidence.log.checkpoint import Checkpoint, sign
from evidence.log.entry import EntryKind, entry_of
from evidence.log.merkle import leaf_hash, root_of
from evidence.log.note import Kind, Signer
from evidence.log.receipt import Receipt, proven

LOG = Signer(name="doublei.example/log", kind=Kind.log, seed=bytes(range(32)))
OTHER = Signer(name="doublei.example/log", kind=Kind.log, seed=bytes(range(1, 33)))
RECORD = {"key": "wm-1", "commitment": "ab" * 32}


@pytest.fixture
def receipt() -> Receipt:
    """Of the second of three entries."""
    moment = datetime(2026, 11, 25, tzinfo=UTC)
    records: list[dict[str, object]] = [{"number": 0}, dict(RECORD), {"number": 2}]
    entries = [bytes(entry_of(EntryKind.key_commitment, record, moment)) for record in records]
    leaves = [leaf_hash(entry) for entry in entries]
    note = sign(Checkpoint(origin=LOG.name, size=3, root=root_of(leaves)), LOG)
    return Receipt(
        entry=entries[1].decode(),
        record=RECORD,
        index=1,
        hashes=(leaves[0].hex(), leaves[2].hex()),
        checkpoint=str(note),
    )


def test_it_proves_its_entry_to_whoever_trusts_the_log(receipt: Receipt) -> None:
    found = proven(Receipt.from_bytes(bytes(receipt)), [OTHER.public, LOG.public])
    assert (found.index, found.record, found.checkpoint.size) == (1, RECORD, 3)
    assert found.log == LOG.public


def test_it_proves_nothing_without_the_logs_key(receipt: Receipt) -> None:
    for keys in ([], [OTHER.public]):
        with pytest.raises(ReceiptInvalid):
            proven(receipt, keys)


@pytest.mark.parametrize("change", ["index", "hash", "odd hash", "record", "entry", "short", "checkpoint"])
def test_a_changed_one_proves_nothing(receipt: Receipt, change: str) -> None:
    first, second = receipt.hashes
    changed = {
        "index": replace(receipt, index=0),
        "hash": replace(receipt, hashes=(second, first)),
        "odd hash": replace(receipt, hashes=(first.upper(), "xy")),
        "record": replace(receipt, record=RECORD | {"key": "wm-2"}),
        "entry": replace(receipt, entry=receipt.entry.replace("2026", "2025")),
        "short": replace(receipt, hashes=(first,)),
        "checkpoint": replace(receipt, checkpoint=receipt.checkpoint.replace("\n3\n", "\n4\n")),
    }[change]
    with pytest.raises(ReceiptInvalid):
        proven(changed, [LOG.public])


def test_no_flipped_bit_gets_through(receipt: Receipt) -> None:
    data = bytes(receipt)
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        with pytest.raises(ReceiptInvalid):
            proven(Receipt.from_bytes(bytes(flipped)), [LOG.public])


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b'{"format":"doublei-log-receipt/1"}', b"\xff", b"[" * 100_000, b'{"a":1.5}'],
)
def test_what_is_no_receipt_is_refused(data: bytes) -> None:
    with pytest.raises(ReceiptInvalid):
        Receipt.from_bytes(data)


@pytest.mark.parametrize(
    ("field", "value"),
    [("index", True), ("index", "1"), ("hashes", [1]), ("record", []), ("entry", 1), ("checkpoint", None)],
)
def test_a_field_of_another_type_is_refused(receipt: Receipt, field: str, value: object) -> None:
    record = json.loads(bytes(receipt)) | {field: value}
    with pytest.raises(ReceiptInvalid, match="wrong type"):
        Receipt.from_bytes(
            json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        )
