"""What a record says of its own making: moments, and the software that wrote it."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version


def timestamp(moment: datetime) -> str:
    """ISO 8601 in UTC with microseconds: texts of one length, which sort as the times do."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def software_record() -> dict[str, object]:
    """Versions of this software and of Python."""
    try:
        own = version("double-i")
    except PackageNotFoundError:
        own = "unknown"
    return {"doublei": own, "python": platform.python_version()}
