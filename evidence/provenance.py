"""What a record says of its own making: moments, and the software that wrote it."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version


def timestamp(moment: datetime) -> str:
    """ISO 8601 in UTC with microseconds: texts of one length, which sort as the times do."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def software_version() -> str:
    """Of the installed package; "unknown" when it runs from a source tree that is not installed."""
    try:
        return version("double-i")
    except PackageNotFoundError:
        return "unknown"


def software_record() -> dict[str, object]:
    """Versions of this software and of Python."""
    return {"doublei": software_version(), "python": platform.python_version()}
