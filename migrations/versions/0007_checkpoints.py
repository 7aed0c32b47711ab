"""Checkpoints, and jobs that are paused."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import op
from alembic.util.exc import CommandError
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql"
STATUSES = ("validating_files", "queued", "running", "succeeded", "failed", "cancelled")
NEW_STATUSES = ("validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled")
STATUS_CHECK = "ck_jobs_status"
MODEL_UNIQUE = "uq_models_job_id"
NEW_MODEL_UNIQUE = "uq_models_job_id_checkpoint_id"
MODEL_CHECKPOINT = "fk_models_checkpoint_id_checkpoints"


def _moment(name: str) -> sa.Column[object]:
    return sa.Column(
        name, sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
    )


def upgrade() -> None:
    """Add what runs leave on their way, and the state in which a job waits for its owner."""
    op.create_table(
        "training_states",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("lease_epoch", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("step", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        _moment("created_at"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_training_states_job_id_jobs")),
        sa.PrimaryKeyConstraint("job_id", "lease_epoch", "step", name=op.f("pk_training_states")),
    )
    op.create_table(
        "checkpoints",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("lease_epoch", sa.BigInteger(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("metrics", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("adapter_path", sa.Text(), nullable=False),
        sa.Column("manifest", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        _moment("created_at"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_checkpoints_job_id_jobs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_checkpoints")),
        sa.UniqueConstraint("job_id", "step", name=op.f("uq_checkpoints_job_id_step")),
    )
    op.add_column("models", sa.Column("checkpoint_id", sa.Text(), nullable=True))
    op.create_foreign_key(op.f(MODEL_CHECKPOINT), "models", "checkpoints", ["checkpoint_id"], ["id"])
    op.drop_constraint(op.f(MODEL_UNIQUE), "models", type_="unique")
    op.create_unique_constraint(
        op.f(NEW_MODEL_UNIQUE), "models", ["job_id", "checkpoint_id"], postgresql_nulls_not_distinct=True
    )
    op.add_column("jobs", sa.Column("pause_requested", sa.Boolean(), server_default="false", nullable=False))
    _set_statuses(NEW_STATUSES)
    op.execute((SQL / "0007_checkpoints.sql").read_text(encoding="utf-8"))


def downgrade() -> None:
    """Back, unless a job waits or a checkpoint was recorded: 0003 has no place for either.

    Raises:
        CommandError: there is one.
    """
    paused = sa.select(sa.literal(1)).where(sa.table("jobs", sa.column("status")).c.status == "paused")
    if op.get_bind().execute(paused.limit(1)).first():
        raise CommandError("jobs are paused: resume or cancel them first")
    recorded = sa.select(sa.literal(1)).select_from(sa.table("checkpoints"))
    if op.get_bind().execute(recorded.limit(1)).first():
        raise CommandError("checkpoints holds rows: models that are in use are not dropped by a downgrade")
    op.execute((SQL / "0007_checkpoints_down.sql").read_text(encoding="utf-8"))
    _set_statuses(STATUSES)
    op.drop_column("jobs", "pause_requested")
    op.drop_constraint(op.f(NEW_MODEL_UNIQUE), "models", type_="unique")
    op.create_unique_constraint(op.f(MODEL_UNIQUE), "models", ["job_id"])
    op.drop_constraint(op.f(MODEL_CHECKPOINT), "models", type_="foreignkey")
    op.drop_column("models", "checkpoint_id")
    op.drop_table("checkpoints")
    op.drop_table("training_states")


def _set_statuses(statuses: tuple[str, ...]) -> None:
    op.drop_constraint(op.f(STATUS_CHECK), "jobs", type_="check")
    listed = ", ".join(f"'{status}'" for status in statuses)
    op.create_check_constraint(op.f(STATUS_CHECK), "jobs", f"status IN ({listed})")
