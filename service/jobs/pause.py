"""Pause a job and let it go on: it gives its device free and loses none of its work."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.models import Job
from service.errors import Conflict
from service.jobs import statements
from service.jobs.lifecycle import TERMINAL, JobStatus

PAUSED_MESSAGE = "The job was paused"
REQUESTED_MESSAGE = "Pause requested"
RESUMED_MESSAGE = "The job was resumed and is queued again"
WITHDRAWN_MESSAGE = "The pause was taken back"


class NotPausable(Conflict):
    """A job that has ended, or is being cancelled, can't wait."""

    code = "job_not_pausable"


class NotPaused(Conflict):
    """Only what is paused, or about to be, can be resumed."""

    code = "job_not_paused"


async def pause(session: AsyncSession, job: Job) -> Job:
    """Pause or ask for it; returns the job as it now is. Asking twice is asking once.

    Raises:
        NotPausable: it has ended, or its cancellation was asked for.
    """
    # A queued job may be claimed and a running one queued again between the two statements, hence twice.
    for _ in range(2):
        if (await session.execute(statements.pause_queued(job.id))).first() is not None:
            await session.execute(statements.event(job.id, PAUSED_MESSAGE))
            break
        if (await session.execute(statements.request_pause(job.id))).first() is not None:
            await session.execute(statements.event(job.id, REQUESTED_MESSAGE))
            break
    await session.refresh(job)
    if JobStatus(job.status) in TERMINAL:
        raise NotPausable(f"The job {job.id} has {_ended(job)}, so it can't be paused.")
    if job.status != JobStatus.paused and not job.pause_requested:
        raise NotPausable(f"The job {job.id} is being cancelled, so it can't be paused.")
    return job


async def resume(session: AsyncSession, job: Job) -> Job:
    """Queue it again, or take the pause back if it has not come into effect; returns the job as it now is.
    The caller rings the doorbell after the commit.

    Raises:
        NotPaused: it is not.
    """
    for _ in range(2):
        if (await session.execute(statements.resume(job.id))).first() is not None:
            await session.execute(statements.event(job.id, RESUMED_MESSAGE))
            break
        if (await session.execute(statements.withdraw_pause(job.id))).first() is not None:
            await session.execute(statements.event(job.id, WITHDRAWN_MESSAGE))
            break
    else:
        await session.refresh(job)
        raise NotPaused(f"The job {job.id} is {job.status} and not paused, so it can't be resumed.")
    await session.refresh(job)
    return job


def _ended(job: Job) -> str:
    return "been cancelled" if job.status == JobStatus.cancelled else job.status
