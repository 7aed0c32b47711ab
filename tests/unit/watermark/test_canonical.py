"""One record, one byte string."""

from __future__ import annotations

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from watermark.canonical import canonical_bytes
from watermark.errors import RecordError

KEYS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=8)
RECORDS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(RECORDS)
def test_bytes_are_those_of_rfc_8785(record: object) -> None:
    assert canonical_bytes(record) == rfc8785.dumps(record)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [1.5, {"é": 1}, {"a": [float("nan")]}, 2**60, b"x", "\ud800", {1: 2}])
def test_what_has_no_single_spelling_is_refused(value: object) -> None:
    with pytest.raises(RecordError):
        canonical_bytes(value)
