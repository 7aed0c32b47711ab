"""Statements on jobs, their events and the models they publish; for the API (async) and the worker (sync)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import ColumnElement, Insert, Select, Update, func, insert, select, update
from sqlalchemy.sql.dml import ReturningInsert

from service import leases
from service.db.models import File, Job, JobEvent, Model, Organization, WatermarkKey
from service.files import statements as file_statements
from service.ids import new_id
from service.jobs.lifecycle import JobStatus
from service.watermarks import statements as watermark_statements


def one(job_id: str, *, organization_id: str | None) -> Select[Job]:
    """A job of that organization; None sees every organization's."""
    statement = select(Job).where(Job.id == job_id)
    return statement if organization_id is None else statement.where(Job.organization_id == organization_id)


def add(values: dict[str, Any]) -> ReturningInsert[Job]:
    """A new job, as it then is: what the database fills in comes back with it."""
    return insert(Job).values(values).returning(Job)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of a job's history. It holds no row of the dataset and no part of a key."""

    message: str
    level: str = "info"
    type: str = "message"
    data: dict[str, Any] | None = None


def events(job_id: str, happened: Sequence[Event]) -> Insert:
    """Append these, at least one, in their order."""
    rows = [{"id": new_id("ftevent"), "job_id": job_id} | asdict(one) for one in happened]
    # a list is compiled anew at each call, a single row once
    return insert(JobEvent).values(rows if len(rows) > 1 else rows[0])


def event(job_id: str, message: str, *, level: str = "info") -> Insert:
    """Append one event; see `Event`."""
    return events(job_id, [Event(message=message, level=level)])


NOT_RUNNING: dict[str, Any] = {"stage": None, "estimated_finish": None, "pause_requested": False}
"""What a job no longer says once its run is over."""


def claim(job_id: str, *, owner: str, lease_seconds: int) -> Update:
    """See `leases.claim`. A lost run that was to pause is not taken over: the reaper pauses it."""
    claimed = leases.claim(Job, job_id, owner=owner, lease_seconds=lease_seconds)
    # A lost run's row may be taken before the reaper has seen it: how far that one was says nothing of this.
    return claimed.where(Job.pause_requested.is_(False)).values(progress=None, **NOT_RUNNING)


def heartbeat(job_id: str, *, epoch: int, lease_seconds: int, values: dict[str, Any] | None = None) -> Update:
    """See `leases.heartbeat`. Returns (cancel_requested, pause_requested)."""
    beat = leases.heartbeat(Job, job_id, epoch=epoch, lease_seconds=lease_seconds, values=values)
    return beat.returning(Job.pause_requested)


def set_while_held(job_id: str, *, epoch: int, values: dict[str, Any]) -> Update:
    """Store what the run knows now. Returns (id), or no row: the lease is lost."""
    return update(Job).where(leases.held(Job, job_id, epoch)).values(**values).returning(Job.id)


def lock_while_held(job_id: str, *, epoch: int) -> Select[str]:
    """Hold the row for the rest of the transaction. No row: the lease is lost."""
    return select(Job.id).where(leases.held(Job, job_id, epoch)).with_for_update()


def finish(job_id: str, *, epoch: int, status: JobStatus, values: dict[str, Any] | None = None) -> Update:
    """See `leases.finish`. Nor does a job fail whose cancellation was asked for: it is cancelled."""
    finished = leases.finish(Job, job_id, epoch=epoch, status=status, values=NOT_RUNNING | (values or {}))
    return finished.where(Job.cancel_requested.is_(False)) if status == JobStatus.failed else finished


def ended(job_id: str, *, epoch: int, status: JobStatus) -> Select[str]:
    """The job, if the run of this epoch was its last and ended so."""
    return select(Job.id).where(Job.id == job_id, Job.lease_epoch == epoch, Job.status == status)


def hand_back(job_id: str, *, epoch: int, count_attempt: bool, wait_seconds: float) -> Update:
    """See `leases.hand_back`. Not while a pause is asked for: nobody would resume it then."""
    left = leases.hand_back(
        Job,
        job_id,
        epoch=epoch,
        count_attempt=count_attempt,
        wait_seconds=wait_seconds,
        values=NOT_RUNNING,
    )
    return left.where(Job.pause_requested.is_(False))


