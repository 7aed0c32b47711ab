"""SQL of deleting an organization's data."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Delete, Select, delete, func, or_, select, update
from sqlalchemy.sql.dml import ReturningDelete, ReturningUpdate

from service.db.models import (
    ApiKey,
    AuditEvent,
    Evidence,
    File,
    IdempotencyRecord,
    Job,
    JobEvent,
    LogEntry,
    LogRecord,
    Model,
    Verification,
    WatermarkKey,
)
from service.jobs.lifecycle import TERMINAL as JOB_TERMINAL
from service.verifications.lifecycle import TERMINAL as VERIFICATION_TERMINAL

MAX_NAMED = 5


def lock_files(organization_id: str) -> Select[str]:
    """Live files, held until the transaction ends."""
    live = (File.organization_id == organization_id, File.deleted_at.is_(None))
    return select(File.id).where(*live).order_by(File.id).with_for_update()


def lock_keys(organization_id: str) -> Select[str]:
    """Keys that are not deleted, unfinished ones included, held until the transaction ends."""
    live = (WatermarkKey.organization_id == organization_id, WatermarkKey.deleted_at.is_(None))
    return select(WatermarkKey.id).where(*live).order_by(WatermarkKey.id).with_for_update()


def unfinished(organization_id: str) -> Select[str]:
    """Some jobs and audits that need any of it: the organization's, and others' audits with its keys."""
    jobs = select(Job.id).where(
        Job.organization_id == organization_id, Job.status.not_in(sorted(JOB_TERMINAL))
    )
    audits = select(Verification.id).where(
        _audited_by_or_with(organization_id), Verification.status.not_in(sorted(VERIFICATION_TERMINAL))
    )
    users = jobs.union_all(audits).subquery()
    return select(users.c.id).limit(MAX_NAMED)


def delete_models(organization_id: str) -> ReturningUpdate[Model]:
    """Take every model out of service."""
    return (
        update(Model)
        .where(Model.organization_id == organization_id, Model.deleted_at.is_(None))
        .values(deleted_at=func.clock_timestamp())
        .returning(Model)
    )


def delete_files(organization_id: str) -> ReturningUpdate[str]:
    """Hide every file, and forget what its owner called it and what was found in it."""
    return (
        update(File)
        .where(File.organization_id == organization_id)
        .values(deleted_at=func.coalesce(File.deleted_at, func.clock_timestamp()), filename="", validation={})
        .returning(File.id)
    )


def strip_jobs(organization_id: str) -> ReturningUpdate[str]:
    """Forget what the owner wrote into its jobs; that they were, and how they ended, stays."""
    return (
        update(Job)
        .where(Job.organization_id == organization_id)
        .values(metadata_={}, suffix=None, progress=None, watermark_report=None)
        .returning(Job.id)
    )


def strip_keys(organization_id: str) -> ReturningUpdate[str]:
    """Forget what the owner called its keys."""
    return (
        update(WatermarkKey)
        .where(WatermarkKey.organization_id == organization_id)
        .values(name="")
        .returning(WatermarkKey.id)
    )


def delete_log_records(organization_id: str) -> ReturningDelete[int]:
    """What the log's entries about the organization's keys, jobs and own audits digest; the entries stay."""
    subjects = (
        select(WatermarkKey.id)
        .where(WatermarkKey.organization_id == organization_id)
        .union_all(
            select(Job.id).where(Job.organization_id == organization_id),
            select(Verification.id).where(Verification.organization_id == organization_id),
        )
    )
    entries = select(LogEntry.index).where(LogEntry.subject.in_(subjects))
    return delete(LogRecord).where(LogRecord.index.in_(entries)).returning(LogRecord.index)


def forget_answers(organization_id: str) -> Delete:
    """What the organization was answered, and kept in case it asks again."""
    keys = select(ApiKey.id).where(ApiKey.organization_id == organization_id)
    return delete(IdempotencyRecord).where(IdempotencyRecord.api_key_id.in_(keys))


def remaining(organization_id: str) -> Select[Any]:
    """How much there still is, by name."""
    keys = select(WatermarkKey.id).where(WatermarkKey.organization_id == organization_id)
    jobs = select(Job.id).where(Job.organization_id == organization_id)
    audits = select(Verification.id).where(_audited_by_or_with(organization_id))

    def count(table: Any, *where: Any) -> Any:
        return select(func.count()).select_from(table).where(*where).scalar_subquery()

    about = or_(LogEntry.subject.in_(keys), LogEntry.subject.in_(jobs), LogEntry.subject.in_(audits))
    live_keys = (ApiKey.organization_id == organization_id, ApiKey.revoked_at.is_(None))
    return select(
        count(LogEntry, about).label("log_entries"),
        count(Evidence, Evidence.verification_id.in_(audits)).label("evidence"),
        count(AuditEvent, AuditEvent.organization_id == organization_id).label("trail_events"),
        count(JobEvent, JobEvent.job_id.in_(jobs)).label("job_events"),
        count(ApiKey, *live_keys).label("api_keys"),
    )


def _audited_by_or_with(organization_id: str) -> ColumnElement[bool]:
    keys = select(WatermarkKey.id).where(WatermarkKey.organization_id == organization_id)
    return or_(Verification.organization_id == organization_id, Verification.key_id.in_(keys))
