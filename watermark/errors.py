"""Typed errors of the watermark room."""

from __future__ import annotations

from typing import ClassVar


class WatermarkError(Exception):
    """Root of this room's errors. Messages never hold a secret, a trigger or a question."""

    code: ClassVar[str]


class RowError(WatermarkError):
    """One dataset row can't be used.

    ``path`` names the field ("messages[1].role"), ``reason`` is the stable code, ``hint`` says what to do.
    """

    code = "invalid_row"

    def __init__(self, reason: str, path: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.path = path
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        return (RowError, (self.reason, self.path, self.message, self.hint))


class DesignError(WatermarkError):
    """The key's shape (families, marks, cues) is outside what the banks and the test allow."""

    code = "invalid_design"


class MarksError(WatermarkError):
    """Marks chosen by an owner are not usable; ``path`` says which part."""

    code = "invalid_marks"

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path
        self.message = message

    def __reduce__(self) -> tuple[object, ...]:
        return (MarksError, (self.path, self.message))


class OpeningError(WatermarkError):
    """An opened family does not match its commitment: the evidence can't be trusted."""

    code = "opening_mismatch"


class PlanError(WatermarkError):
    """The planned audit can't reach its significance level whatever the answers are.

    ``smallest_marks`` is the smallest number of marks that can, or None when the family has too few.
    """

    code = "plan_cannot_reach_alpha"

    def __init__(self, message: str, smallest_marks: int | None) -> None:
        super().__init__(message)
        self.message = message
        self.smallest_marks = smallest_marks

    def __reduce__(self) -> tuple[object, ...]:
        return (PlanError, (self.message, self.smallest_marks))


class RecordError(WatermarkError):
    """A record (plan, opening, pre-registration) is malformed."""

    code = "malformed_record"