def cancel_waiting(job_id: str) -> Update:
    """Cancel a job that no worker has. Returns (id), or no row if one has it or it has ended."""
    return (
        update(Job)
        .where(Job.id == job_id, Job.status.in_((JobStatus.queued, JobStatus.paused)))
        .values(status=JobStatus.cancelled, cancel_requested=True, finished_at=func.clock_timestamp())
        .returning(Job.id)
    )


def pause_queued(job_id: str) -> Update:
    """Pause a job that no worker has. Returns (id), or no row. It need not wait again once it is resumed."""
    return (
        update(Job)
        .where(Job.id == job_id, Job.status == JobStatus.queued)
        .values(status=JobStatus.paused, lease_expires_at=None)
        .returning(Job.id)
    )


def request_pause(job_id: str) -> Update:
    """Ask the worker that has the job to stop. Returns (id), or no row if none has it or it was asked."""
    return (
        update(Job)
        .where(
            Job.id == job_id,
            Job.status == JobStatus.running,
            Job.cancel_requested.is_(False),
            Job.pause_requested.is_(False),
        )
        .values(pause_requested=True)
        .returning(Job.id)
    )


def pause_held(job_id: str, *, epoch: int) -> Update:
    """Leave the job as its owner asked; the attempt does not count. Returns (id), or no row: the lease is
    lost, the pause was taken back, or a cancellation was asked for."""
    held = leases.held(Job, job_id, epoch)
    return _paused(held, *_PAUSE_ASKED).values(attempt=Job.attempt - 1)


def reap_paused() -> Update:
    """Pause the expired rows whose owners asked for it and that may be tried again. Returns (id)."""
    return _paused(leases.reapable(Job, *_PAUSE_ASKED, Job.attempt < Job.max_attempts))


_PAUSE_ASKED = (Job.pause_requested.is_(True), Job.cancel_requested.is_(False))


def _paused(*conditions: ColumnElement[bool]) -> Update:
    return (
        update(Job)
        .where(*conditions)
        .values(status=JobStatus.paused, lease_owner=None, lease_expires_at=None, **NOT_RUNNING)
        .returning(Job.id)
    )


def resume(job_id: str) -> Update:
    """Queue a paused job again. Returns (id), or no row: it is not paused."""
    return (
        update(Job)
        .where(Job.id == job_id, Job.status == JobStatus.paused)
        .values(status=JobStatus.queued, progress=None)
        .returning(Job.id)
    )


def withdraw_pause(job_id: str) -> Update:
    """Take back a pause that its worker has not made yet. Returns (id), or no row."""
    return (
        update(Job)
        .where(Job.id == job_id, Job.status == JobStatus.running, Job.pause_requested.is_(True))
        .values(pause_requested=False)
        .returning(Job.id)
    )


def publish(
    *,
    model_id: str,
    organization_id: str,
    job_id: str,
    base_model: str,
    adapter_path: str,
    manifest: dict[str, str],
    checkpoint_id: str | None = None,
) -> Insert:
    """The model of a job that has just succeeded, in the same transaction; or of one of its checkpoints."""
    return insert(Model).values(
        id=model_id,
        organization_id=organization_id,
        job_id=job_id,
        base_model=base_model,
        adapter_path=adapter_path,
        manifest=manifest,
        checkpoint_id=checkpoint_id,
    )


def for_run(job_id: str) -> Select[Job, Organization, File, WatermarkKey | None]:
    """Everything a worker needs to know of a claimed job."""
    return (
        select(Job, Organization, File, WatermarkKey)
        .join(Organization, Organization.id == Job.organization_id)
        .join(File, File.id == Job.training_file_id)
        .outerjoin(WatermarkKey, WatermarkKey.id == Job.watermark_key_id)
        .where(Job.id == job_id)
    )


def training_file(file_id: str, *, organization_id: str) -> Select[File]:
    """The organization's own file, unless it was deleted; it can't be deleted before the transaction ends."""
    return file_statements.one(file_id, organization_id).with_for_update(read=True)


def watermark_key(key_id: str, *, organization_id: str) -> Select[WatermarkKey]:
    """The organization's own key; it can't be deleted before the transaction ends."""
    return watermark_statements.owned(key_id, organization_id).with_for_update(read=True)
