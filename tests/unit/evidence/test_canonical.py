"""Canonical bytes have one spelling, and it is RFC 8785's."""

from __future__ import annotations

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from evidence.canonical import canonical_bytes, digest, parse_canonical
from evidence.errors import NotCanonical

ASCII_KEYS = st.text(alphabet=st.characters(min_codepoint=1, max_codepoint=127), max_size=6)
TEXTS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=12)
RECORDS = st.recursive(
    TEXTS | st.integers(min_value=-(2**53) + 1, max_value=2**53 - 1) | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ASCII_KEYS, inner, max_size=4),
    max_leaves=20,
)


@given(RECORDS)
def test_the_bytes_are_those_of_rfc_8785_and_come_back_as_the_same_value(record: object) -> None:
    data = canonical_bytes(record)
    assert data == rfc8785.dumps(record)  # type: ignore[arg-type]
    assert parse_canonical(data) == record


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"b":1,"a":2}',
        b'{"a": 1}',
        b'{"a":1}\n',
        b'{"a":1.5}',
        b'{"a":1e3}',
        b'{"a":NaN}',
        b'{"a":1,"a":1}',
        b'{"a":"\\u0041"}',
        b'{"a":"\\/"}',
        b'{"a":9007199254740992}',
        b'{"a":-0}',
        b'{"\xc3\xa9":1}',
        b'{"a":"\\ud800"}',
        b"\xff",
        b"\xef\xbb\xbf{}",
        b"[" * 40 + b"]" * 40,
        b"[" * 1_000_000,
        b"1" * 10_000,
    ],
)
def test_any_other_spelling_is_refused(data: bytes) -> None:
    with pytest.raises(NotCanonical):
        parse_canonical(data)


@given(st.binary(max_size=60))
def test_reading_is_total(data: bytes) -> None:
    try:
        value = parse_canonical(data)
    except NotCanonical:
        return
    assert canonical_bytes(value) == data


def test_a_digest_depends_on_its_domain() -> None:
    assert digest("a", b"x") != digest("b", b"x")
    assert digest("a", b"x") != digest("ax", b"")
