"""Errors of uploads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.errors import ServiceError
from service.files.validation import Report


class InvalidDataset(ServiceError):
    """The uploaded file can't be trained on. Nothing of it was stored."""

    status = 400
    code = "invalid_dataset"

    def __init__(self, report: Report) -> None:
        first = report.problems[0]
        where = f"Line {first.line}" if first.line else "The file"
        field = f", {first.path}" if first.path else ""
        more = f" ({report.problem_count - 1} more)" if report.problem_count > 1 else ""
        super().__init__(f"{where}{field}: {first.message}. {first.hint}{more}", param="file")
        self._report = report

    def extra(self) -> Mapping[str, Any]:
        """All bad rows, up to the cap, and how many there are in all."""
        return {
            "errors": [problem.to_record() for problem in self._report.problems],
            "error_count": self._report.problem_count,
            "rows": self._report.rows,
        }

    def __reduce__(self) -> tuple[object, ...]:
        return (InvalidDataset, (self._report,))
