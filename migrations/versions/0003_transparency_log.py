"""The transparency log."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import op
from alembic.util.exc import CommandError

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql"
TABLES = ("log_records", "log_checkpoints", "log_nodes", "log_entries")


def upgrade() -> None:
    """Add the log. What happened before is not in it."""
    op.create_table(
        "log_entries",
        sa.Column("index", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("entry", sa.LargeBinary(), nullable=False),
        sa.Column("leaf_hash", sa.LargeBinary(), nullable=False),
        sa.Column("logged_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("index >= 0", name=op.f("ck_log_entries_index")),
        sa.CheckConstraint("octet_length(leaf_hash) = 32", name=op.f("ck_log_entries_leaf_hash")),
        sa.PrimaryKeyConstraint("index", name=op.f("pk_log_entries")),
    )
    op.create_index("ix_log_entries_subject_index", "log_entries", ["subject", "index"], unique=False)
    op.create_table(
        "log_nodes",
        sa.Column("level", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("index", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("level > 0", name=op.f("ck_log_nodes_level")),
        sa.CheckConstraint("octet_length(hash) = 32", name=op.f("ck_log_nodes_hash")),
        sa.PrimaryKeyConstraint("level", "index", name=op.f("pk_log_nodes")),
    )
    op.create_table(
        "log_records",
        sa.Column("index", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["index"], ["log_entries.index"], name=op.f("fk_log_records_index_log_entries")
        ),
        sa.PrimaryKeyConstraint("index", name=op.f("pk_log_records")),
    )
    op.create_table(
        "log_checkpoints",
        sa.Column("size", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("size", name=op.f("pk_log_checkpoints")),
    )
    op.execute((SQL / "0003_transparency_log.sql").read_text(encoding="utf-8"))


def downgrade() -> None:
    """Back to 0002, unless anything was entered or signed.

    Raises:
        CommandError: the log holds rows.
    """
    for table in TABLES:
        if op.get_bind().execute(sa.select(sa.literal(1)).select_from(sa.table(table)).limit(1)).first():
            raise CommandError(f"{table} holds rows: evidence is not dropped by a downgrade")
    for table in TABLES:
        op.drop_table(table)
    op.execute("DROP FUNCTION doublei_never_changed()")
