"""Cosignatures of the log's witnesses, and what this service remembers as a witness of other logs."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import op
from alembic.util.exc import CommandError

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql"
TABLES = ("log_cosignatures", "witnessed_logs")


def upgrade() -> None:
    """Add the two tables."""
    op.create_table(
        "log_cosignatures",
        sa.Column("size", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("witness", sa.Text(), nullable=False),
        sa.Column("line", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("size", "witness", name=op.f("pk_log_cosignatures")),
    )
    op.create_table(
        "witnessed_logs",
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("size >= 0", name=op.f("ck_witnessed_logs_size")),
        sa.CheckConstraint("octet_length(root) = 32", name=op.f("ck_witnessed_logs_root")),
        sa.PrimaryKeyConstraint("origin", name=op.f("pk_witnessed_logs")),
    )
    op.execute((SQL / "0005_witnesses.sql").read_text(encoding="utf-8"))


def downgrade() -> None:
    """Back, unless something was cosigned.

    Raises:
        CommandError: a table holds rows.
    """
    for table in TABLES:
        if op.get_bind().execute(sa.select(sa.literal(1)).select_from(sa.table(table)).limit(1)).first():
            raise CommandError(f"{table} holds rows: evidence is not dropped by a downgrade")
    for table in TABLES:
        op.drop_table(table)
    op.execute("DROP FUNCTION doublei_witness_never_goes_back()")
