"""``python -m migrations upgrade [REVISION] | downgrade REVISION | check | current | revision -m TEXT``."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable

from alembic import command
from alembic.util.exc import CommandError
from sqlalchemy.exc import DBAPIError

from migrations.config import alembic_config

LOCK_NOT_AVAILABLE = "55P03"
ATTEMPTS = 12
PAUSE_SECONDS = 2.0
"""Between two tries at a lock that live traffic holds: it gets through meanwhile."""


def main() -> int:
    """Run one command against DATABASE_URL; 0 when it worked."""
    arguments = _arguments()
    url = os.environ.get("DATABASE_URL")
    if not url:
        print("DATABASE_URL is not set (postgresql+psycopg://…)", file=sys.stderr)
        return 2
    config = alembic_config(url)
    try:
        match arguments.command:
            case "upgrade":
                _patiently(lambda: command.upgrade(config, arguments.revision or "head"))
            case "downgrade":
                _patiently(lambda: command.downgrade(config, arguments.revision))
            case "check":
                command.check(config)
            case "current":
                command.current(config, verbose=True)
            case "revision":
                command.revision(config, message=arguments.message, autogenerate=True)
    except CommandError as error:
        print(str(error), file=sys.stderr)
        return 1
    except DBAPIError as error:
        print(_explained(error), file=sys.stderr)
        return 1
    return 0


def _patiently(migrate: Callable[[], None]) -> None:
    """Give way to live traffic: a migration that gets no lock in time is undone and tried again."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            migrate()
        except DBAPIError as error:
            if _state(error) != LOCK_NOT_AVAILABLE or attempt == ATTEMPTS:
                raise
            print(f"a table is in use; trying again ({attempt} of {ATTEMPTS})", file=sys.stderr, flush=True)
            time.sleep(PAUSE_SECONDS)
        else:
            return


def _explained(error: DBAPIError) -> str:
    """One line: what happened and what to do. Migrations that had ended before stay applied."""
    first = str(error.orig).strip().partition("\n")[0]
    if _state(error) == LOCK_NOT_AVAILABLE:
        return (
            f"not migrated: a table stayed in use through {ATTEMPTS} tries. Nothing is half done; end the"
            " long transactions in pg_stat_activity, or stop the service, and run this again"
        )
    if _state(error) is None:
        return f"not migrated: the database can't be reached: {first}"
    return f"not migrated: {first} (SQLSTATE {_state(error)}); nothing is half done"


def _state(error: DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m migrations", description="Schema of the system of record."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    upgrade = commands.add_parser("upgrade", help="to the newest revision, or to the one named")
    upgrade.add_argument("revision", nargs="?")
    downgrade = commands.add_parser("downgrade", help="refuses to drop evidence")
    downgrade.add_argument("revision")
    commands.add_parser("check", help="fail if the tables and the models differ")
    commands.add_parser("current", help="print the database's revision")
    revision = commands.add_parser("revision", help="write a new revision from the models")
    revision.add_argument("-m", "--message", required=True)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
