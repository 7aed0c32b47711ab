"""/v1/organizations and /v1/api_keys."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, StringConstraints

from service.accounts import statements, usecases
from service.accounts.usecases import NewKey
from service.api.dependencies import CurrentPrincipal, DbSession, Principal, Role, require_role
from service.api.idempotency import DeedRoute
from service.api.pagination import After, Limit, page
from service.db.models import ApiKey, Organization

router = APIRouter(prefix="/v1", tags=["accounts"], route_class=DeedRoute)

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Provider = Annotated[Principal, Depends(require_role(Role.provider))]


class CreateOrganization(BaseModel):
    """The body of POST /v1/organizations."""

    model_config = ConfigDict(extra="forbid")
    name: Name
    role: Literal["owner", "provider", "auditor"]


class CreateKey(BaseModel):
    """The body of POST /v1/api_keys. Without a role: the organization's own."""

    model_config = ConfigDict(extra="forbid")
    name: Name = "unnamed"
    role: Literal["owner", "provider", "auditor", "inference"]
    organization: str | None = None


@router.post("/organizations")
async def create_organization(
    body: CreateOrganization, principal: Provider, session: DbSession
) -> dict[str, Any]:
    """A new tenant and its first API key, which is shown once."""
    organization, key = await usecases.create_organization(session, name=body.name, role=Role(body.role))
    await session.refresh(organization)
    return _organization(organization) | {"api_key": key.key, "api_key_id": key.row.id}


@router.get("/organizations")
async def list_organizations(
    principal: Provider, session: DbSession, limit: Limit = 20, after: After = None
) -> dict[str, Any]:
    """All tenants, newest first."""
    rows = (await session.scalars(statements.organizations(after=after, limit=limit))).all()
    return page(rows, limit, _organization)


@router.post("/api_keys")
async def create_key(body: CreateKey, principal: CurrentPrincipal, session: DbSession) -> dict[str, Any]:
    """A key of the organization's own role or for inference only; shown once."""
    key = await usecases.create_key(
        session, principal, organization_id=body.organization, role=Role(body.role), name=body.name
    )
    await session.flush()
    await session.refresh(key.row)
    return _new_key(key)


@router.get("/api_keys")
async def list_keys(
    principal: CurrentPrincipal,
    session: DbSession,
    limit: Limit = 20,
    after: After = None,
    organization: Annotated[str | None, Query(max_length=200)] = None,
) -> dict[str, Any]:
    """The live keys of the caller's organization or, for the provider, of any it names."""
    wanted = usecases.visible_organization(principal, organization)
    rows = (await session.scalars(statements.keys(wanted, after=after, limit=limit))).all()
    return page(rows, limit, _key)


@router.delete("/api_keys/{key_id}")
async def revoke_key(key_id: str, principal: CurrentPrincipal, session: DbSession) -> dict[str, Any]:
    """Revoke: the very next request with it is refused."""
    await usecases.revoke_key(session, principal, key_id)
    return {"id": key_id, "object": "api_key", "deleted": True}


def _organization(row: Organization) -> dict[str, Any]:
    return {
        "id": row.id,
        "object": "organization",
        "name": row.name,
        "role": row.role,
        "created_at": int(row.created_at.timestamp()),
    }


def _key(row: ApiKey) -> dict[str, Any]:
    return {
        "id": row.id,
        "object": "api_key",
        "name": row.name,
        "role": row.role,
        "organization": row.organization_id,
        "created_at": int(row.created_at.timestamp()),
    }


def _new_key(key: NewKey) -> dict[str, Any]:
    return _key(key.row) | {"key": key.key}
