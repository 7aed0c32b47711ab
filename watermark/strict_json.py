"""One line of JSON, read strictly: what another reader could understand differently is refused.

The standard library accepts repeated keys (the last wins), NaN, 1e999 (infinity), lone surrogates and
NUL, and its recursion depends on the interpreter. Postgres, tokenizers and the next tool do not agree on
any of these, so a row that has one would mean different things in different places.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable

from watermark.errors import RowError

MAX_DEPTH = 32
MAX_INTEGER_DIGITS = 16
"""2**53, the largest integer every JSON reader holds exactly, has 16 digits."""
MAX_INTEGER = 2**53

# a string that never ends is one up to the end: else every quote in it would be tried as a beginning
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)


def loads(line: bytes) -> object:
    """Decode one line.

    Raises:
        RowError: it is not UTF-8, not JSON, or JSON that readers disagree on.
    """
    text = _decode(line)
    _refuse_depth(text)
    try:
        value: object = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise RowError(
            "invalid_json",
            "",
            f"not valid JSON: {error.msg} at character {error.pos + 1}",
            _json_hint(text),
        ) from None
    if "\\u" in text:
        # only an escape can smuggle these in: raw ones are refused by the decoder and by UTF-8
        _refuse_characters(value, "")
    return value


def _decode(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RowError(
            "not_utf8",
            "",
            f"byte 0x{line[error.start]:02x} at position {error.start + 1} is not UTF-8",
            "Save the file as UTF-8 (it looks like another encoding, such as Windows-1252).",
        ) from None


def _refuse_depth(text: str) -> None:
    if text.count("{") + text.count("[") <= MAX_DEPTH:
        return
    depth = 0
    for character in _STRING.sub("", text):
        if character in "{[":
            depth += 1
            if depth > MAX_DEPTH:
                raise RowError(
                    "too_deep", "", f"nested deeper than {MAX_DEPTH} levels", "A row needs three levels."
                )
        elif character in "}]":
            depth -= 1


def _json_hint(text: str) -> str:
    if re.search(r"'\s*:", text):
        return "Use double quotes: write the rows with a JSON library, not with str() or print()."
    if re.search(r",\s*[}\]]", text):
        return "Remove the comma before the closing bracket."
    if text.count("{") > text.count("}"):
        return "The object does not end on this line: every row must be on one line."
    return "Write each row with a JSON library, one object on each line."


def _object(pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
    result: dict[str, object] = {}
    for key, value in pairs:
        if key in result:
            raise RowError(
                "duplicate_key", _shown(key), f"the key {_shown(key)!r} occurs twice", "Keep one of them."
            )
        result[key] = value
    return result


def _integer(text: str) -> int:
    if len(text.lstrip("-")) > MAX_INTEGER_DIGITS or abs(int(text)) > MAX_INTEGER:
        raise RowError("number_out_of_range", "", "an integer is beyond 2**53", "Write it as text.")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise RowError("number_out_of_range", "", "a number is too large to be held", "Write it as text.")
    return value


def _constant(name: str) -> object:
    raise RowError("not_a_number", "", f"{name} is not JSON", "Use null, or leave the field out.")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant
)


def _refuse_characters(value: object, path: str) -> None:
    if isinstance(value, str):
        _refuse_text(value, path)
    elif isinstance(value, dict):
        for key, item in value.items():
            _refuse_text(key, path)
            _refuse_characters(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _refuse_characters(item, f"{path}[{index}]")


def _refuse_text(text: str, path: str) -> None:
    if "\x00" in text:
        raise RowError("nul_character", path, "the text holds a NUL character (\\u0000)", "Remove it.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise RowError(
            "lone_surrogate",
            path,
            "the text holds half of a surrogate pair (\\ud800 to \\udfff)",
            "The text was cut in the middle of a character: cut between characters instead.",
        ) from None


def _shown(key: str) -> str:
    return key[:60].encode("ascii", "backslashreplace").decode("ascii")
