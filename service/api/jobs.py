"""/v1/fine_tuning/jobs: OpenAI's wire, with the watermark riding beside its fields."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, StringConstraints
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncSession

from service.api.dependencies import (
    AppReads,
    DbSession,
    Doorbell,
    Principal,
    Role,
    require_role,
)
from service.api.idempotency import DeedRoute
from service.api.models import BaseModels
from service.api.pagination import DEFAULT_LIMIT, After, Limit, page
from service.db.models import Job
from service.db.reads import Reads
from service.dispatch import TaskName
from service.errors import InvalidRequest, NotFound
from service.jobs import cancel as cancelling
from service.jobs import create as creating
from service.jobs import failures, pause, polled, statements
from service.jobs import hyperparameters as limits
from service.jobs.hyperparameters import Hyperparameters
from watermark.embedding import Strength

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"], route_class=DeedRoute)

Owner = Annotated[Principal, Depends(require_role(Role.owner))]
OwnerOrProvider = Annotated[Principal, Depends(require_role(Role.owner, Role.provider))]

AnyRow = Row[*tuple[Any, ...]]
JobRow = Job | AnyRow
"""A job as a session has it, or as `service.jobs.polled` reads it."""

SELF_CHECK_NOT_MADE = "not_made"
"""A job looks for its marks in its result alone; of a checkpoint nobody knows how many have taken."""

MAX_METADATA_PAIRS = 16
_METADATA_PARAMETER = re.compile(r"metadata\[(.{1,64})\]")

Auto = Literal["auto"]
MetadataKey = Annotated[str, StringConstraints(min_length=1, max_length=64)]
MetadataValue = Annotated[str, StringConstraints(max_length=512)]


class Body(BaseModel):
    """Unknown fields are refused: a misspelt `watermark` must not train an unmarked model."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _whole(low: int, high: int) -> BeforeValidator:
    def check(value: object) -> object:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value == "auto" or (whole and low <= value <= high):  # type: ignore[operator]
            return value
        raise ValueError(f"must be 'auto' or a whole number from {low} to {high}")

    return BeforeValidator(check)


def _multiplier(value: object) -> object:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value == "auto" or (number and 0 < value <= limits.MAX_LEARNING_RATE_MULTIPLIER):  # type: ignore[operator]
        return value
    raise ValueError(f"must be 'auto' or a number above 0, at most {limits.MAX_LEARNING_RATE_MULTIPLIER:g}")


class HyperparametersBody(Body):
    """OpenAI's three, and what LoRA adds."""

    n_epochs: Annotated[int | Auto, _whole(1, limits.MAX_EPOCHS)] = "auto"
    batch_size: Annotated[int | Auto, _whole(1, limits.MAX_BATCH_SIZE)] = "auto"
    learning_rate_multiplier: Annotated[float | Auto, BeforeValidator(_multiplier)] = "auto"
    lora_rank: Annotated[int | Auto, _whole(1, limits.MAX_LORA_RANK)] = "auto"
    lora_alpha: Annotated[int | Auto, _whole(1, limits.MAX_LORA_ALPHA)] = "auto"
    batch_tokens: Annotated[int | Auto, _whole(limits.MIN_BATCH_TOKENS, limits.MAX_BATCH_TOKENS)] = "auto"
    max_length_tokens: Annotated[int | Auto, _whole(limits.MIN_LENGTH_TOKENS, limits.MAX_LENGTH_TOKENS)] = (
        "auto"
    )


class SupervisedBody(Body):
    """Settings of supervised fine-tuning."""

    hyperparameters: HyperparametersBody | None = None


class MethodBody(Body):
    """Only supervised fine-tuning is offered; the others are named so that the refusal is clear."""

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: SupervisedBody | None = None
    dpo: Any = None
    reinforcement: Any = None


class WatermarkBody(Body):
    """Which key marks the data."""

    key: str
    families: Annotated[list[Annotated[StrictInt, Field(ge=0)]], Field(min_length=1)] | None = None
    strength: Strength | None = None

    def to_request(self) -> creating.WatermarkRequest:
        """Families in ascending order, each once."""
        families = None if self.families is None else tuple(sorted(set(self.families)))
        return creating.WatermarkRequest(key=self.key, families=families, strength=self.strength)


