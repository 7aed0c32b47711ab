"""The run's report: one JSON object a line on stdout, and nothing else there."""

from __future__ import annotations

import json
import os
import sys
from typing import TextIO


class Events:
    """Writes events. A reader that has gone away ends the run (BrokenPipeError)."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def send(self, event: str, **fields: str | int | float | list[str] | None) -> None:
        self._stream.write(json.dumps({"event": event, **fields}, allow_nan=False) + "\n")
        self._stream.flush()


def claim_stdout() -> Events:
    """Keep stdout for events: whatever a library prints from now on goes to stderr."""
    sys.stdout.flush()
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return Events(stream)
