"""Entries: one spelling, a digest in the domain of their kind, nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evidence.canonical import canonical_bytes, parse_canonical
from evidence.errors import MalformedEntry
from evidence.log.entry import Entry, EntryKind, entry_of, record_digest

GOOD = bytes(entry_of(EntryKind.salt, {"key": "wm-1", "salt": "00"}, datetime(2026, 11, 25, tzinfo=UTC)))


@given(st.sampled_from(EntryKind), st.dictionaries(st.text("abc"), st.integers(0, 9)), st.datetimes())
def test_reading_undoes_writing(kind: EntryKind, record: dict[str, int], moment: datetime) -> None:
    entry = entry_of(kind, record, moment.replace(tzinfo=UTC))
    data = bytes(entry)
    assert Entry.from_bytes(data) == entry
    assert canonical_bytes(parse_canonical(data)) == data
    assert b"\n" not in data


def test_known_bytes() -> None:
    assert (
        b'{"kind":"salt","logged_at":"2026-11-25T00:00:00.000000Z","record_sha256":"'
        + record_digest("salt", b'{"key":"wm-1","salt":"00"}').encode()
        + b'","v":1}'
    ) == GOOD


def test_times_are_in_utc() -> None:
    there = datetime(2026, 11, 25, 2, tzinfo=timezone(timedelta(hours=2)))
    assert entry_of(EntryKind.salt, {}, there).logged_at == "2026-11-25T00:00:00.000000Z"


def test_one_record_has_another_digest_in_each_kind() -> None:
    assert len({record_digest(kind, b"{}") for kind in EntryKind}) == len(EntryKind)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        GOOD + b"\n",
        b" " + GOOD,
        GOOD.replace(b'"v":1', b'"v":2'),
        GOOD.replace(b"salt", b"SALT"),
        GOOD.replace(b"2026-11-25", b"2026-13-25"),
        GOOD.replace(b".000000Z", b"Z"),
        GOOD.replace(b'{"kind', b'{"owner":"org-1","kind'),
        GOOD[:-10] + b'","v":1}',
        GOOD.decode().replace("salt", "sált").encode(),
    ],
)
def test_any_other_spelling_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedEntry):
        Entry.from_bytes(data)


def test_a_kind_of_a_later_version_is_read() -> None:
    assert Entry.from_bytes(GOOD.replace(b'"salt"', b'"timestamp"')).kind == "timestamp"