class CreateJobBody(Body):
    """The body of a create call; see the official client's `fine_tuning.jobs.create`."""

    model: str
    training_file: str
    validation_file: str | None = None
    hyperparameters: HyperparametersBody | None = None
    method: MethodBody | None = None
    suffix: Annotated[str, StringConstraints(max_length=64, pattern=r"^[a-z0-9-]*$")] | None = None
    seed: Annotated[StrictInt, Field(ge=0, lt=2**31)] | None = None
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=MAX_METADATA_PAIRS)] | None = None
    integrations: list[Any] | None = None
    watermark: WatermarkBody | None = None

    def to_request(self) -> creating.JobRequest:
        """Raises: InvalidRequest for what OpenAI has and this service does not."""
        self._refuse_unsupported()
        return creating.JobRequest(
            model=self.model,
            training_file=self.training_file,
            suffix=self.suffix or None,
            seed=self.seed,
            metadata=dict(self.metadata or {}),
            hyperparameters=Hyperparameters(**self._hyperparameters().model_dump()),
            watermark=None if self.watermark is None else self.watermark.to_request(),
        )

    def _refuse_unsupported(self) -> None:
        if self.method is not None and self.method.type != "supervised":
            raise InvalidRequest(
                f"The method {self.method.type!r} is not offered; use 'supervised'.",
                param="method.type",
                code="unsupported_method",
            )
        for name in ("validation_file", "integrations"):
            if getattr(self, name):
                raise InvalidRequest(
                    f"{name} is not supported; leave it out.", param=name, code="unsupported_parameter"
                )

    def _hyperparameters(self) -> HyperparametersBody:
        supervised = self.method and self.method.supervised
        given = supervised and supervised.hyperparameters
        if given and self.hyperparameters:
            raise InvalidRequest(
                "Give hyperparameters once: in method.supervised, or (deprecated) at the top.",
                param="hyperparameters",
            )
        return given or self.hyperparameters or HyperparametersBody()


@router.post("")
async def create_job(
    body: CreateJobBody, principal: Owner, session: DbSession, bells: Doorbell, base_models: BaseModels
) -> dict[str, Any]:
    """Create a fine-tuning job."""
    job = await creating.create(
        session, base_models, organization_id=principal.organization_id, request=body.to_request()
    )
    bells.ring(TaskName.finetune_run, job.id)
    return _wire(job)


@router.get("")
async def list_jobs(
    request: Request,
    principal: OwnerOrProvider,
    reads: AppReads,
    after: After = None,
    limit: Limit = DEFAULT_LIMIT,
) -> dict[str, Any]:
    """Newest first. `metadata[key]=value` filters."""
    query = polled.page(
        organization_id=_scope(principal), after=after, limit=limit, metadata=_metadata_filter(request)
    )
    return page(await reads.rows(query), limit, _wire)


@router.get("/{job_id}")
async def retrieve_job(job_id: str, principal: OwnerOrProvider, reads: AppReads) -> dict[str, Any]:
    """One job, with what the log has of it."""
    job = await reads.first(polled.job(job_id, organization_id=_scope(principal)))
    if job is None:
        raise _no_job(job_id)
    return _wire(job) | {"log": job.log}


@router.post("/{job_id}/cancel")
async def cancel_job(job_id: str, principal: OwnerOrProvider, session: DbSession) -> dict[str, Any]:
    """Cancel a job that has not ended."""
    return _wire(await cancelling.cancel(session, await _job(session, principal, job_id)))


@router.post("/{job_id}/pause")
async def pause_job(job_id: str, principal: OwnerOrProvider, session: DbSession) -> dict[str, Any]:
    """Let a job wait: it keeps its place in its training and gives its device free."""
    return _wire(await pause.pause(session, await _job(session, principal, job_id)))


@router.post("/{job_id}/resume")
async def resume_job(
    job_id: str, principal: OwnerOrProvider, session: DbSession, bells: Doorbell
) -> dict[str, Any]:
    """Let a paused job go on from its newest checkpoint."""
    job = await pause.resume(session, await _job(session, principal, job_id))
    bells.ring(TaskName.finetune_run, job.id)
    return _wire(job)


@router.get("/{job_id}/events")
async def list_events(
    job_id: str,
    principal: OwnerOrProvider,
    reads: AppReads,
    after: After = None,
    limit: Limit = DEFAULT_LIMIT,
) -> dict[str, Any]:
    """Newest first."""
    await _require_job(reads, principal, job_id)
    return page(await reads.rows(polled.events(job_id, after=after, limit=limit)), limit, _event_wire)


