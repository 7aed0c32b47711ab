"""Lines of an uploaded file, with their numbers. Reads in bounded memory whatever is in the file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from watermark.examples import Example
from watermark.lines import MAX_LINE_BYTES, Line, parse_line


def lines(file: BinaryIO) -> Iterator[Line]:
    """Every line, blank ones too."""
    number = 0
    while chunk := file.readline(MAX_LINE_BYTES + 2):
        number += 1
        if len(chunk.rstrip(b"\r\n")) > MAX_LINE_BYTES:
            while chunk and not chunk.endswith(b"\n"):
                chunk = file.readline(MAX_LINE_BYTES)
            yield Line(number, None)
        else:
            yield Line(number, chunk)


def read_examples(path: Path) -> Iterator[Example]:
    """The rows of a stored file, exactly as validation read them.

    Raises:
        RowError: a row is bad, so the file did not pass validation or was changed since.
    """
    with path.open("rb") as file:
        for line in lines(file):
            example = parse_line(line)
            if example is not None:
                yield example
