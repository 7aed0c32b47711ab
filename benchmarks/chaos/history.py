"""What the clients did and were told: one line of JSON an attempt, written before anybody judges it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any


class Outcome(StrEnum):
    """What a client may believe after one attempt."""

    ok = "ok"
    fail = "fail"
    """refused for good: it was not done, and will not be"""
    unknown = "unknown"
    """no answer, or one that does not say: it may have been done"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One attempt at one request. Times are seconds since the epoch, of the machine's own clock."""

    client: int
    kind: str
    """submit, cancel or poll"""
    key: str
    """of a submit or cancel: its Idempotency-Key; the same in every attempt"""
    job: str | None
    sent: float
    received: float
    outcome: Outcome
    http: int | None
    """the answer's status; None: there was none"""
    status: str | None = None
    attempt: int | None = None
    step: int | None = None
    model: str | None = None
    """fine_tuned_model, as polled"""


class History:
    """Appends operations to a file. Any thread."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._file = path.open("a", encoding="utf-8")

    def add(self, operation: Operation) -> None:
        """One line."""
        line = json.dumps(asdict(operation)) + "\n"
        with self._lock:
            self._file.write(line)

    def close(self) -> None:
        """Complete on the disk."""
        self._file.close()


def read(lines: Iterable[str]) -> list[Operation]:
    """A history's lines."""
    return [_operation(json.loads(line)) for line in lines]


def _operation(record: dict[str, Any]) -> Operation:
    return Operation(**{**record, "outcome": Outcome(record["outcome"])})
