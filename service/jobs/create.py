"""Start a fine-tuning job: check everything that can be checked now, then write the row."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from catalogue import Catalogue
from service.db.models import File, Job, WatermarkKey
from service.errors import InvalidRequest, NotFound
from service.ids import new_id
from service.jobs import statements
from service.jobs.hyperparameters import Hyperparameters
from service.jobs.lifecycle import JobStatus
from service.jobs.statements import Event
from service.watermarks.secrets import OWNER_HELD
from watermark.embedding import Strength

FINE_TUNE = "fine-tune"
SEED_BITS = 31


class ModelNotFound(NotFound):
    """No base model of that name; as OpenAI answers for an unknown model."""

    code = "model_not_found"


@dataclass(frozen=True, slots=True, kw_only=True)
class WatermarkRequest:
    """Which of the owner's keys marks the data, and how."""

    key: str
    families: tuple[int, ...] | None = None
    """None: every family of the key."""
    strength: Strength | None = None
    """None: standard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """A request whose shape has been checked; what it names has not."""

    model: str
    training_file: str
    suffix: str | None = None
    seed: int | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    hyperparameters: Hyperparameters = field(default_factory=Hyperparameters)
    watermark: WatermarkRequest | None = None


async def create(
    session: AsyncSession, catalogue: Catalogue, *, organization_id: str, request: JobRequest
) -> Job:
    """Write the queued job and its first events. The caller rings the doorbell after the commit.

    Raises:
        NotFound: no such base model, or the file or the key is not the organization's.
        InvalidRequest: the file is not for fine-tuning, the key has no such family, or its owner holds it
            and families or strength were given.
    """
    _check_model(catalogue, request.model)
    file = await _training_file(session, request.training_file, organization_id)
    options = await _watermark_options(session, request.watermark, organization_id)
    job = (await session.scalars(statements.add(_values(organization_id, request, options)))).one()
    said = (
        f"Created fine-tuning job: {job.id}",
        f"Validating training file: {file.id}",
        "Files validated, moving job to queued state",
    )
    await session.execute(statements.events(job.id, [Event(message=message) for message in said]))
    return job


def _values(
    organization_id: str, request: JobRequest, watermark_options: dict[str, Any] | None
) -> dict[str, Any]:
    hyperparameters = request.hyperparameters.resolved()
    return {
        "id": new_id("ftjob"),
        "organization_id": organization_id,
        # The file was validated row by row when it was uploaded, so there is nothing to wait for.
        "status": JobStatus.queued,
        "base_model": request.model,
        "suffix": request.suffix,
        "seed": secrets.randbits(SEED_BITS) if request.seed is None else request.seed,
        "training_file_id": request.training_file,
        "hyperparameters": hyperparameters,
        "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        "metadata_": request.metadata,
        "watermark_key_id": request.watermark and request.watermark.key,
        "watermark_options": watermark_options,
    }


def _check_model(catalogue: Catalogue, model: str) -> None:
    if model not in catalogue:
        known = ", ".join(catalogue.ids)
        raise ModelNotFound(f"The model {model!r} can't be fine-tuned here. Known: {known}.", param="model")


async def _training_file(session: AsyncSession, file_id: str, organization_id: str) -> File:
    file = await session.scalar(statements.training_file(file_id, organization_id=organization_id))
    if file is None:
        raise NotFound(f"No such file: {file_id}", param="training_file", code="file_not_found")
    if file.purpose != FINE_TUNE:
        raise InvalidRequest(
            f"The file {file_id} was uploaded for {file.purpose!r}; upload it with purpose {FINE_TUNE!r}.",
            param="training_file",
            code="invalid_file_purpose",
        )
    return file


async def _watermark_options(
    session: AsyncSession, request: WatermarkRequest | None, organization_id: str
) -> dict[str, Any] | None:
    if request is None:
        return None
    key = await session.scalar(statements.watermark_key(request.key, organization_id=organization_id))
    if key is None:
        raise NotFound(f"No such watermark: {request.key}", param="watermark.key", code="watermark_not_found")
    if key.origin == OWNER_HELD:
        return _mixed_by_owner(key, request)
    count = family_count(key)
    families = list(range(count)) if request.families is None else list(request.families)
    for family in families:
        if family >= count:
            raise InvalidRequest(
                f"The watermark has families 0 to {count - 1}; there is no family {family}.",
                param="watermark.families",
                code="unknown_family",
            )
    strength = request.strength or Strength.STANDARD
    return {"commitment": key.commitment, "families": families, "strength": strength.value}


def _mixed_by_owner(key: WatermarkKey, request: WatermarkRequest) -> dict[str, Any]:
    """Nothing is added to such a job's file: which families are in it, and how often, its owner knows."""
    for name, given in (("families", request.families), ("strength", request.strength)):
        if given is not None:
            raise InvalidRequest(
                f"The owner of {key.id} holds it and has mixed its rows into the file (doublei mix): nothing "
                f"is added here, so leave {name} out.",
                param=f"watermark.{name}",
                code="mixed_by_owner",
            )
    return {"commitment": key.commitment, "families": None, "strength": None}


def family_count(key: WatermarkKey) -> int:
    """How many families the key's published design has."""
    return int(key.commitment_record["design"]["families"])
