"""SQL of organizations and API keys."""

from __future__ import annotations

from sqlalchemy import Select, Update, func, select, update

from service.db.models import ApiKey, Organization


def key_with_organization(key_id: str) -> Select[ApiKey, Organization]:
    """The row of a key that is not revoked, with its organization."""
    return (
        select(ApiKey, Organization)
        .join(Organization, Organization.id == ApiKey.organization_id)
        .where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None))
    )


def organization(organization_id: str, *, role: str | None = None) -> Select[Organization]:
    """One organization, if it has this role."""
    statement = select(Organization).where(Organization.id == organization_id)
    return statement if role is None else statement.where(Organization.role == role)


def organizations() -> Select[Organization]:
    """All of them, newest first."""
    return select(Organization).order_by(Organization.created_at.desc(), Organization.id.desc())


def organization_by_role(role: str) -> Select[Organization]:
    """The oldest organization of a role: the one that the first start made."""
    return select(Organization).where(Organization.role == role).order_by(Organization.created_at).limit(1)


def keys(organization_id: str | None) -> Select[ApiKey]:
    """The live keys of one organization, or of all, newest first."""
    statement = select(ApiKey).where(ApiKey.revoked_at.is_(None))
    if organization_id is not None:
        statement = statement.where(ApiKey.organization_id == organization_id)
    return statement.order_by(ApiKey.created_at.desc(), ApiKey.id.desc())


def revoke(key_id: str, organization_id: str | None) -> Update:
    """Revoke a live key, of one organization or of any; returns its id if there was one."""
    statement = update(ApiKey).where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None))
    if organization_id is not None:
        statement = statement.where(ApiKey.organization_id == organization_id)
    return statement.values(revoked_at=func.clock_timestamp()).returning(ApiKey.id)
