"""Answers kept for requests that come again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

TABLE = "idempotency_records"


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        TABLE,
        sa.Column("api_key_id", sa.Text(), nullable=False),
        sa.Column("name", sa.LargeBinary(), nullable=False),
        sa.Column("request", sa.LargeBinary(), nullable=False),
        sa.Column("retry_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("sealed_answer", sa.LargeBinary(), nullable=True),
        sa.Column("subject", sa.Text(), nullable=True),
        sa.Column(
            "started_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["api_key_id"], ["api_keys.id"], name=op.f("fk_idempotency_records_api_key_id_api_keys")
        ),
        sa.PrimaryKeyConstraint("api_key_id", "name", name=op.f("pk_idempotency_records")),
    )
    op.create_index("ix_idempotency_records_expires_at", TABLE, ["expires_at"], unique=False)
    op.create_index(
        "ix_idempotency_records_subject",
        TABLE,
        ["subject"],
        unique=False,
        postgresql_where=sa.text("subject IS NOT NULL"),
    )


def downgrade() -> None:
    """Back to 0003: the answers are forgotten."""
    op.drop_table(TABLE)
