"""Sequential audits, nonces, campaigns and the audit trail."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import op
from alembic.util.exc import CommandError
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql"
INSERT_ONLY = ("campaigns", "nonce_reveals", "verification_looks", "audit_events")
STATUSES = ("queued", "running", "succeeded", "failed", "cancelled")
NEW_STATUSES = ("awaiting_nonce", "queued", "running", "paused", "succeeded", "failed", "cancelled")
STATUS_CHECK = "ck_verifications_status"
INDEX_UNIQUE = "uq_preregistrations_key_id_audit_index"
POSITION_UNIQUE = "uq_preregistrations_key_id_audit_index_campaign_position"


def _moment(name: str) -> sa.Column[object]:
    return sa.Column(
        name, sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
    )


def _is_verification(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["verification_id"], ["verifications.id"], name=op.f(f"fk_{table}_verification_id_verifications")
    )


def upgrade() -> None:
    """Add what the audit protocol records."""
    _create_campaigns()
    _create_records()
    _create_trail()
    op.add_column("verifications", sa.Column("campaign_id", sa.Text(), nullable=True))
    op.add_column("verifications", sa.Column("sitting_started_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column(
        "verifications",
        sa.Column("conclude_requested", sa.Boolean(), server_default="false", nullable=False),
    )
    op.create_foreign_key(
        op.f("fk_verifications_campaign_id_campaigns"), "verifications", "campaigns", ["campaign_id"], ["id"]
    )
    op.create_index(op.f("ix_verifications_campaign_id"), "verifications", ["campaign_id"], unique=False)
    op.add_column(
        "preregistrations", sa.Column("campaign_position", sa.Integer(), server_default="0", nullable=False)
    )
    # Audits that were pre-registered before had no nonce: an empty one commits to nothing.
    op.add_column(
        "preregistrations", sa.Column("service_nonce", sa.LargeBinary(), server_default="", nullable=False)
    )
    op.alter_column("preregistrations", "service_nonce", server_default=None)
    op.drop_constraint(op.f(INDEX_UNIQUE), "preregistrations", type_="unique")
    op.create_unique_constraint(
        op.f(POSITION_UNIQUE),
        "preregistrations",
        ["key_id", "audit_index", "campaign_position"],
    )
    _set_statuses(NEW_STATUSES)
    op.execute((SQL / "0002_audit_protocol.sql").read_text(encoding="utf-8"))


def downgrade() -> None:
    """Back to 0001, unless there are records.

    Raises:
        CommandError: an INSERT-only table holds rows, or an audit waits in a state that 0001 does not know.
    """
    for table in INSERT_ONLY:
        if op.get_bind().execute(sa.select(sa.literal(1)).select_from(sa.table(table)).limit(1)).first():
            raise CommandError(f"{table} holds rows: evidence is not dropped by a downgrade")
    verifications = sa.table("verifications", sa.column("status", sa.Text()))
    waiting = sa.select(sa.literal(1)).where(verifications.c.status.in_(("awaiting_nonce", "paused")))
    if op.get_bind().execute(waiting.limit(1)).first():
        raise CommandError("verifications wait for a nonce or are paused: cancel or conclude them first")
    op.execute((SQL / "0002_audit_protocol_down.sql").read_text(encoding="utf-8"))
    _set_statuses(STATUSES)
    op.drop_constraint(op.f(POSITION_UNIQUE), "preregistrations", type_="unique")
    op.create_unique_constraint(op.f(INDEX_UNIQUE), "preregistrations", ["key_id", "audit_index"])
    op.drop_column("preregistrations", "service_nonce")
    op.drop_column("preregistrations", "campaign_position")
    op.drop_column("verifications", "conclude_requested")
    op.drop_column("verifications", "sitting_started_at")
    op.drop_column("verifications", "campaign_id")
    for table in ("audit_events", "verification_looks", "nonce_reveals", "campaigns"):
        op.drop_table(table)


def _set_statuses(statuses: tuple[str, ...]) -> None:
    op.drop_constraint(op.f(STATUS_CHECK), "verifications", type_="check")
    listed = ", ".join(f"'{status}'" for status in statuses)
    op.create_check_constraint(op.f(STATUS_CHECK), "verifications", f"status IN ({listed})")


def _create_campaigns() -> None:
    op.create_table(
        "campaigns",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("audit_index", sa.Integer(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("alpha_i", sa.Text(), nullable=False),
        _moment("created_at"),
        sa.ForeignKeyConstraint(
            ["key_id"], ["watermark_keys.id"], name=op.f("fk_campaigns_key_id_watermark_keys")
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organizations.id"], name=op.f("fk_campaigns_organization_id_organizations")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_campaigns")),
    )
    op.create_index(op.f("ix_campaigns_key_id"), "campaigns", ["key_id"], unique=False)
    op.create_index(op.f("ix_campaigns_organization_id"), "campaigns", ["organization_id"], unique=False)


def _create_records() -> None:
    op.create_table(
        "nonce_reveals",
        sa.Column("verification_id", sa.Text(), nullable=False),
        sa.Column("auditor_nonce", sa.LargeBinary(), nullable=False),
        sa.Column("beacon", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        _moment("created_at"),
        _is_verification("nonce_reveals"),
        sa.PrimaryKeyConstraint("verification_id", name=op.f("pk_nonce_reveals")),
    )
    op.create_table(
        "verification_looks",
        sa.Column("verification_id", sa.Text(), nullable=False),
        sa.Column("look", sa.Integer(), nullable=False),
        sa.Column("mark", sa.Integer(), nullable=False),
        sa.Column("e_value", sa.Text(), nullable=False),
        sa.Column("product", sa.Text(), nullable=False),
        _moment("created_at"),
        _is_verification("verification_looks"),
        sa.PrimaryKeyConstraint("verification_id", "look", name=op.f("pk_verification_looks")),
    )


def _create_trail() -> None:
    op.create_table(
        "audit_events",
        sa.Column("seq", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        _moment("at"),
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("actor_organization_id", sa.Text(), nullable=False),
        sa.Column("actor_key_id", sa.Text(), nullable=True),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=True),
        sa.Column("grant_id", sa.Text(), nullable=True),
        sa.Column("verification_id", sa.Text(), nullable=True),
        sa.Column("suspect_host", sa.Text(), nullable=True),
        sa.Column("detail", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit_events")),
        sa.UniqueConstraint("id", name=op.f("uq_audit_events_id")),
    )
    for column in ("organization_id", "actor_organization_id"):
        op.create_index(f"ix_audit_events_{column}_seq", "audit_events", [column, "seq"], unique=False)
