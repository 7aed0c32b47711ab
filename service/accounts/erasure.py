"""Deleting all that an organization brought here or had made, as far as nobody else relies on it.

Files, models and the secrets of keys go; what describes them goes from their rows and from the log's private
records. What others rely on stays: the log's entries, which are digests; evidence, with the one family that
each audit opened; the trail of who did what. docs/owner-held.md lists all of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from service.accounts import erasing
from service.db.models import Model
from service.errors import Conflict
from service.files import usecases as files
from service.jobs import checkpoints as checkpoint_statements
from service.models import usecases as models
from service.storage import Storage
from service.trail.usecases import Action, Actor, KeyEvent, record
from service.watermarks import usecases as watermarks


class DataInUse(Conflict):
    """A job or an audit has not ended."""

    code = "data_in_use"


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """What was deleted, and what is left, as counts by name."""

    deleted: dict[str, int]
    remaining: dict[str, int]
    models: Sequence[Model]
    """whose files `remove` removes"""
    jobs: Sequence[str]
    """and whose runs' leavings"""


async def erase(session: AsyncSession, *, actor: Actor) -> Erasure:
    """Delete in one transaction, which the caller commits before `remove`. A second call finds nothing.

    Raises:
        DataInUse: naming what has not ended.
    """
    organization_id = actor.organization_id
    # nobody starts a job or an audit with any of them meanwhile
    file_ids = (await session.scalars(erasing.lock_files(organization_id))).all()
    key_ids = (await session.scalars(erasing.lock_keys(organization_id))).all()
    users = (await session.scalars(erasing.unfinished(organization_id))).all()
    if users:
        raise DataInUse(f"not ended yet: {', '.join(users)}; cancel them or wait")
    for key_id in key_ids:
        await watermarks.shred(session, key_id, actor=actor)
    tuned = (await session.scalars(erasing.delete_models(organization_id))).all()
    checkpoints = 0
    for statement in (
        checkpoint_statements.erase_states(organization_id),
        checkpoint_statements.erase_unpublished(organization_id),
    ):
        checkpoints += len((await session.execute(statement)).all())
    records = (await session.execute(erasing.delete_log_records(organization_id))).all()
    jobs = (await session.scalars(erasing.strip_jobs(organization_id))).all()
    await session.execute(erasing.delete_files(organization_id))
    await session.execute(erasing.strip_keys(organization_id))
    await session.execute(erasing.forget_answers(organization_id))
    deleted = {
        "watermarks": len(key_ids),
        "files": len(file_ids),
        "models": len(tuned),
        "checkpoints": checkpoints,
        "descriptions_of_jobs": len(jobs),
        "log_records": len(records),
    }
    event = KeyEvent(
        action=Action.data_erased, owner_id=organization_id, actor=actor, watermark=None, detail=deleted
    )
    await record(session, event)
    left = (await session.execute(erasing.remaining(organization_id))).one()
    return Erasure(deleted=deleted, remaining=dict(left._mapping), models=tuned, jobs=jobs)


async def remove(session: AsyncSession, storage: Storage, erasure: Erasure, *, organization_id: str) -> None:
    """Remove the bytes on disk of what was deleted. Commits.

    Should this process end before, they are what no row names, and the next garbage collection removes them.
    """
    await files.remove_unneeded(session, storage, organization_id)
    for model in erasure.models:
        await models.remove_files(storage, model)
    await asyncio.to_thread(_remove_leavings, storage, erasure.jobs)


def _remove_leavings(storage: Storage, job_ids: Sequence[str]) -> None:
    for job_id in job_ids:
        storage.remove_runs(job_id)
