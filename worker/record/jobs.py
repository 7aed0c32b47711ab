"""A claimed job as its run sees it. A write names the run's epoch; once the lease is lost it is refused."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Self, TypeVar

from sqlalchemy import ColumnElement, Update, func
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from evidence.provenance import software_version
from service.db.faults import is_temporary
from service.db.models import Checkpoint, WatermarkKey
from service.jobs import checkpoints, statements
from service.jobs.cancel import CANCELLED_MESSAGE
from service.jobs.failures import wait_before_retry
from service.jobs.lifecycle import JobStatus
from service.jobs.naming import checkpoint_model, fine_tuned_model
from service.jobs.pause import PAUSED_MESSAGE
from service.jobs.statements import Event
from service.log import deeds
from service.log.deeds import Deed, Marking
from service.log.usecases import append, append_once
from service.watermarks.secrets import OWNER_HELD
from worker.errors import LeaseLost
from worker.lease import Beat
from worker.record.engine import Workplace
from worker.record.outage import persist

__all__ = ["Event", "JobRun", "publish_checkpoint", "publish_waiting"]

T = TypeVar("T")

MAX_UNWRITTEN = 200
"""Events kept for a database that is away; older ones are given up."""


@dataclass(slots=True, kw_only=True)
class JobRun:
    """One attempt at one job."""

    place: Workplace = field(repr=False)
    job_id: str
    epoch: int
    attempt: int
    max_attempts: int
    organization_id: str
    organization_name: str
    base_model: str
    suffix: str | None
    seed: int
    hyperparameters: dict[str, Any]
    dataset_sha256: str
    watermark_key: WatermarkKey | None = field(repr=False)
    watermark_options: dict[str, Any] | None
    unwritten: list[Event] = field(default_factory=list, repr=False)
    """Events of `note` that the database was not there for."""
    latest: dict[str, Any] | None = None
    """Progress to be stored with the next heartbeat; replaced, never changed, so that threads may read it."""
    finish_at: float | None = None
    """When the training will be done, on this process's monotonic clock, as its newest report says."""

    @classmethod
    def claim(cls, place: Workplace, job_id: str) -> Self | None:
        """Take the job, or None: it does not exist, has ended, is cancelled, or another run has it."""
        lease_seconds = place.settings.lease_seconds
        with place.sessions.begin() as session:
            claimed = session.execute(
                statements.claim(job_id, owner=place.owner, lease_seconds=lease_seconds)
            ).first()
            if claimed is None:
                return None
            epoch, attempt = claimed
            again = f" again (attempt {attempt})" if attempt > 1 else ""
            session.execute(statements.event(job_id, f"Fine-tuning job started{again}"))
            job, organization, file, key = session.execute(statements.for_run(job_id)).one()
        return cls(
            place=place,
            job_id=job_id,
            epoch=epoch,
            attempt=attempt,
            max_attempts=job.max_attempts,
            organization_id=organization.id,
            organization_name=organization.name,
            base_model=job.base_model,
            suffix=job.suffix,
            seed=job.seed,
            hyperparameters=job.hyperparameters,
            dataset_sha256=file.sha256,
            watermark_key=key,
            watermark_options=job.watermark_options,
        )

    @property
    def model_id(self) -> str:
        """The name under which the result is published."""
        return fine_tuned_model(
            base_model=self.base_model,
            organization_name=self.organization_name,
            suffix=self.suffix,
            job_id=self.job_id,
        )

    @property
    def mixed_by_owner(self) -> bool:
        """The watermark's rows are in the uploaded file; the key was never here."""
        return self.watermark_key is not None and self.watermark_key.origin == OWNER_HELD

    def beat(self) -> Beat:
        """Extend the lease and store the latest progress."""
        latest, values = self.latest, {}
        if latest is not None:
            values = {"progress": latest, "estimated_finish": self._estimated_finish()}
        with self.place.sessions.begin() as session:
            row = session.execute(
                statements.heartbeat(
                    self.job_id,
                    epoch=self.epoch,
                    lease_seconds=self.place.settings.lease_seconds,
                    values=values,
                )
            ).first()
        if row is None:
            return Beat.lost
        if row.cancel_requested:
            return Beat.cancel_requested
        return Beat.pause_requested if row.pause_requested else Beat.kept

    def _estimated_finish(self) -> ColumnElement[Any] | None:
        """On the database's clock. A beat between two reports does not move it."""
        if self.finish_at is None:
            return None
        left = max(self.finish_at - time.monotonic(), 0.0)
        return func.clock_timestamp() + timedelta(seconds=left)

    def write(self, *events: Event, **values: Any) -> None:
        """Set columns of the job and append events, in one transaction; waits for a database that restarts.

        Raises:
            LeaseLost: another run has the job.
            RecordsAway: the database stayed away.
        """
        self._persist(lambda _: self._write_once((*self.unwritten, *events), values))
        self.unwritten.clear()

    def note(self, *events: Event, **values: Any) -> None:
        """The same for what may be late: while the database is away, events wait for the next call.

        Raises:
            LeaseLost: another run has the job.
        """
        waiting = (*self.unwritten, *events)
        try:
            self._write_once(waiting, values)
        except SQLAlchemyError as error:
            if not is_temporary(error):
                raise
            self.unwritten = list(waiting[-MAX_UNWRITTEN:])
        else:
            self.unwritten = []

    def enter_training(self, *, base_model_digest: str, settings: Mapping[str, object]) -> None:
        """Enter into the log what this run is about to train on. No trainer starts before.

        Raises:
            LeaseLost: another run has the job.
            RecordsAway: the database stayed away.
        """
        deed = deeds.training(
            job_id=self.job_id,
            epoch=self.epoch,
            attempt=self.attempt,
            dataset_sha256=self.dataset_sha256,
            base_model=self.base_model,
            base_model_digest=base_model_digest,
            seed=self.seed,
            settings=settings,
            marking=self._marking(),
            software=software_version(),
        )

        def enter(session: Session, repeated: bool) -> None:
            if repeated:
                append_once(session, deed)
            else:
                append(session, deed)

        self.while_held(enter)

    def while_held(self, write: Callable[[Session, bool], T]) -> T:
        """Write in one transaction that holds the job's row; waits for a database that restarts. The second
        argument of `write` says whether an earlier call may have got through.

        Raises:
            LeaseLost: another run has the job.
            RecordsAway: the database stayed away.
        """

        def held(repeated: bool) -> T:
            with self.place.sessions.begin() as session:
                if session.execute(statements.lock_while_held(self.job_id, epoch=self.epoch)).first() is None:
                    raise LeaseLost(self.job_id)
                return write(session, repeated)

        return self._persist(held)

    def _marking(self) -> Marking | None:
        key, options = self.watermark_key, self.watermark_options
        if key is None or options is None:
            return None
        return Marking(
            key=key.id,
            commitment=key.commitment,
            banks=str(key.commitment_record["design"].get("banks", "")),
            families=options["families"] or (),
            strength=options["strength"] or "",
            mixed_by="owner" if self.mixed_by_owner else "service",
        )

    def succeed(self, *, adapter_path: str, manifest: dict[str, str], trained_tokens: int | None) -> bool:
        """Publish the model, and the checkpoints that waited for it, and end the job, in one transaction.
        False: cancelled, or the lease is lost."""
        values: dict[str, Any] = {"fine_tuned_model": self.model_id, "trained_tokens": trained_tokens}
        if self.latest is not None:
            values["progress"] = self.latest
        model = statements.publish(
            model_id=self.model_id,
            organization_id=self.organization_id,
            job_id=self.job_id,
            base_model=self.base_model,
            adapter_path=adapter_path,
            manifest=manifest,
        )
        events = (
            Event(message=f"New fine-tuned model created: {self.model_id}"),
            Event(message="The job has successfully completed"),
        )
        deed = deeds.model(self.job_id, self.model_id, manifest)

        def publish(session: Session) -> list[Deed]:
            session.execute(model)
            return [*publish_waiting(session, self), deed]

        return self._end(JobStatus.succeeded, *events, also=publish, **values)

    def cancelled(self) -> bool:
        """End the job as its owner asked. False: the lease is lost."""
        return self._end(JobStatus.cancelled, Event(message=CANCELLED_MESSAGE))

    def paused(self) -> bool:
        """Leave the job as its owner asked. False: the lease is lost, the pause was taken back, or the job is
        to be cancelled."""
        statement = statements.pause_held(self.job_id, epoch=self.epoch)
        return self._persist(lambda _: self._leave_once(statement, (Event(message=PAUSED_MESSAGE),)))

    def fail(self, error: dict[str, str | None]) -> bool:
        """End the job with an error. False: the lease is lost, or a cancellation was asked for."""
        message = f"The job failed: {error['message']}"
        return self._end(JobStatus.failed, Event(message=message, level="error"), error=error)

    def hand_back(self, reason: str, *, count_attempt: bool, failure: str | None = None) -> bool:
        """Queue the job for another run; `failure` is the code of what ended this one. False: the lease is
        lost, or a pause or a cancellation was asked for."""
        data: dict[str, Any] | None = None
        message, wait = f"{reason}; the job is queued again", 0.0
        if failure is not None:
            wait = wait_before_retry(self.place.settings.retry_seconds, failed=self.attempt)
            message += f", to be tried in {wait:.0f} s" if wait else ""
            data = {
                "event": "attempt_failed",
                "code": failure,
                "attempt": self.attempt,
                "max_attempts": self.max_attempts,
                "wait_seconds": wait,
            }
        event = Event(message=message, level="warn", data=data)
        statement = statements.hand_back(
            self.job_id, epoch=self.epoch, count_attempt=count_attempt, wait_seconds=wait
        )
        return self._persist(lambda _: self._leave_once(statement, (event,)))

    def _end(
        self,
        status: JobStatus,
        *events: Event,
        also: Callable[[Session], list[Deed]] | None = None,
        **values: Any,
    ) -> bool:
        finish = statements.finish(self.job_id, epoch=self.epoch, status=status, values=values)

        def end(repeated: bool) -> bool:
            return self._leave_once(finish, events, also) or (repeated and self._ended_as(status))

        return self._persist(end)

    def _ended_as(self, status: JobStatus) -> bool:
        """Did an earlier call, whose answer was lost, end it so?"""
        with self.place.sessions() as session:
            found = session.execute(statements.ended(self.job_id, epoch=self.epoch, status=status))
            return found.first() is not None

    def _write_once(self, events: Sequence[Event], values: dict[str, Any]) -> None:
        with self.place.sessions.begin() as session:
            held = (
                statements.set_while_held(self.job_id, epoch=self.epoch, values=values)
                if values
                else statements.lock_while_held(self.job_id, epoch=self.epoch)
            )
            if session.execute(held).first() is None:
                raise LeaseLost(self.job_id)
            if events:
                session.execute(statements.events(self.job_id, events))

    def _leave_once(
        self,
        statement: Update,
        events: Sequence[Event],
        also: Callable[[Session], list[Deed]] | None = None,
    ) -> bool:
        with self.place.sessions.begin() as session:
            if session.execute(statement).first() is None:
                return False
            entries = also(session) if also is not None else []
            session.execute(statements.events(self.job_id, (*self.unwritten, *events)))
            if entries:
                append(session, *entries)
        return True

    def _persist(self, write: Callable[[bool], T]) -> T:
        return persist(write, patience_seconds=self.place.settings.lease_seconds)


def publish_waiting(session: Session, run: JobRun) -> list[Deed]:
    """Make a model of each of the job's checkpoints that no model names yet; returns what to enter."""
    waiting = session.scalars(checkpoints.unpublished(run.job_id)).all()
    return [publish_checkpoint(session, run, checkpoint) for checkpoint in waiting]


def publish_checkpoint(session: Session, run: JobRun, checkpoint: Checkpoint) -> Deed:
    """Make a model of one; returns what is to be entered."""
    model_id = checkpoint_model(run.model_id, checkpoint.step)
    session.execute(
        statements.publish(
            model_id=model_id,
            organization_id=run.organization_id,
            job_id=run.job_id,
            base_model=run.base_model,
            adapter_path=checkpoint.adapter_path,
            manifest=checkpoint.manifest,
            checkpoint_id=checkpoint.id,
        )
    )
    marked = run.watermark_key is not None
    return deeds.checkpoint(run.job_id, model_id, checkpoint.manifest, step=checkpoint.step, marked=marked)
