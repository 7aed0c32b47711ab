"""SQL of watermark keys and grants."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Integer, Select, and_, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import aliased
from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate

from evidence.log.entry import EntryKind
from service.db.models import Grant, Job, LogEntry, Preregistration, Verification, WatermarkKey
from service.db.paging import page_after
from service.jobs.lifecycle import TERMINAL as JOB_TERMINAL
from service.verifications.lifecycle import TERMINAL as VERIFICATION_TERMINAL

SALTED_ORIGINS = ("service", "imported", "owner-held")


def _usable() -> ColumnElement[bool]:
    """Not deleted, and finished: a crash between commitment and salt leaves a key nobody can use."""
    return and_(
        WatermarkKey.deleted_at.is_(None),
        or_(WatermarkKey.salt.is_not(None), WatermarkKey.origin.not_in(SALTED_ORIGINS)),
    )


def is_live() -> ColumnElement[bool]:
    """Neither revoked nor expired, by the database's clock."""
    return and_(Grant.revoked_at.is_(None), Grant.expires_at > func.clock_timestamp())


def owned(key_id: str, organization_id: str) -> Select[WatermarkKey]:
    """A key that is the organization's own."""
    return select(WatermarkKey).where(
        WatermarkKey.id == key_id, WatermarkKey.organization_id == organization_id, _usable()
    )


def visible(key_id: str, organization_id: str) -> Select[WatermarkKey]:
    """A key that is the organization's own, or that it holds a live grant for."""
    return select(WatermarkKey).where(WatermarkKey.id == key_id, _usable(), _may_see(organization_id))


def page(organization_id: str, *, after: str | None, limit: int) -> Select[WatermarkKey]:
    """A page of the keys that an organization may see, newest first."""
    statement = select(WatermarkKey).where(_usable(), _may_see(organization_id))
    return page_after(statement, WatermarkKey.created_at, WatermarkKey.id, after=after, limit=limit)


def _may_see(organization_id: str) -> ColumnElement[bool]:
    granted = select(Grant.id).where(
        Grant.key_id == WatermarkKey.id, Grant.auditor_id == organization_id, is_live()
    )
    return or_(WatermarkKey.organization_id == organization_id, granted.exists())


def set_salt(key_id: str, salt: bytes) -> ReturningUpdate[bytes | None]:
    """Salt a key that has none. A trigger refuses it in the transaction that made the commitment."""
    return (
        update(WatermarkKey)
        .where(WatermarkKey.id == key_id, WatermarkKey.salt.is_(None))
        .values(salt=salt)
        .returning(WatermarkKey.salt)
    )


def owner_of_any(key_id: str) -> Select[str]:
    """The organization whose key it is or was: deleted ones too."""
    return select(WatermarkKey.organization_id).where(WatermarkKey.id == key_id)


def standing(key_id: str, auditor_id: str) -> Select[str, list[Any], bool, bool]:
    """(id, hosts, live, revoked) of every grant of the key that the auditor holds or held, newest first."""
    return (
        select(Grant.id, Grant.suspect_hosts, is_live(), Grant.revoked_at.is_not(None))
        .where(Grant.key_id == key_id, Grant.auditor_id == auditor_id)
        .order_by(Grant.created_at.desc(), Grant.id.desc())
    )


def lock(key_id: str, organization_id: str) -> Select[WatermarkKey]:
    """An own key, held until the transaction ends: nobody starts a job with it meanwhile."""
    return owned(key_id, organization_id).with_for_update()


def unfinished_users(key_id: str) -> Select[str]:
    """Jobs and verifications that still need the secret."""
    jobs = select(Job.id).where(Job.watermark_key_id == key_id, Job.status.not_in(sorted(JOB_TERMINAL)))
    verifications = select(Verification.id).where(
        Verification.key_id == key_id, Verification.status.not_in(sorted(VERIFICATION_TERMINAL))
    )
    users = jobs.union_all(verifications).subquery()
    return select(users.c.id).limit(5)


def shred(key_id: str) -> ReturningUpdate[str]:
    """Hide a key and destroy its sealed secret. Its commitment stays: evidence may point at it."""
    return (
        update(WatermarkKey)
        .where(WatermarkKey.id == key_id)
        .values(deleted_at=func.clock_timestamp(), sealed_secret=b"")
        .returning(WatermarkKey.id)
    )


