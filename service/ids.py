"""Identifiers: a prefix that says what it is, and 24 random base-62 characters (142 bits)."""

from __future__ import annotations

import secrets
import string

BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase

ID_CHARACTERS = 24


def random_base62(length: int) -> str:
    """``length`` characters from the operating system's random source."""
    return "".join(secrets.choice(BASE62) for _ in range(length))


def is_id(text: str, prefix: str) -> bool:
    """Whether a text looks like an identifier of that kind."""
    start, _, rest = text.partition("-")
    return start == prefix and len(rest) == ID_CHARACTERS and set(rest) <= set(BASE62)


def new_id(prefix: str) -> str:
    """A fresh identifier such as ``file-3rT…``; unguessable, though no access rule relies on that."""
    return f"{prefix}-{random_base62(ID_CHARACTERS)}"
