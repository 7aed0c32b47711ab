"""Is this file a dataset? Every bad row is found, not only the first.

Rows of different shapes may be mixed in one file: each row is read by itself, and the report says how many
there are of each. A name that does not end in .jsonl is forgiven when the content is right.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

from service.files.reading import lines
from watermark.container import HEAD_BYTES, extension_hint, refuse_container
from watermark.errors import RowError
from watermark.examples import Example
from watermark.lines import parse_line

MIN_ROWS = 10
MAX_ROWS = 2_000_000
MAX_REPORTED_ERRORS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class RowProblem:
    """One bad row. Line 0 is the file as a whole."""

    line: int
    path: str
    code: str
    message: str
    hint: str

    def to_record(self) -> dict[str, Any]:
        """As on the wire."""
        return {
            "line": self.line,
            "path": self.path,
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was found in a file."""

    rows: int
    """usable rows"""
    problems: tuple[RowProblem, ...]
    """the first `MAX_REPORTED_ERRORS`"""
    problem_count: int
    format: str | None
    """alpaca, chat, prompt, mixed, or None where no row is usable"""
    stats: Mapping[str, Any] = field(default_factory=dict)

    @property
    def valid(self) -> bool:
        """May a job use it?"""
        return self.problem_count == 0

    def to_record(self) -> dict[str, Any]:
        """As stored, and as on the wire under ``validation``."""
        return {
            "valid": self.valid,
            "rows": self.rows,
            "errors": [problem.to_record() for problem in self.problems],
            "error_count": self.problem_count,
            "format": self.format,
            "stats": dict(self.stats),
        }


def validate(path: Path, filename: str) -> Report:
    """Read the whole file. Blocking; memory grows by 8 bytes a row (digests, to count duplicates)."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        tally = _Tally()
        if not head.strip():
            tally.problem(
                0, RowError("empty_file", "", "the file is empty", f"Give at least {MIN_ROWS} rows.")
            )
            return tally.report()
        try:
            refuse_container(head, filename)
        except RowError as error:
            tally.problem(1, error, extension_hint(filename))
            return tally.report()
        file.seek(0)
        _read(file, filename, tally)
    return tally.report()


def _read(file: BinaryIO, filename: str, tally: _Tally) -> None:
    name_hint = extension_hint(filename)
    for line in lines(file):
        try:
            example = parse_line(line)
        except RowError as error:
            tally.problem(line.number, error, name_hint if line.number == 1 else None)
            continue
        if example is None:
            tally.blank_lines += 1
        else:
            tally.row(example)
        if tally.rows > MAX_ROWS:
            tally.problem(
                line.number,
                RowError("too_many_rows", "", f"more than {MAX_ROWS} rows", "Split the dataset."),
            )
            return
    if tally.rows < MIN_ROWS and tally.count == 0:
        tally.problem(
            0,
            RowError(
                "dataset_too_small",
                "",
                f"the file has {tally.rows} rows; the minimum is {MIN_ROWS}",
                "Fine-tuning on fewer rows teaches nothing: add more examples.",
            ),
        )


class _Tally:
    """Counts while reading."""

    def __init__(self) -> None:
        self.rows = 0
        self.count = 0
        self.blank_lines = 0
        self._problems: list[RowProblem] = []
        self._codes: Counter[str] = Counter()
        self._formats: Counter[str] = Counter()
        # 64-bit digests in buckets of their last byte: a set of them all would take ten times the room
        self._digests = tuple(array("Q") for _ in range(256))
        self._characters = 0
        self._answer_characters = 0
        self._longest = 0
        self._with_system = 0
        self._conversations = 0

    def problem(self, line: int, error: RowError, more: str | None = None) -> None:
        self.count += 1
        self._codes[error.reason] += 1
        if len(self._problems) < MAX_REPORTED_ERRORS:
            hint = f"{error.hint} {more}" if more else error.hint
            self._problems.append(
                RowProblem(line=line, path=error.path, code=error.reason, message=error.message, hint=hint)
            )

    def row(self, example: Example) -> None:
        self.rows += 1
        self._formats[example.shape] += 1
        length = sum(len(message.content) for message in example.messages)
        self._characters += length
        self._longest = max(self._longest, length)
        answers = [message for message in example.messages if message.role == "assistant"]
        self._answer_characters += sum(len(message.content) for message in answers)
        self._with_system += example.messages[0].role == "system"
        self._conversations += len(answers) > 1
        digest = _digest(example)
        self._digests[digest & 0xFF].append(digest)

    def report(self) -> Report:
        formats = dict(sorted(self._formats.items()))
        return Report(
            rows=self.rows,
            problems=tuple(self._problems),
            problem_count=self.count,
            format=None if not formats else next(iter(formats)) if len(formats) == 1 else "mixed",
            stats={
                "formats": formats,
                "characters": self._characters,
                "answer_characters": self._answer_characters,
                "longest_row_characters": self._longest,
                "duplicate_rows": sum(len(bucket) - len(set(bucket)) for bucket in self._digests),
                "rows_with_system": self._with_system,
                "rows_with_several_answers": self._conversations,
                "blank_lines": self.blank_lines,
                "error_codes": dict(sorted(self._codes.items())),
            },
        )


def _digest(example: Example) -> int:
    parts = blake2b(digest_size=8)
    for message in example.messages:
        content = message.content.encode()
        parts.update(f"{message.role}:{len(content)}:".encode())
        parts.update(content)
    return int.from_bytes(parts.digest(), "big")
