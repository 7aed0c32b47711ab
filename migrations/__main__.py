"""``python -m migrations upgrade [REVISION] | downgrade REVISION | check | current | revision -m TEXT``."""

from __future__ import annotations

import argparse
import os
import sys

from alembic import command
from alembic.util.exc import CommandError

from migrations.config import alembic_config


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
                command.upgrade(config, arguments.revision or "head")
            case "downgrade":
                command.downgrade(config, arguments.revision)
            case "check":
                command.check(config)
            case "current":
                command.current(config, verbose=True)
            case "revision":
                command.revision(config, message=arguments.message, autogenerate=True)
    except CommandError as error:
        print(str(error), file=sys.stderr)
        return 1
    return 0


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
