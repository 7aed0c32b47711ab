"""Statements on what runs leave on their way: states to go on from, and the models at the ends of epochs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Delete,
    Insert,
    Select,
    and_,
    delete,
    func,
    or_,
    select,
    tuple_,
    union_all,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.dml import ReturningDelete

from service.db.models import Checkpoint, Job, Model, TrainingState
from service.ids import new_id
from service.jobs.lifecycle import TERMINAL, JobStatus

NEWEST_FIRST = (TrainingState.lease_epoch.desc(), TrainingState.step.desc())
"""A later run's state is newer, even if that run had to begin further back."""


def add_state(job_id: str, *, epoch: int, step: int, path: str, size_bytes: int) -> Insert:
    """Record a state whose file is durable. Once, however often it is told."""
    return (
        insert(TrainingState)
        .values(job_id=job_id, lease_epoch=epoch, step=step, path=path, bytes=size_bytes)
        .on_conflict_do_nothing()
    )


def states(job_id: str, *, before_epoch: int) -> Select[str]:
    """Paths of what earlier runs left, newest first."""
    return (
        select(TrainingState.path)
        .where(TrainingState.job_id == job_id, TrainingState.lease_epoch < before_epoch)
        .order_by(*NEWEST_FIRST)
    )


def forget_older_states(job_id: str, *, kept: int) -> ReturningDelete[str]:
    """All but the newest few. Returns their paths."""
    newest = (
        select(TrainingState.lease_epoch, TrainingState.step)
        .where(TrainingState.job_id == job_id)
        .order_by(*NEWEST_FIRST)
        .limit(kept)
    )
    return (
        delete(TrainingState)
        .where(
            TrainingState.job_id == job_id,
            tuple_(TrainingState.lease_epoch, TrainingState.step).not_in(newest),
        )
        .returning(TrainingState.path)
    )


def add(
    job_id: str,
    *,
    epoch: int,
    step: int,
    metrics: dict[str, Any],
    adapter_path: str,
    manifest: dict[str, str],
) -> Insert:
    """Record the model at an epoch's end. Returns (id), or no row: an earlier run made that one."""
    return (
        insert(Checkpoint)
        .values(
            id=new_id("ftckpt"),
            job_id=job_id,
            lease_epoch=epoch,
            step=step,
            metrics=metrics,
            adapter_path=adapter_path,
            manifest=manifest,
        )
        .on_conflict_do_nothing()
        .returning(Checkpoint.id)
    )


def of_path(path: str) -> Select[str]:
    """The checkpoint whose adapter lies there."""
    return select(Checkpoint.id).where(Checkpoint.adapter_path == path)


def unpublished(job_id: str) -> Select[Checkpoint]:
    """A job's checkpoints that no model names, oldest first."""
    named = select(Model.id).where(Model.checkpoint_id == Checkpoint.id)
    return select(Checkpoint).where(Checkpoint.job_id == job_id, ~named.exists()).order_by(Checkpoint.step)


def forget_states(job_ids: Sequence[str]) -> Delete:
    """All of jobs that have ended: nobody goes on from them."""
    ended = select(Job.id).where(Job.id == TrainingState.job_id, Job.status.in_(sorted(TERMINAL)))
    return delete(TrainingState).where(TrainingState.job_id.in_(job_ids), ended.exists())


def forget_unpublished(job_ids: Sequence[str]) -> ReturningDelete[str]:
    """`delete_checkpoints` for these jobs."""
    return delete_checkpoints().where(Checkpoint.job_id.in_(job_ids))


def erase_states(organization_id: str) -> ReturningDelete[str]:
    """All of an organization whose jobs have ended. Returns their paths."""
    jobs = select(Job.id).where(Job.organization_id == organization_id)
    return delete(TrainingState).where(TrainingState.job_id.in_(jobs)).returning(TrainingState.path)


def erase_unpublished(organization_id: str) -> ReturningDelete[str]:
    """`delete_checkpoints` for an organization."""
    jobs = select(Job.id).where(Job.organization_id == organization_id)
    return delete_checkpoints().where(Checkpoint.job_id.in_(jobs))


class LiveRun(NamedTuple):
    """A job as whoever looks at its leavings needs it."""

    job_id: str
    status: str
    epoch: int


def runs(job_ids: Sequence[str]) -> Select[str, str, int]:
    """See `LiveRun`."""
    return select(Job.id, Job.status, Job.lease_epoch).where(Job.id.in_(job_ids))


def named_paths(job_ids: Sequence[str]) -> CompoundSelect[str]:
    """Every path in storage that a row of these jobs names and that somebody may still want: states, models
    in use, checkpoints that wait to become models."""
    named = select(Model.id).where(Model.checkpoint_id == Checkpoint.id)
    return union_all(
        select(TrainingState.path).where(TrainingState.job_id.in_(job_ids)),
        select(Model.adapter_path).where(Model.job_id.in_(job_ids), Model.deleted_at.is_(None)),
        select(Checkpoint.adapter_path).where(Checkpoint.job_id.in_(job_ids), ~named.exists()),
    )


def needless_states(retention: timedelta) -> Select[str]:
    """Paths of states that nobody goes on from: of jobs that have ended, of failed ones after a while."""
    return select(TrainingState.path).where(_needless(retention))


def delete_states(retention: timedelta) -> ReturningDelete[str]:
    """Those rows. Returns their paths."""
    return delete(TrainingState).where(_needless(retention)).returning(TrainingState.path)


def needless_checkpoints() -> Select[str]:
    """Paths of checkpoints that can't become models any more."""
    return select(Checkpoint.adapter_path).where(_never_published())


def delete_checkpoints() -> ReturningDelete[str]:
    """Those rows. Returns their paths."""
    return delete(Checkpoint).where(_never_published()).returning(Checkpoint.adapter_path)


def _needless(retention: timedelta) -> ColumnElement[bool]:
    over = or_(
        Job.status.in_((JobStatus.succeeded, JobStatus.cancelled)),
        and_(Job.status == JobStatus.failed, Job.finished_at < func.clock_timestamp() - retention),
    )
    return select(Job.id).where(Job.id == TrainingState.job_id, over).exists()


def _never_published() -> ColumnElement[bool]:
    named = select(Model.id).where(Model.checkpoint_id == Checkpoint.id)
    ended = select(Job.id).where(Job.id == Checkpoint.job_id, Job.status.in_(sorted(TERMINAL)))
    return and_(ended.exists(), ~named.exists())
