"""What a message makes a worker do: claim the row it names, run, record. A row that is taken, ended or gone
is somebody else's or nobody's: the message then means nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import structlog

from service.db.models import Job, Verification
from service.dispatch import TaskName
from service.jobs import failures
from service.leases import LeasedTable
from service.logs import frames
from worker.errors import LeaseLost, RecordsAway, of_exception
from worker.record.engine import Workplace
from worker.record.jobs import JobRun
from worker.record.outage import persist
from worker.record.outcome import status_of
from worker.training import record_failure, train

log = structlog.get_logger(__name__)

T = TypeVar("T")

INTERNAL_ERROR = failures.record("internal_error")
"""Of an audit; a job says more."""


def finetune_run(place: Workplace, job_id: str) -> None:
    """Run a fine-tuning job, if this worker gets it."""
    run = _claim(place, JobRun.claim, job_id)
    if run is None:
        log.info("job.not_claimed", job_id=job_id)
        return
    with (
        structlog.contextvars.bound_contextvars(job_id=job_id, epoch=run.epoch),
        _measured(place, TaskName.finetune_run, Job, job_id),
    ):
        log.info("job.claimed", attempt=run.attempt)
        try:
            _train(run)
        except (LeaseLost, RecordsAway) as error:
            log.warning("job.left_to_another_run", error=type(error).__name__)
        else:
            log.info("job.left")


def _train(run: JobRun) -> None:
    try:
        train(run)
    except (LeaseLost, RecordsAway):
        raise
    except Exception as error:
        # Its text may quote the dataset: the type is enough to tell, the frames say where.
        log.error("job.crashed", error=type(error).__name__, frames=frames(error))
        record_failure(run, of_exception(error))


def verify_run(place: Workplace, verification_id: str) -> None:
    """Run an audit, if this worker gets it."""
    # a train worker never needs the prober
    from worker.auditing import audit
    from worker.record.verifications import VerificationRun

    run = _claim(place, VerificationRun.claim, verification_id)
    if run is None:
        log.info("verification.not_claimed", verification_id=verification_id)
        return
    with (
        structlog.contextvars.bound_contextvars(verification_id=verification_id, epoch=run.epoch),
        _measured(place, TaskName.verify_run, Verification, verification_id),
    ):
        log.info("verification.claimed", attempt=run.attempt)
        try:
            audit(run)
        except (LeaseLost, RecordsAway) as error:
            log.warning("verification.left_to_another_run", error=type(error).__name__)
        except Exception as error:
            # Its text may quote a question or an answer.
            log.error("verification.crashed", error=type(error).__name__, frames=frames(error))
            run.fail(INTERNAL_ERROR)
        else:
            log.info("verification.left")


def _claim(place: Workplace, claim: Callable[[Workplace, str], T | None], row_id: str) -> T | None:
    """The row, if this worker gets it. While the database is away this waits, with one message in its hands:
    a worker that alone is cut off from it would otherwise take message after message from those who are not.
    """
    try:
        return persist(
            lambda _: claim(place, row_id),
            patience_seconds=place.settings.lease_seconds,
            give_up=place.shutting_down,
        )
    except RecordsAway:
        return None


@contextmanager
def _measured(place: Workplace, task: TaskName, table: LeasedTable, row_id: str) -> Iterator[None]:
    started = time.monotonic()
    try:
        yield
    finally:
        seconds = time.monotonic() - started
        place.metrics.run(task=task.value, outcome=status_of(place, table, row_id), seconds=seconds)


TASKS = {TaskName.finetune_run: finetune_run, TaskName.verify_run: verify_run}
"""Every name the service may ring; each function takes the process's place and the row's id."""
