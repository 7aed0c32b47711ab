"""SQL of uploaded files."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Select, func, or_, select, update
from sqlalchemy.orm import aliased
from sqlalchemy.sql.dml import ReturningUpdate

from service.db.models import File, Job
from service.db.paging import page_after
from service.jobs.lifecycle import TERMINAL


def one(file_id: str, organization_id: str) -> Select[File]:
    """A file that is there and the organization's."""
    return select(File).where(
        File.id == file_id, File.organization_id == organization_id, File.deleted_at.is_(None)
    )


def page(
    organization_id: str, *, purpose: str | None, after: str | None, limit: int, ascending: bool
) -> Select[File]:
    """A page of an organization's files by age."""
    statement = select(File).where(File.organization_id == organization_id, File.deleted_at.is_(None))
    if purpose is not None:
        statement = statement.where(File.purpose == purpose)
    return page_after(statement, File.created_at, File.id, after=after, limit=limit, ascending=ascending)


def mark_deleted(file_id: str, organization_id: str) -> ReturningUpdate[str]:
    """Hide a file; returns its id if there was one."""
    return (
        update(File)
        .where(File.id == file_id, File.organization_id == organization_id, File.deleted_at.is_(None))
        .values(deleted_at=func.clock_timestamp())
        .returning(File.id)
    )


def lock_blob(sha256: str) -> Select[None]:
    """Until the transaction ends, nobody else adds or removes this blob."""
    return select(func.pg_advisory_xact_lock(func.hashtextextended(sha256, 0)))


def needed_blobs(digests: Sequence[str]) -> Select[str]:
    """Those of the digests that a live file or an unfinished job needs, anybody's."""
    unfinished = (
        select(Job.id)
        .where(
            or_(Job.training_file_id == File.id, Job.validation_file_id == File.id),
            Job.status.not_in(sorted(TERMINAL)),
        )
        .exists()
    )
    return (
        select(File.sha256)
        .distinct()
        .where(File.sha256.in_(digests), or_(File.deleted_at.is_(None), unfinished))
    )


def unreferenced_blobs(organization_id: str, *, sha256: str | None = None) -> Select[str]:
    """Digests of an organization's deleted files that no live file and no unfinished job needs."""
    live, used = aliased(File), aliased(File)
    live_file = select(live.id).where(live.sha256 == File.sha256, live.deleted_at.is_(None))
    unfinished_job = (
        select(Job.id)
        .join(used, or_(used.id == Job.training_file_id, used.id == Job.validation_file_id))
        .where(used.sha256 == File.sha256, Job.status.not_in(sorted(TERMINAL)))
    )
    statement = (
        select(File.sha256)
        .distinct()
        .where(
            File.organization_id == organization_id,
            File.deleted_at.is_not(None),
            ~live_file.exists(),
            ~unfinished_job.exists(),
        )
    )
    return statement if sha256 is None else statement.where(File.sha256 == sha256)
