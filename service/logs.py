"""One form for every line that a process of the service logs: a JSON object on standard error.

Our own lines are events with fields (`request.finished`, `job.claimed`); what a library logs through the
standard module becomes the field `event` of such a line. Of an exception the type and the frames are shown,
never its text, which may quote a dataset, a question or a credential.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any, TextIO, cast

import structlog

SHOWN_FRAMES = 12


def configure(*, libraries: int = logging.WARNING) -> None:
    """Set up this process. `libraries`: the level from which on others' lines are shown."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: structlog.PrintLogger(cast(TextIO, _STANDARD_ERROR)),
    )
    handler = logging.StreamHandler(_STANDARD_ERROR)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[
                _without_text,
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.captureWarnings(True)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(libraries)


def frames(error: BaseException) -> list[str]:
    """Where an exception came from, without its text or any value."""
    summary = traceback.extract_tb(error.__traceback__)
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in summary[-SHOWN_FRAMES:]]


class _StandardError:
    """Whatever standard error is when something is written: whoever redirects it gets the lines too. It is
    often a file, and a full disk must end nothing but the log."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()


_STANDARD_ERROR = _StandardError()


def _without_text(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """In place of a traceback, which ends with the exception's text."""
    info = event.pop("exc_info", None)
    error = info[1] if isinstance(info, tuple) else None
    if error is not None:
        event.update(error=type(error).__name__, frames=frames(error))
    return event
