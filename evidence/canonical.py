"""From bytes to a value and back, one way only; digests that name what they digest."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from typing import Any, NoReturn

from evidence.errors import NotCanonical
from watermark.canonical import canonical_bytes
from watermark.errors import RecordError

__all__ = ["canonical_bytes", "canonical_text", "digest", "parse_canonical"]

MAX_BYTES = 256 * 1024 * 1024
MAX_DEPTH = 32

_TOKENS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)


def canonical_text(value: object) -> str:
    """The canonical bytes as text, for a record that is quoted inside another."""
    return canonical_bytes(value).decode()


def digest(domain: str, data: bytes) -> str:
    """Hex SHA-256 over the domain's name, a NUL and the data.

    The name says what kind of record it is, so that one record's digest is never another kind's.
    """
    return sha256(domain.encode("ascii") + b"\x00" + data).hexdigest()


def parse_canonical(data: bytes) -> Any:
    """Read canonical JSON.

    Law: ``canonical_bytes(parse_canonical(b)) == b``.

    Raises:
        NotCanonical: no JSON, too large, too deep, or another spelling (white space, key order, a float, an
            escape that is not needed, a key twice).
    """
    if len(data) > MAX_BYTES:
        raise NotCanonical("larger than any evidence")
    try:
        text = data.decode()
        _check_depth(text)
        value = json.loads(text, parse_float=_no_float, parse_constant=_no_float)
        spelled = canonical_bytes(value)
    except RecordError as error:
        raise NotCanonical(str(error)) from None
    except (ValueError, RecursionError):
        raise NotCanonical("not JSON of strings, integers, lists and objects") from None
    if spelled != data:
        raise NotCanonical("JSON, but not its canonical spelling")
    return value


def _check_depth(text: str) -> None:
    depth = 0
    for match in _TOKENS.finditer(text):
        token = match.group()
        depth += (token in "[{") - (token in "]}")
        if depth > MAX_DEPTH:
            raise ValueError("too deep")


def _no_float(text: str) -> NoReturn:
    raise ValueError("a float")