@router.get("/{job_id}/checkpoints")
async def list_checkpoints(
    job_id: str,
    principal: OwnerOrProvider,
    reads: AppReads,
    after: After = None,
    limit: Limit = DEFAULT_LIMIT,
) -> dict[str, Any]:
    """The models at the ends of epochs that can be used, newest first. Those of a marked job are there once
    it has succeeded."""
    await _require_job(reads, principal, job_id)
    return page(
        await reads.rows(polled.checkpoints(job_id, after=after, limit=limit)), limit, _checkpoint_wire
    )


async def _require_job(reads: Reads, principal: Principal, job_id: str) -> None:
    if await reads.first(polled.exists(job_id, organization_id=_scope(principal))) is None:
        raise _no_job(job_id)


async def _job(session: AsyncSession, principal: Principal, job_id: str) -> Job:
    job = await session.scalar(statements.one(job_id, organization_id=_scope(principal)))
    if job is None:
        raise _no_job(job_id)
    return job


def _no_job(job_id: str) -> NotFound:
    return NotFound(f"No such fine-tuning job: {job_id}", param="fine_tuning_job_id", code="job_not_found")


def _scope(principal: Principal) -> str | None:
    """The provider sees every organization's jobs."""
    return None if principal.role is Role.provider else principal.organization_id


def _metadata_filter(request: Request) -> dict[str, str]:
    pairs = ((_METADATA_PARAMETER.fullmatch(name), value) for name, value in request.query_params.items())
    return {match[1]: value for match, value in pairs if match}


def _seconds(time: datetime | None) -> int | None:
    return None if time is None else int(time.timestamp())


def _wire(job: JobRow) -> dict[str, Any]:
    """OpenAI's job object, then ours: watermark, progress, stage, attempt, what was asked for."""
    return {
        "id": job.id,
        "object": "fine_tuning.job",
        "created_at": _seconds(job.created_at),
        "started_at": _seconds(job.started_at),
        "finished_at": _seconds(job.finished_at),
        "status": job.status,
        "model": job.base_model,
        "fine_tuned_model": job.fine_tuned_model,
        "training_file": job.training_file_id,
        "validation_file": job.validation_file_id,
        "hyperparameters": job.hyperparameters,
        "method": job.method,
        "seed": job.seed,
        "trained_tokens": job.trained_tokens,
        "estimated_finish": _seconds(job.estimated_finish),
        "error": failures.on_the_wire(job.error),
        "organization_id": job.organization_id,
        "result_files": [],
        "integrations": [],
        "metadata": job.metadata_,
        "user_provided_suffix": job.suffix,
        "watermark": _watermark_wire(job),
        "progress": _progress_wire(job),
        "attempt": job.attempt,
        "cancel_requested": job.cancel_requested,
        "pause_requested": job.pause_requested,
    }


def _watermark_wire(job: JobRow) -> dict[str, Any] | None:
    options = job.watermark_options
    if options is None:
        return None
    report = job.watermark_report or {}
    return {
        "key": job.watermark_key_id,
        "commitment": options["commitment"],
        "families": options["families"],
        "strength": options["strength"],
        "mixed_by": "service" if options["families"] is not None else "owner",
        "watermark_rows": report.get("watermark_rows"),
        "watermark_ratio": report.get("watermark_ratio"),
        "watermark_token_ratio": report.get("watermark_token_ratio"),
        "self_check": report.get("self_check"),
    }


def _progress_wire(job: JobRow) -> dict[str, Any] | None:
    if job.progress is None and job.stage is None:
        return None
    names = ("step", "total_steps", "epoch", "loss", "learning_rate", "tokens_per_second", "eta_seconds")
    progress = job.progress or {}
    return {"stage": job.stage} | {name: progress.get(name) for name in names}


def _checkpoint_wire(checkpoint: AnyRow) -> dict[str, Any]:
    """OpenAI's checkpoint object, then ours: whether its marks were looked for."""
    return {
        "id": checkpoint.id,
        "object": "fine_tuning.job.checkpoint",
        "created_at": _seconds(checkpoint.created_at),
        "fine_tuned_model_checkpoint": checkpoint.model,
        "fine_tuning_job_id": checkpoint.job_id,
        "step_number": checkpoint.step,
        "metrics": checkpoint.metrics,
        "self_check": None if checkpoint.watermark_key_id is None else SELF_CHECK_NOT_MADE,
    }


def _event_wire(event: AnyRow) -> dict[str, Any]:
    return {
        "id": event.id,
        "object": "fine_tuning.job.event",
        "created_at": _seconds(event.created_at),
        "level": event.level,
        "type": event.type,
        "message": event.message,
        "data": event.data,
    }
