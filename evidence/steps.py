"""The numbered steps of a check, each with what became of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """What became of a step."""

    passed = "passed"
    failed = "failed"
    not_checked = "not_checked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One numbered step."""

    number: int
    name: str
    status: Status
    detail: str

    def to_record(self) -> dict[str, object]:
        """For machines."""
        return {
            "number": self.number,
            "name": self.name,
            "status": self.status.value,
            "detail": self.detail,
        }


def none_failed(steps: Iterable[Step]) -> bool:
    """Whether what was checked holds together."""
    return all(step.status is not Status.failed for step in steps)
