"""Lines of an uploaded file, with their numbers. Reads in bounded memory whatever is in the file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from service.files import strict_json
from watermark.errors import RowError
from watermark.examples import Example, parse_row

MAX_LINE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Line:
    """One line, counted from 1; ``text`` is None where the line is longer than `MAX_LINE_BYTES`."""

    number: int
    text: bytes | None


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


def parse_line(line: Line) -> Example | None:
    """The row on a line; None where the line is blank.

    Raises:
        RowError: the line is no usable row.
    """
    if line.text is None:
        raise RowError(
            "line_too_long",
            "",
            f"the line is longer than {MAX_LINE_BYTES} bytes",
            "Split the conversation into several rows.",
        )
    stripped = line.text.strip()
    return parse_row(strict_json.loads(stripped)) if stripped else None


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
