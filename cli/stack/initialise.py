"""``python -m cli.stack.initialise DATA_DIR``: makes the Postgres cluster; a one-shot of the stack."""

from __future__ import annotations

import sys
from pathlib import Path

from cli.errors import StackError
from cli.stack import postgres
from cli.stack.privileges import postgres_privileges


def main(data_dir: Path) -> int:
    """Returns the exit status; the reason of a failure goes to standard error."""
    try:
        privileges = postgres_privileges(binary=postgres.binary("postgres"), data_parent=data_dir.parent)
        postgres.initialise(data_dir, privileges)
    except StackError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
