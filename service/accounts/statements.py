"""SQL of organizations and API keys."""

from __future__ import annotations

from sqlalchemy import Select, bindparam, func, select, update
from sqlalchemy.sql.dml import ReturningUpdate

from service.db.models import ApiKey, Organization
from service.db.paging import page_after
from service.db.reads import Query

_LIVE_KEY = (
    select(
        ApiKey.id,
        ApiKey.role,
        ApiKey.secret_sha256,
        Organization.id.label("organization_id"),
        Organization.name.label("organization_name"),
    )
    .join(Organization, Organization.id == ApiKey.organization_id)
    .where(ApiKey.id == bindparam("id"), ApiKey.revoked_at.is_(None))
)


def live_key(key_id: str) -> Query:
    """A key that is not revoked, with the id and the name of its organization."""
    return Query(_LIVE_KEY, {"id": key_id})


def organization(organization_id: str, *, role: str | None = None) -> Select[Organization]:
    """One organization, if it has this role."""
    statement = select(Organization).where(Organization.id == organization_id)
    return statement if role is None else statement.where(Organization.role == role)


def organizations(*, after: str | None, limit: int) -> Select[Organization]:
    """A page of all of them, newest first."""
    return page_after(
        select(Organization), Organization.created_at, Organization.id, after=after, limit=limit
    )


def organization_by_role(role: str) -> Select[Organization]:
    """The oldest organization of a role: the one that the first start made."""
    return select(Organization).where(Organization.role == role).order_by(Organization.created_at).limit(1)


def keys(organization_id: str, *, after: str | None, limit: int) -> Select[ApiKey]:
    """A page of the live keys of one organization, newest first."""
    statement = select(ApiKey).where(ApiKey.revoked_at.is_(None), ApiKey.organization_id == organization_id)
    return page_after(statement, ApiKey.created_at, ApiKey.id, after=after, limit=limit)


def revoke(key_id: str, organization_id: str | None) -> ReturningUpdate[str]:
    """Revoke a live key, of one organization or of any; returns its id if there was one."""
    statement = update(ApiKey).where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None))
    if organization_id is not None:
        statement = statement.where(ApiKey.organization_id == organization_id)
    return statement.values(revoked_at=func.clock_timestamp()).returning(ApiKey.id)
