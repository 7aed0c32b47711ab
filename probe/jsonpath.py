"""Singular queries of RFC 9535 (JSONPath): the part that names at most one node of a JSON value.

Only ``$``, names in dot or bracket form, and indexes: no wildcards, filters, slices or descent, and no
blanks, so that a second implementation is a page of code. The grammar is RFC 9535, section 2.3.5.1,
``singular-query-segments``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from probe.errors import ProbeError

MAX_PATH_CHARS = 256
MAX_SEGMENTS = 16
MAX_INDEX = 2**53 - 1

_SHORTHAND = re.compile("[A-Za-z_\x80-\ud7ff\ue000-\U0010ffff][A-Za-z0-9_\x80-\ud7ff\ue000-\U0010ffff]*")
_INDEX = re.compile(r"\[(0|-?[1-9][0-9]{0,15})\]")
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "/": "/", "\\": "\\"}
_UNIT = re.compile(r"u([0-9A-Fa-f]{4})")


class PathError(ProbeError):
    """Not a singular query. The message names the character, counted from 1, at which it stops being one."""

    code = "path_invalid"


@dataclass(frozen=True, slots=True, kw_only=True)
class SingularQuery:
    """Where one value is: object members by name, array elements by index (from the end when negative)."""

    segments: tuple[str | int, ...]

    def find(self, value: object) -> object | None:
        """The node, or None when there is none. A JSON null is None too: neither is an answer."""
        for segment in self.segments:
            if isinstance(segment, str):
                if not isinstance(value, dict):
                    return None
                value = value.get(segment)
            else:
                if not isinstance(value, list) or not -len(value) <= segment < len(value):
                    return None
                value = value[segment]
        return value


def parse_path(text: str) -> SingularQuery:
    """Parse a singular query, strictly.

    Raises:
        PathError: it is none, or longer than `MAX_PATH_CHARS` or `MAX_SEGMENTS`.
    """
    if len(text) > MAX_PATH_CHARS:
        raise PathError(f"a path has at most {MAX_PATH_CHARS} characters")
    if not text.startswith("$"):
        raise PathError("a path starts with $")
    segments: list[str | int] = []
    position = 1
    while position < len(text):
        segment, position = _segment(text, position)
        segments.append(segment)
        if len(segments) > MAX_SEGMENTS:
            raise PathError(f"a path has at most {MAX_SEGMENTS} segments")
    return SingularQuery(segments=tuple(segments))


def _segment(text: str, start: int) -> tuple[str | int, int]:
    if text[start] == ".":
        name = _SHORTHAND.match(text, start + 1)
        if name is None:
            raise _stops(text, start + 1, "a name (other names go into brackets and quotes)")
        return name.group(), name.end()
    if text[start] != "[":
        raise _stops(text, start, ". or [")
    if text[start + 1 : start + 2] in ("'", '"'):
        return _quoted(text, start + 1)
    index = _INDEX.match(text, start)
    if index is None or abs(int(index[1])) > MAX_INDEX:
        raise _stops(text, start + 1, "one quoted name or one index, then ]")
    return int(index[1]), index.end()


def _quoted(text: str, start: int) -> tuple[str, int]:
    quote, position = text[start], start + 1
    characters: list[str] = []
    while position < len(text):
        character = text[position]
        if character == quote:
            if text[position + 1 : position + 2] != "]":
                raise _stops(text, position + 1, "]")
            return "".join(characters), position + 2
        if character == "\\":
            character, position = _escape(text, position + 1, quote)
        elif ord(character) < 0x20 or 0xD800 <= ord(character) <= 0xDFFF:
            raise _stops(text, position, "a character that needs no escape")
        else:
            position += 1
        characters.append(character)
    raise _stops(text, position, "the closing quote")


def _escape(text: str, position: int, quote: str) -> tuple[str, int]:
    """The character that an escape stands for, and where the text goes on."""
    character = text[position : position + 1]
    if character == quote:
        return quote, position + 1
    if character in _ESCAPES:
        return _ESCAPES[character], position + 1
    unit = _UNIT.match(text, position)
    if unit is None:
        raise _stops(text, position, "an escape that JSON knows")
    high, after = int(unit[1], 16), unit.end()
    if not 0xD800 <= high <= 0xDFFF:
        return chr(high), after
    low = _UNIT.match(text, after + 1) if text[after : after + 1] == "\\" else None
    if high >= 0xDC00 or low is None or not 0xDC00 <= int(low[1], 16) <= 0xDFFF:
        raise _stops(text, position, "a whole pair of surrogates")
    return chr(0x10000 + ((high - 0xD800) << 10) + (int(low[1], 16) - 0xDC00)), low.end()


def _stops(text: str, position: int, expected: str) -> PathError:
    where = "at its end" if position >= len(text) else f"at character {position + 1}"
    return PathError(f"not a path {where}: expected {expected}")
