"""What the reaper asks of verifications finds it by an index, however many have ended."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

INDEX = "ix_verifications_claimable"


def upgrade() -> None:
    """Build it beside live traffic: no statement waits for it. An attempt that failed leaves an index that is
    not valid, hence the drop."""
    with op.get_context().autocommit_block():
        op.drop_index(INDEX, table_name="verifications", postgresql_concurrently=True, if_exists=True)
        op.create_index(
            INDEX,
            "verifications",
            ["status", "lease_expires_at"],
            unique=False,
            postgresql_where=sa.text("status IN ('queued','running')"),
            postgresql_concurrently=True,
        )


def downgrade() -> None:
    """Without it the reaper reads the whole table."""
    with op.get_context().autocommit_block():
        op.drop_index(INDEX, table_name="verifications", postgresql_concurrently=True, if_exists=True)
