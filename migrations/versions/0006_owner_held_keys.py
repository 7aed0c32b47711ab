"""Keys whose secret the owner holds, and imported key files."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import op
from alembic.util.exc import CommandError
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql"
ORIGINS = ("service", "imported", "chosen", "preset")
NEW_ORIGINS = ("service", "imported", "owner-held", "chosen", "preset")
ORIGIN_CHECK = "ck_watermark_keys_origin"
UNIQUE = "uq_watermark_keys_owner_held"


def upgrade() -> None:
    """Add what a key of somebody else's keeping needs."""
    op.add_column("watermark_keys", sa.Column("committed_as", sa.Text(), nullable=True))
    op.add_column(
        "watermark_keys",
        sa.Column(
            "audits_before", postgresql.JSONB(astext_type=sa.Text()), server_default="[]", nullable=False
        ),
    )
    op.add_column("verifications", sa.Column("sealed_opening", sa.LargeBinary(), nullable=True))
    _set_origins(NEW_ORIGINS)
    op.create_index(
        op.f(UNIQUE),
        "watermark_keys",
        ["organization_id", "commitment"],
        unique=True,
        postgresql_where=sa.text("origin = 'owner-held'"),
    )
    op.execute((SQL / "0006_owner_held_keys.sql").read_text(encoding="utf-8"))


def downgrade() -> None:
    """Back, unless a key is held by its owner or was committed under another name than the organization's.

    Raises:
        CommandError: there is such a key; 0003 would read it as another one.
    """
    keys = sa.table("watermark_keys", sa.column("origin"), sa.column("committed_as"))
    held = sa.or_(keys.c.origin == "owner-held", keys.c.committed_as.is_not(None))
    if op.get_bind().execute(sa.select(sa.literal(1)).where(held).limit(1)).first():
        raise CommandError("watermark_keys has keys of their owners' own commitments: nothing is dropped")
    op.execute((SQL / "0006_owner_held_keys_down.sql").read_text(encoding="utf-8"))
    op.drop_index(op.f(UNIQUE), table_name="watermark_keys")
    _set_origins(ORIGINS)
    op.drop_column("verifications", "sealed_opening")
    op.drop_column("watermark_keys", "audits_before")
    op.drop_column("watermark_keys", "committed_as")


def _set_origins(origins: tuple[str, ...]) -> None:
    op.drop_constraint(op.f(ORIGIN_CHECK), "watermark_keys", type_="check")
    listed = ",".join(f"'{origin}'" for origin in origins)
    op.create_check_constraint(op.f(ORIGIN_CHECK), "watermark_keys", f"origin IN ({listed})")
