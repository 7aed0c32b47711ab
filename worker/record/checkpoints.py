"""What a run leaves on its way, in storage and in the records: the file first, then the row.

A row is written under the run's epoch, so a run that lost its lease may leave files and never a row; what has
no row is nobody's, and `doublei gc` removes it.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service.db.faults import is_temporary
from service.db.models import Checkpoint
from service.jobs import checkpoints, statements
from service.jobs.naming import checkpoint_model
from service.log.usecases import append
from worker.record import artifacts
from worker.record.jobs import JobRun, publish_checkpoint

FIRST_EPOCH = 1
"""Before it there is no run; `service.leases.claim` counts from 0."""

log = structlog.get_logger(__name__)


def folder(run: JobRun) -> Path:
    """Where the run's trainer leaves its checkpoints."""
    return run.place.storage.states_dir(run.job_id, run.epoch)


def earlier(run: JobRun) -> list[Path]:
    """What earlier runs of the job left to go on from, newest first."""
    if run.epoch == FIRST_EPOCH:
        return []
    with run.place.sessions() as session:
        paths = session.scalars(checkpoints.states(run.job_id, before_epoch=run.epoch)).all()
    return [run.place.storage.root / path for path in paths]


def add_state(run: JobRun, *, name: str, step: int, size_bytes: int) -> None:
    """Record a file of the run's folder, and remove all but the job's newest few.

    Raises:
        LeaseLost: another run has the job.
        RecordsAway: the database stayed away.
    """
    storage, kept = run.place.storage, run.place.settings.checkpoints_kept
    path = str((folder(run) / name).relative_to(storage.root))

    def write(session: Session, _: bool) -> list[str]:
        session.execute(
            checkpoints.add_state(run.job_id, epoch=run.epoch, step=step, path=path, size_bytes=size_bytes)
        )
        return list(session.scalars(checkpoints.forget_older_states(run.job_id, kept=kept)))

    for old in run.while_held(write):
        (storage.root / old).unlink(missing_ok=True)


def add_epoch(run: JobRun, *, output: Path, step: int, loss: float | None) -> None:
    """Keep the model at an epoch's end, unless an earlier run kept the one of this step. Of an unmarked job
    it can be used at once; of a marked one not before the job has succeeded, for nobody knows yet whether its
    marks take.

    Raises:
        LeaseLost: another run has the job.
        RecordsAway: the database stayed away.
        RunFailed: the trainer left no adapter there.
    """
    target = run.place.storage.checkpoint_adapter_dir(run.job_id, run.epoch, step)
    path, manifest = artifacts.keep(run.place.storage, target, output)
    metrics: dict[str, Any] = {"step": step, "train_loss": loss}

    def write(session: Session, _: bool) -> None:
        added = session.scalar(
            checkpoints.add(
                run.job_id,
                epoch=run.epoch,
                step=step,
                metrics=metrics,
                adapter_path=path,
                manifest=manifest,
            )
        )
        if added is None:
            return
        said = f"Checkpoint created at step {step}"
        if run.watermark_key is not None:
            said += "; it can be used once the job has succeeded"
            session.execute(statements.event(run.job_id, said))
            return
        deed = publish_checkpoint(session, run, session.get_one(Checkpoint, added))
        said += f": {checkpoint_model(run.model_id, step)}"
        session.execute(statements.event(run.job_id, said))
        append(session, deed)

    run.while_held(write)
    with run.place.sessions() as session:
        recorded = session.scalar(checkpoints.of_path(path)) is not None
    if not recorded:
        shutil.rmtree(target, ignore_errors=True)


def clear(run: JobRun, *, states: bool) -> None:
    """Once the job has ended: remove the checkpoints that nobody may use, and on request what nobody will go
    on from. What is not removed for want of a database is `doublei gc`'s."""
    storage = run.place.storage
    try:
        with run.place.sessions.begin() as session:
            unused = list(session.scalars(checkpoints.forget_unpublished([run.job_id])))
            if states:
                session.execute(checkpoints.forget_states([run.job_id]))
    except SQLAlchemyError as error:
        if not is_temporary(error):
            raise
        log.warning("checkpoints.not_cleared", job_id=run.job_id, error=type(error).__name__)
        return
    for path in unused:
        shutil.rmtree(storage.root / path, ignore_errors=True)
    with suppress(OSError):  # not empty: a model's adapter is there
        storage.adapter_dir(run.job_id, run.epoch).parent.rmdir()
    if states:
        shutil.rmtree(storage.states_dir(run.job_id, 0).parent, ignore_errors=True)
