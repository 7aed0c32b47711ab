"""Foreign text on a page that people trust."""

from __future__ import annotations


def visible(text: str) -> str:
    """Text as it is, but control, format and bidirectional characters spelled out."""
    return "".join(char if char.isprintable() or char == "\n" else spelled(char) for char in text)


def spelled(char: str) -> str:
    """A character by its number."""
    return f"\\u{{{ord(char):x}}}"
