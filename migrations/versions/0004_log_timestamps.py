"""Timestamps of others on the log's checkpoints."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from alembic.util.exc import CommandError

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TABLE = "log_timestamps"


def upgrade() -> None:
    """Add the table. Checkpoints from before can still be stamped; what they prove is as old as the stamp."""
    op.create_table(
        TABLE,
        sa.Column("size", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("authority", sa.Text(), nullable=False),
        sa.Column("reply", sa.LargeBinary(), nullable=False),
        sa.Column("stamped_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("size", name=op.f("pk_log_timestamps")),
    )
    # As in 0001, ALWAYS: session_replication_role does not switch it off.
    op.execute(
        f"CREATE TRIGGER insert_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {TABLE} "
        "FOR EACH STATEMENT EXECUTE FUNCTION doublei_insert_only()"
    )
    op.execute(f"ALTER TABLE {TABLE} ENABLE ALWAYS TRIGGER insert_only")


def downgrade() -> None:
    """Back to 0003, unless anything was stamped.

    Raises:
        CommandError: the table holds rows.
    """
    if op.get_bind().execute(sa.select(sa.literal(1)).select_from(sa.table(TABLE)).limit(1)).first():
        raise CommandError(f"{TABLE} holds rows: evidence is not dropped by a downgrade")
    op.drop_table(TABLE)
