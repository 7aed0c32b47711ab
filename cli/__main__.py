"""``doublei`` and ``python -m cli``."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; every foreseen failure is one line on standard error."""
    try:
        from cli.app import run

        return run()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
