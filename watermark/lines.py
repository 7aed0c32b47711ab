"""One line of a dataset file, read strictly: the same for the service, the worker and an owner's tools."""

from __future__ import annotations

from dataclasses import dataclass

from watermark import strict_json
from watermark.errors import RowError
from watermark.examples import Example, parse_row

MAX_LINE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Line:
    """One line, counted from 1; ``text`` is None where the line is longer than `MAX_LINE_BYTES`."""

    number: int
    text: bytes | None

    @property
    def is_blank(self) -> bool:
        """Nothing but white space."""
        return self.text is not None and not self.text.strip()


def decode_line(line: Line) -> object:
    """The JSON value on a line.

    Raises:
        RowError: it is too long, or not JSON that all readers agree on.
    """
    if line.text is None:
        raise RowError(
            "line_too_long",
            "",
            f"the line is longer than {MAX_LINE_BYTES} bytes",
            "Split the conversation into several rows.",
        )
    return strict_json.loads(line.text.strip())


def parse_line(line: Line) -> Example | None:
    """The row on a line; None where the line is blank.

    Raises:
        RowError: the line is no usable row.
    """
    return None if line.is_blank else parse_row(decode_line(line))
