"""Cancel a job: at once while it waits, by asking its worker while it runs, never after its end."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from service import leases
from service.db.models import Job
from service.errors import Conflict
from service.jobs import statements
from service.jobs.lifecycle import TERMINAL, JobStatus

CANCELLED_MESSAGE = "The job was cancelled"
REQUESTED_MESSAGE = "Cancellation requested"


class JobHasEnded(Conflict):
    """A job that succeeded or failed stays so."""

    code = "job_already_ended"


async def cancel(session: AsyncSession, job: Job) -> Job:
    """Cancel or ask for it; returns the job as it now is. Asking twice is asking once.

    Raises:
        JobHasEnded: there is nothing left to cancel.
    """
    # A queued job may be claimed and a running one queued again between the two statements, hence twice.
    for _ in range(2):
        if (await session.execute(statements.cancel_waiting(job.id))).first() is not None:
            await session.execute(statements.event(job.id, CANCELLED_MESSAGE))
            break
        if (await session.execute(leases.request_cancel(Job, job.id))).first() is not None:
            await session.execute(statements.event(job.id, REQUESTED_MESSAGE))
            break
    await session.refresh(job)
    if JobStatus(job.status) in TERMINAL - {JobStatus.cancelled}:
        raise JobHasEnded(f"The job {job.id} has {job.status}, so it can't be cancelled.")
    return job