def revoke_grants_of(key_id: str) -> ReturningUpdate[str]:
    """End every live grant of a key."""
    return (
        update(Grant)
        .where(Grant.key_id == key_id, Grant.revoked_at.is_(None))
        .values(revoked_at=func.clock_timestamp())
        .returning(Grant.id)
    )


def families_used(key_ids: list[str]) -> Select[str, int]:
    """(key, family) for each family that an audit has asked about, under whichever id the key had."""
    same = aliased(WatermarkKey)
    family = func.coalesce(Verification.plan["family"].astext, "0").cast(Integer)
    return (
        select(WatermarkKey.id, family)
        .join(same, same_key(same))
        .join(Preregistration, Preregistration.key_id == same.id)
        .join(Verification, Verification.id == Preregistration.verification_id)
        .where(WatermarkKey.id.in_(key_ids))
        .distinct()
    )


def same_key(other: type[WatermarkKey]) -> ColumnElement[bool]:
    """Rows of one organization with one commitment are one key: it was exported, or registered and then
    imported. Deleted ones too."""
    return and_(
        other.organization_id == WatermarkKey.organization_id, other.commitment == WatermarkKey.commitment
    )


def hold_commitment(organization_id: str, commitment: str) -> Select[None]:
    """Until the transaction ends, nobody else registers or audits a key of this commitment."""
    named = func.hashtextextended(f"{organization_id}/{commitment}", 0)
    return select(func.pg_advisory_xact_lock(named))


def owner_held(organization_id: str, commitment: str) -> Select[WatermarkKey]:
    """The key that was registered with this commitment, deleted or not finished though it may be."""
    return select(WatermarkKey).where(
        WatermarkKey.organization_id == organization_id,
        WatermarkKey.commitment == commitment,
        WatermarkKey.origin == "owner-held",
    )


def drew_salt(organization_id: str, commitment: str, salt: bytes) -> Select[str]:
    """A key of this commitment, deleted or not, for which the service drew this salt."""
    return (
        select(WatermarkKey.id)
        .where(
            WatermarkKey.organization_id == organization_id,
            WatermarkKey.commitment == commitment,
            WatermarkKey.salt == salt,
            WatermarkKey.grade == "committed",
        )
        .limit(1)
    )


def salted_at(key_id: str) -> Select[datetime]:
    """When its salt was entered into the log."""
    return select(LogEntry.logged_at).where(LogEntry.subject == key_id, LogEntry.kind == EntryKind.salt.value)


def audits_of(key_id: str) -> Select[str, int, datetime, str]:
    """(verification, family, when, digest) of each pre-registered audit of a key, under whichever id it had;
    oldest first."""
    same = aliased(WatermarkKey)
    family = func.coalesce(Verification.plan["family"].astext, "0").cast(Integer)
    return (
        select(Preregistration.verification_id, family, Preregistration.created_at, Preregistration.sha256)
        .join(Verification, Verification.id == Preregistration.verification_id)
        .join(same, same.id == Preregistration.key_id)
        .join(WatermarkKey, same_key(same))
        .where(WatermarkKey.id == key_id)
        .order_by(Preregistration.created_at, Preregistration.verification_id)
    )


def add_grant(values: dict[str, Any], expires_in: timedelta) -> ReturningInsert[Grant]:
    """A grant that expires by the database's clock."""
    return insert(Grant).values(expires_at=func.clock_timestamp() + expires_in, **values).returning(Grant)


def grants(key_id: str, *, auditor_id: str | None, after: str | None, limit: int) -> Select[Grant]:
    """A page of a key's grants, or of those to one auditor, newest first."""
    statement = select(Grant).where(Grant.key_id == key_id)
    if auditor_id is not None:
        statement = statement.where(Grant.auditor_id == auditor_id)
    return page_after(statement, Grant.created_at, Grant.id, after=after, limit=limit)


def grant_of(grant_id: str, key_id: str) -> Select[Grant]:
    """One grant of a key, held until the transaction ends."""
    return select(Grant).where(Grant.id == grant_id, Grant.key_id == key_id).with_for_update()


def revoke_grant(grant_id: str) -> ReturningUpdate[str]:
    """End a grant, unless it was revoked before. Returns (id), or no row."""
    return (
        update(Grant)
        .where(Grant.id == grant_id, Grant.revoked_at.is_(None))
        .values(revoked_at=func.clock_timestamp())
        .returning(Grant.id)
    )
