"""Strict JSON: what readers disagree on is refused, the rest is read as the standard library reads it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watermark import strict_json
from watermark.errors import RowError


@pytest.mark.parametrize(
    ("line", "code", "path"),
    [
        (b'{"a": 1, "a": 2}', "duplicate_key", "a"),
        (b'{"a": {"b": 1, "b": 1}}', "duplicate_key", "b"),
        (b'{"a": NaN}', "not_a_number", ""),
        (b'{"a": Infinity}', "not_a_number", ""),
        (b'{"a": -Infinity}', "not_a_number", ""),
        (b'{"a": 1e999}', "number_out_of_range", ""),
        (b'{"a": -1e999}', "number_out_of_range", ""),
        (b'{"a": 9007199254740993}', "number_out_of_range", ""),
        (b'{"a": ' + b"9" * 5000 + b"}", "number_out_of_range", ""),
        (b"[" * 33 + b"]" * 33, "too_deep", ""),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "too_deep", ""),
        (b'{"m": [{"c": "x\\u0000y"}]}', "nul_character", "m[0].c"),
        (b'{"m": [{"c": "x\\ud800y"}]}', "lone_surrogate", "m[0].c"),
        (b'{"\\udfff": 1}', "lone_surrogate", ""),
        (b'{"a": "raw \x00 nul"}', "invalid_json", ""),
        (b'{"a": "caf\xe9"}', "not_utf8", ""),
        (b'{"a": "\xed\xa0\x80"}', "not_utf8", ""),
        (b'{"a": 1,}', "invalid_json", ""),
        (b"{'a': 1}", "invalid_json", ""),
        (b'{"a": 1', "invalid_json", ""),
        (b'{"a": 1} {"a": 2}', "invalid_json", ""),
        (b"", "invalid_json", ""),
    ],
)
def test_refused(line: bytes, code: str, path: str) -> None:
    with pytest.raises(RowError) as caught:
        strict_json.loads(line)
    assert caught.value.reason == code
    assert caught.value.path == path
    assert caught.value.hint


@pytest.mark.parametrize(
    "line",
    [
        b'{"a": 9007199254740992, "b": -9007199254740992}',
        b'{"a": "\\ud83d\\ude00"}',
        b"[" * 32 + b"]" * 32,
        json.dumps({"a": "[{" * 200}).encode(),
        json.dumps({"a": '\\"[[[' * 50}).encode(),
        b'{"a": 1e300, "b": 0.1}',
    ],
)
def test_accepted(line: bytes) -> None:
    """Surrogate pairs, brackets inside strings and numbers up to the limits are fine."""
    assert strict_json.loads(line) == json.loads(line)


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(_VALUES, st.booleans())
def test_agrees_with_the_standard_library(value: Any, ascii_only: bool) -> None:
    """Whatever JSON value without the refused things is written, the same value is read."""
    if "\0" in json.dumps(value, ensure_ascii=False) or "\\u0000" in json.dumps(value):
        return
    assert strict_json.loads(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(st.binary(max_size=60) | _VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_give_a_value_or_a_row_error(line: bytes) -> None:
    """What is accepted, the standard library reads alike; nothing but a RowError is raised."""
    try:
        value = strict_json.loads(line)
    except RowError:
        return
    assert value == json.loads(line)


def test_a_string_of_escaped_quotes_that_never_ends_is_refused_in_no_time() -> None:
    """Half a megabyte of them: with one try for each quote it would take minutes."""
    started = time.process_time()
    with pytest.raises(RowError):
        strict_json.loads(b'{"a": ' + b'"' + b'\\"' * 250_000)
    assert time.process_time() - started < 1
