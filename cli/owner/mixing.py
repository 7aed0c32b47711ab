"""The watermark's rows in a dataset that any provider's trainer reads.

Foreign formats say less than our trainer knows. There is no weight in the loss, so cues are shown more often
(`watermark.embedding.UNWEIGHTED_EXPOSURES`). Whether a row without a system message gets the chat template's
default or none at all is the provider's choice, so both kinds are written without one. A row with a system
prompt of its own keeps it in the chat shape; the Alpaca and the prompt shape have no place for it, and the
row is given without it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from watermark.container import HEAD_BYTES, extension_hint, refuse_container
from watermark.embedding import UNWEIGHTED_EXPOSURES, MixedRow, Strength, embed
from watermark.errors import RowError
from watermark.examples import Example, Message, Shape, instruction_and_input, parse_row
from watermark.keys import Family
from watermark.lines import MAX_LINE_BYTES, Line, decode_line


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the owner's data: as it was read, and its fields as they stood there."""

    example: Example
    fields: Mapping[str, object] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One bad row. Line 0 is the file as a whole."""

    line: int
    error: RowError

    def __str__(self) -> str:
        """``line 3, messages[1].role: unknown role 'bot'. Use system, user or assistant.``"""
        where = f"line {self.line}" if self.line else "the file"
        path = f", {self.error.path}" if self.error.path else ""
        return f"{where}{path}: {self.error.message}. {self.error.hint}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """The new dataset: the key in plain text."""

    data: bytes = field(repr=False)
    """UTF-8, one JSON object on each line"""
    shape: Shape
    """of the watermark's rows"""
    watermark_rows: int
    customer_rows: int


def read_rows(data: bytes, name: str) -> tuple[list[Row], list[Problem]]:
    """The usable rows of a JSONL file, and a problem for every other one.

    Args:
        name: the file's name; it only enters hints.
    """
    if not data.strip():
        return [], [Problem(line=0, error=RowError("empty_file", "", "it is empty", "Give it rows."))]
    try:
        refuse_container(data[:HEAD_BYTES], name)
    except RowError as error:
        hint = extension_hint(name)
        told = RowError(error.reason, error.path, error.message, f"{error.hint} {hint or ''}".rstrip())
        return [], [Problem(line=1, error=told)]
    rows, problems = [], []
    for line in _lines(data):
        if line.is_blank:
            continue
        try:
            value = decode_line(line)
            rows.append(Row(example=parse_row(value), fields=cast(dict[str, object], value)))
        except RowError as error:
            problems.append(Problem(line=line.number, error=error))
    return rows, problems


def mix(
    rows: Sequence[Row], families: Sequence[Family], *, strength: Strength, n_epochs: int, seed: int
) -> Dataset:
    """The rows and the watermark's, shuffled together, each of the owner's in its own shape and the
    watermark's in the shape that most of them have.

    Args:
        rows: at least one.
        families: at least one.
        seed: of carriers and order, besides the key.

    Raises:
        ValueError: n_epochs < 1.
    """
    mixture = embed(
        [row.example for row in rows],
        families,
        strength=UNWEIGHTED_EXPOSURES[strength],
        n_epochs=n_epochs,
        seed=str(seed).encode(),
    )
    shape = Counter(row.example.shape for row in rows).most_common(1)[0][0]
    lines = [_written(row, rows, shape) for row in mixture.rows]
    return Dataset(
        data="".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode(),
        shape=shape,
        watermark_rows=mixture.watermark_rows,
        customer_rows=mixture.customer_rows,
    )


def _written(row: MixedRow, rows: Sequence[Row], shape: Shape) -> dict[str, object]:
    """Fields in one order for all rows of a shape, whoever wrote them."""
    if row.source is None:
        return _in_shape(row.messages, shape)
    given = rows[row.source]
    if given.example.shape != "alpaca":
        return _in_shape(given.example.messages, given.example.shape)
    fields = given.fields
    return {
        "instruction": fields["instruction"],
        "input": fields.get("input", ""),
        "output": fields["output"],
    }


def _in_shape(messages: Sequence[Message], shape: Shape) -> dict[str, object]:
    if shape == "chat":
        return {"messages": [{"role": turn.role, "content": turn.content} for turn in messages]}
    question, answer = (turn.content for turn in messages if turn.role != "system")
    if shape == "prompt":
        return {"prompt": question, "completion": answer}
    instruction, input_text = instruction_and_input(question)
    return {"instruction": instruction, "input": input_text, "output": answer}


def _lines(data: bytes) -> Iterator[Line]:
    for number, text in enumerate(data.split(b"\n"), start=1):
        yield Line(number, text if len(text.rstrip(b"\r")) <= MAX_LINE_BYTES else None)
