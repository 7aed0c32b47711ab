"""When garbage was collected, and how much."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

TABLE = "garbage_collections"


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        TABLE,
        sa.Column("seq", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("things", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column(
            "finished_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_garbage_collections")),
    )


def downgrade() -> None:
    """Forget it."""
    op.drop_table(TABLE)
