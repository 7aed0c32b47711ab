"""The sweep that makes a lost message or a lost worker harmless.

It returns rows whose lease has expired to the queue (or ends them), and rings again for rows that have been
queued for a while. Every API process runs it; an advisory lock lets one pass at a time through. It also
runs alone: ``python -m service.reaper``.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from service import leases
from service.db.engine import async_engine, async_sessions
from service.db.models import Job, Verification
from service.dispatch import Dispatcher, DispatchError, TaskName
from service.idempotency.statements import delete_expired
from service.jobs import failures
from service.jobs import statements as job_statements
from service.jobs.cancel import CANCELLED_MESSAGE
from service.jobs.pause import PAUSED_MESSAGE
from service.jobs.statements import NOT_RUNNING
from service.leases import LeasedTable
from service.settings import load_settings
from service.trail import usecases as trail

log = structlog.get_logger(__name__)

PASS_SECONDS = 3.0

GRACE_SECONDS = 3.0
"""A row younger than this still has its first message on the way."""

MAX_RINGS = 100
"""At most so many messages a queue and a pass."""

MAX_FORGOTTEN = 1000
"""At most so many answers that nobody may ask for again are deleted in a pass."""

EXHAUSTED = failures.exhausted(failures.record("worker_lost"))
"""Of a job or an audit whose worker was lost when no attempt was left."""

TASKS: tuple[tuple[TaskName, LeasedTable], ...] = (
    (TaskName.finetune_run, Job),
    (TaskName.verify_run, Verification),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Rows of one task that ought to have a message in its queue, oldest first."""

    task: TaskName
    ids: tuple[str, ...]


async def sweep(sessions: async_sessionmaker[AsyncSession]) -> tuple[Waiting, ...] | None:
    """One pass over the rows, in one transaction. None: another process is at it."""
    async with sessions() as session, session.begin():
        if not await session.scalar(leases.try_reaper_lock()):
            return None
        for _, table in TASKS:
            await _reap(session, table)
        await session.execute(delete_expired(MAX_FORGOTTEN))
        return tuple([await _waiting(session, task, table) for task, table in TASKS])


def ring_again(dispatcher: Dispatcher, waiting: Waiting) -> int:
    """Ring for as many rows as lack a message; returns how many. Blocking.

    A queue that holds a message for each waiting row is left alone, so a long queue never grows by itself.
    Which message was lost is not known: the oldest rows are rung for, and a second message for one row
    does nothing.

    Raises:
        DispatchError: the broker is away. The next pass tries again.
    """
    if not waiting.ids:
        return 0
    missing = len(waiting.ids) - dispatcher.waiting(waiting.task)
    for row_id in waiting.ids[: max(missing, 0)]:
        dispatcher.ring(waiting.task, row_id)
    return max(missing, 0)


async def reap_forever(sessions: async_sessionmaker[AsyncSession], dispatcher: Dispatcher) -> None:
    """Until cancelled. Survives a database or a broker that is away."""
    while True:
        try:
            await reap_once(sessions, dispatcher)
        except Exception as error:
            log.warning("reaper.failed", error=type(error).__name__)
        await asyncio.sleep(PASS_SECONDS)


async def reap_once(sessions: async_sessionmaker[AsyncSession], dispatcher: Dispatcher) -> None:
    """One pass: the rows first, then, with the transaction closed, the bells."""
    for waiting in await sweep(sessions) or ():
        try:
            rung = await asyncio.to_thread(ring_again, dispatcher, waiting)
        except DispatchError as error:
            log.warning("reaper.ring_failed", task=waiting.task.value, error=str(error))
            continue
        if rung:
            log.info("reaper.rang", task=waiting.task.value, count=rung)


async def _reap(session: AsyncSession, table: LeasedTable) -> None:
    if table is Job:
        for job_id in (await session.scalars(job_statements.reap_paused())).all():
            log.warning("reaper.expired", table=table.__tablename__, id=job_id, outcome=PAUSED_MESSAGE)
            await session.execute(job_statements.event(job_id, PAUSED_MESSAGE))
    expired = leases.reap_expired(table, values=NOT_RUNNING if table is Job else None)
    ended = {"sealed_credential": None} if table is Verification else None
    steps = (
        (leases.reap_cancelled(table, values=ended), "info", CANCELLED_MESSAGE),
        (leases.reap_exhausted(table, error=EXHAUSTED, values=ended), "error", EXHAUSTED["message"]),
        (expired, "warn", "The worker was lost; the job is queued again"),
    )
    for statement, level, message in steps:
        for row_id in (await session.scalars(statement)).all():
            log.warning("reaper.expired", table=table.__tablename__, id=row_id, outcome=message)
            if table is Job:
                await session.execute(job_statements.event(row_id, str(message), level=level))
            elif statement is not expired:
                await session.execute(trail.finished(row_id))


async def _waiting(session: AsyncSession, task: TaskName, table: LeasedTable) -> Waiting:
    overdue = leases.overdue(table, older_than_seconds=GRACE_SECONDS, limit=MAX_RINGS)
    return Waiting(task=task, ids=tuple((await session.scalars(overdue)).all()))


async def _run_alone() -> None:
    settings = load_settings()
    engine = async_engine(settings, application_name="doublei-reaper")
    dispatcher = Dispatcher(settings.redis_url.get_secret_value())
    try:
        await reap_forever(async_sessions(engine), dispatcher)
    finally:
        await engine.dispose()
        dispatcher.close()


if __name__ == "__main__":
    asyncio.run(_run_alone())
