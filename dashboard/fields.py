"""Values of an API's answer, whatever they turn out to be.

Strings come from owners and suspects, who may be hostile: control and direction-changing characters are
replaced, so that no name can disguise itself as another, and lengths are bounded.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

from dashboard.errors import Unreachable

MAX_TEXT = 2000
"""Characters kept of any string of the API; nothing legitimate on this page is longer."""

_EXACT = re.compile(r"\d{1,4000}/\d{1,4000}|\d{1,40}(\.\d{1,400})?([eE][+-]?\d{1,4})?")
"""A fraction or decimal; the bounds keep a hostile exponent from becoming a number of gigabytes."""


def plain(text: str) -> str:
    """The text without control, format, surrogate and private characters, at most MAX_TEXT long.

    Direction overrides and zero-width characters are among those: a name made of them can be made
    to look like another one.
    """
    return "".join(
        " "
        if char in "\n\t"
        else "\N{REPLACEMENT CHARACTER}"
        if unicodedata.category(char)[0] == "C"
        else char
        for char in text[:MAX_TEXT]
    )


def an_object(value: object, what: str) -> Mapping[str, Any]:
    """A JSON object. Raises Unreachable: it is not ``what``."""
    if not isinstance(value, Mapping):
        raise Unreachable(f"The answer is not {what}. Is this the Double-I API?")
    return value


def identifier(record: Mapping[str, Any]) -> str:
    """The object's id. Raises Unreachable: it has none."""
    value = record.get("id")
    if not isinstance(value, str) or not value or plain(value) != value:
        raise Unreachable("The answer holds an object without an id. Is this the Double-I API?")
    return value


def mapping(value: object) -> Mapping[str, Any]:
    """An object, or an empty one."""
    return value if isinstance(value, Mapping) else {}


def text(value: object) -> str | None:
    """A text, or None."""
    return plain(value) if isinstance(value, str) and value else None


def texts(value: object) -> tuple[str, ...]:
    """The texts of a list, at most 50."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return ()
    return tuple(plain(item) for item in value[:50] if isinstance(item, str))


def number(value: object) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def integer(value: object) -> int | None:
    """A whole number, or None."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def fraction(value: object) -> Fraction | None:
    """Exact probabilities travel as "n/d" or decimal strings, or as [n, d]."""
    if isinstance(value, list) and len(value) == 2:
        value = f"{value[0]}/{value[1]}"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and not _EXACT.fullmatch(value):
        return None
    try:
        return Fraction(value)
    except (ValueError, ZeroDivisionError, OverflowError):
        return None


def time(value: object) -> datetime | None:
    """A moment from Unix seconds or ISO 8601, or None."""
    seconds = number(value)
    try:
        if seconds is not None:
            return datetime.fromtimestamp(seconds, UTC)
        if isinstance(value, str):
            parsed = datetime.fromisoformat(value)
            return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError):
        pass
    return None
