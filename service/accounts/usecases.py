"""Use cases of organizations and API keys."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy.ext.asyncio import AsyncSession

from service.accounts import statements
from service.accounts.keys import ApiKeyToken
from service.accounts.principal import Principal, Role
from service.db.models import ApiKey, Organization
from service.db.reads import Reads
from service.errors import InvalidRequest, NotFound, Unauthenticated
from service.ids import new_id

_ADVICE = "send 'Authorization: Bearer <API key>'"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A key just made, with the only copy of its secret."""

    row: ApiKey
    key: str = field(repr=False)


async def authenticate_token(reads: Reads, authorization: str | None) -> Principal:
    """Who sends this Authorization header.

    Raises:
        Unauthenticated: the header is missing or malformed, or the key is unknown or revoked. The message
            is the same for all of the latter, and so is the work.
    """
    if not authorization:
        raise Unauthenticated(f"no API key given; {_ADVICE}", code="missing_api_key")
    scheme, _, text = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated(f"the Authorization header is not of the Bearer scheme; {_ADVICE}")
    token = ApiKeyToken.parse(text.strip())
    if token is None:
        raise Unauthenticated("the API key is not valid: unknown, revoked or incomplete")
    key = await reads.first(statements.live_key(token.row_id))
    if not token.matches(key.secret_sha256 if key else None) or key is None:
        raise Unauthenticated("the API key is not valid: unknown, revoked or incomplete")
    return Principal(
        key_id=key.id,
        organization_id=key.organization_id,
        organization_name=key.organization_name,
        role=Role(key.role),
    )


def visible_organization(principal: Principal, organization_id: str | None) -> str:
    """The organization meant: the caller's own if none is named, and only the provider may name another.

    Raises:
        NotFound: another one was named. Whether it exists is not told.
    """
    wanted = organization_id or principal.organization_id
    if wanted != principal.organization_id and principal.role is not Role.provider:
        raise NotFound(f"no organization {wanted!r}", param="organization")
    return wanted


def add_key(session: AsyncSession, *, organization_id: str, role: Role, name: str) -> NewKey:
    """A new key, added to the session. Its secret is nowhere else than in the result."""
    token = ApiKeyToken.new()
    row = ApiKey(
        id=token.row_id,
        organization_id=organization_id,
        role=role.value,
        name=name,
        secret_sha256=token.secret_sha256,
    )
    session.add(row)
    return NewKey(row=row, key=token.reveal())


async def create_organization(session: AsyncSession, *, name: str, role: Role) -> tuple[Organization, NewKey]:
    """An organization and its first API key."""
    organization = Organization(id=new_id("org"), name=name, role=role.value)
    session.add(organization)
    await session.flush()
    return organization, add_key(session, organization_id=organization.id, role=role, name="first key")


async def create_key(
    session: AsyncSession, principal: Principal, *, organization_id: str | None, role: Role, name: str
) -> NewKey:
    """A key for the caller's organization or, for the provider, for any.

    Raises:
        NotFound: another organization was named by somebody who is not the provider, or it does not exist.
        InvalidRequest: the role is neither the organization's own nor inference.
    """
    wanted = visible_organization(principal, organization_id)
    organization = (await session.execute(statements.organization(wanted))).scalar_one_or_none()
    if organization is None:
        raise NotFound(f"no organization {wanted!r}", param="organization")
    if role not in (organization.role, Role.inference):
        raise InvalidRequest(
            f"a key of {wanted} is of role {organization.role} or inference",
            param="role",
            code="invalid_value",
        )
    return add_key(session, organization_id=wanted, role=role, name=name)


async def revoke_key(session: AsyncSession, principal: Principal, key_id: str) -> None:
    """Make a key unusable, from the next request on.

    Raises:
        NotFound: there is no such live key that is the caller's to revoke.
    """
    owner = None if principal.role is Role.provider else principal.organization_id
    revoked = (await session.execute(statements.revoke(key_id, owner))).scalar_one_or_none()
    if revoked is None:
        raise NotFound(f"no API key {key_id!r}", param="id")
