"""``doublei`` and ``python -m cli``."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def main() -> int:
    """Run the command line; every foreseen failure is one line on standard error."""
    end_at_once_on_interrupt()
    try:
        from cli.app import run

        signal.signal(signal.SIGINT, signal.default_int_handler)
        return run()
    except KeyboardInterrupt:
        return 130


def end_at_once_on_interrupt() -> None:
    """While modules load nothing is running that would need an orderly stop, and a KeyboardInterrupt can be
    lost there: some modules swallow whatever is raised while they look for optional parts."""
    signal.signal(signal.SIGINT, _end)


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
