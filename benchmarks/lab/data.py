"""Instruction data for the laboratory, split once: customer rows, a thief's rows, held-out rows."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

from cli.demo.conversations import distinct_pairs
from watermark.errors import RowError
from watermark.examples import Example, alpaca, parse_row


class DataError(Exception):
    """The data can't be used; the text says which line and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """Disjoint rows, drawn by one seed."""

    customer: tuple[Example, ...]
    second: tuple[Example, ...]
    """what a thief, or another customer, trains on"""
    held_out: tuple[Example, ...]
    """trained on by nobody"""


def read_examples(path: Path | None) -> list[Example]:
    """Every row of a JSONL file, or the conversations of chatterbot-corpus.

    Raises:
        DataError: naming the line.
    """
    if path is None:
        return [alpaca(question, "", answer) for question, answer in distinct_pairs()]
    examples = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"can't read {path}: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            examples.append(parse_row(json.loads(line)))
        except ValueError as error:
            raise DataError(f"{path}, line {number}: not valid JSON ({error})") from error
        except RowError as error:
            raise DataError(f"{path}, line {number}: {error.reason}") from error
    return examples


def split(examples: list[Example], *, customer: int, second: int, held_out: int, seed: int) -> Splits:
    """Disjoint random parts.

    Raises:
        DataError: fewer rows than asked for.
    """
    needed = customer + second + held_out
    if len(examples) < needed:
        raise DataError(f"the profile needs {needed} distinct rows; the data has {len(examples)}")
    drawn = random.Random(f"lab/split/{seed}").sample(examples, needed)
    return Splits(
        customer=tuple(drawn[:customer]),
        second=tuple(drawn[customer : customer + second]),
        held_out=tuple(drawn[customer + second :]),
    )
