"""Run the migrations: one at a time, and never waiting long for a lock that live traffic holds."""

from __future__ import annotations

import sys
import time

from alembic import context
from alembic.util.exc import CommandError
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import NullPool

from service.db.models import Base

LOCK_TIMEOUT = "5s"
"""A migration that waits for a table lock blocks everybody behind it: give up and be run again."""
STATEMENT_TIMEOUT = "10min"
ADVISORY_LOCK = 0x646F75626C652D69
"""ASCII of "double-i": two deployments can't migrate at once; the second waits, then has nothing to do."""
TURN_SECONDS = 900.0
"""How long the second waits: longer than a migration may take."""
LOOK_SECONDS = 0.5


def _wait_for_turn(connection: Connection) -> None:
    """Take the advisory lock. Asked for again and again, so that nobody waits inside a statement in silence.

    Raises:
        CommandError: another migration has held it all the time.
    """
    deadline, told = time.monotonic() + TURN_SECONDS, False
    while not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": ADVISORY_LOCK}):
        connection.commit()
        if time.monotonic() > deadline:
            raise CommandError(
                f"another migration has not ended within {TURN_SECONDS:.0f} s: look for the session"
                " 'doublei-migrations' in pg_stat_activity"
            )
        if not told:
            print("another migration is running; waiting for it", file=sys.stderr, flush=True)
            told = True
        time.sleep(LOOK_SECONDS)


def _migrate(connection: Connection) -> None:
    _wait_for_turn(connection)
    connection.execute(text("SELECT set_config('lock_timeout', :value, false)"), {"value": LOCK_TIMEOUT})
    connection.execute(
        text("SELECT set_config('statement_timeout', :value, false)"), {"value": STATEMENT_TIMEOUT}
    )
    connection.commit()
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        compare_server_default=True,
        transaction_per_migration=True,
    )
    try:
        with context.begin_transaction():
            context.run_migrations()
    finally:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": ADVISORY_LOCK})
        connection.commit()


def run() -> None:
    """Connect and migrate; an SQL script for review (``--sql``) is not offered."""
    if context.is_offline_mode():
        raise NotImplementedError("offline migrations are not supported")
    engine = create_engine(
        context.config.attributes["database_url"],
        poolclass=NullPool,
        hide_parameters=True,
        connect_args={"application_name": "doublei-migrations", "connect_timeout": 10},
    )
    with engine.connect() as connection:
        _migrate(connection)


run()
