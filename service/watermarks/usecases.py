"""Use cases of watermark keys and grants."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from service.accounts import statements as account_statements
from service.accounts.principal import Role
from service.db.models import Grant, WatermarkKey
from service.errors import Conflict, InvalidRequest, NotFound
from service.idempotency.statements import forget
from service.ids import new_id
from service.log import deeds
from service.log.usecases import enter
from service.sealing import Sealer
from service.trail.usecases import Action, Actor, KeyEvent, record
from service.watermarks import hosts, statements
from service.watermarks.secrets import DrawnSecret, KeySecret, seal

SALT_BYTES = 32


class KeyInUse(Conflict):
    """A job or a verification still needs the secret."""

    code = "watermark_in_use"


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What a key brings along that had a life before it came here."""

    claimant: str
    """the name that its commitment was made under"""
    salt: bytes | None
    """None: it has none yet"""
    audits: Sequence[dict[str, object]]
    """records of `evidence.keyfile.Registered`"""


async def create(
    session: AsyncSession,
    sealer: Sealer,
    secret: KeySecret,
    *,
    actor: Actor,
    name: str,
    origin: str,
    grade: str,
    history: History | None = None,
) -> WatermarkKey:
    """Commit to a key of the actor's organization, then salt it (`committed_first`).

    A crash in between leaves a key without a salt, whose secret nobody was shown; no statement ever finds it.
    """
    organization_id, key_id = actor.organization_id, new_id("wm")
    claimant = organization_id if history is None else history.claimant
    committed = secret.commit(claimant)
    row = WatermarkKey(
        id=key_id,
        organization_id=organization_id,
        name=name,
        origin=origin,
        grade=grade,
        commitment=committed.commitment,
        commitment_record=committed.to_record() | {"design": secret.public_design()},
        salt=None,
        sealed_secret=seal(sealer, secret, owner_id=organization_id, key_id=key_id),
        committed_as=None if claimant == organization_id else claimant,
        audits_before=[] if history is None else list(history.audits),
    )
    await committed_first(session, row, actor=actor)
    if isinstance(secret, DrawnSecret):
        await salted(session, row, None if history is None else history.salt)
    return row


async def committed_first(session: AsyncSession, row: WatermarkKey, *, actor: Actor) -> None:
    """Make a commitment durable before there is a salt, or the key could have been chosen to fit the salt.

    This is the one place in the service that commits in the middle of a request; the database refuses a salt
    in the transaction that wrote the commitment. The trail has the event with the commitment, and the log an
    entry for each of the two.
    """
    session.add(row)
    await session.flush()
    event = key_event(Action.watermark_created, actor, row.id, origin=row.origin, grade=row.grade)
    await record(session, event)
    await enter(session, deeds.key_commitment(row))
    await session.commit()
    await session.refresh(row)


async def salted(session: AsyncSession, row: WatermarkKey, given: bytes | None = None) -> None:
    """Salt a committed key, unless somebody else was first: with a fresh salt, or the one it came with."""
    salt = os.urandom(SALT_BYTES) if given is None else given
    first = (await session.execute(statements.set_salt(row.id, salt))).first() is not None
    await session.refresh(row)
    if first:
        await enter(session, deeds.salt(row.id, salt))


async def get(session: AsyncSession, key_id: str, *, organization_id: str) -> WatermarkKey:
    """A key's public side, for its owner or an auditor with a live grant.

    Raises:
        NotFound: there is none, or it is neither.
    """
    return _found((await session.scalars(statements.visible(key_id, organization_id))).one_or_none(), key_id)


async def get_owned(session: AsyncSession, key_id: str, *, organization_id: str) -> WatermarkKey:
    """A key of the organization's own.

    Raises:
        NotFound: there is none.
    """
    return _found((await session.scalars(statements.owned(key_id, organization_id))).one_or_none(), key_id)


async def families_used(session: AsyncSession, rows: Sequence[WatermarkKey]) -> dict[str, int]:
    """How many families of each key were asked about so far; those are burned."""
    if not rows:
        return {}
    burned = {row.id: {audit["family"] for audit in row.audits_before} for row in rows}
    for key_id, family in await session.execute(statements.families_used(list(burned))):
        burned[key_id].add(family)
    return {key_id: len(families) for key_id, families in burned.items()}


async def delete(session: AsyncSession, key_id: str, *, actor: Actor) -> None:
    """Destroy the sealed secret and end the grants. Commitment and evidence stay.

    Raises:
        NotFound: there is no such own key.
        KeyInUse: an unfinished job or verification needs it.
    """
    row = (await session.scalars(statements.lock(key_id, actor.organization_id))).one_or_none()
    _found(row, key_id)
    users = (await session.scalars(statements.unfinished_users(key_id))).all()
    if users:
        raise KeyInUse(f"{key_id} is in use by {', '.join(users)}; cancel them or wait", param="id")
    await shred(session, key_id, actor=actor)


async def shred(session: AsyncSession, key_id: str, *, actor: Actor) -> None:
    """Destroy the sealed secret and end the grants of an own key that nothing uses."""
    for grant_id in (await session.scalars(statements.revoke_grants_of(key_id))).all():
        await record(session, key_event(Action.grant_revoked, actor, key_id, grant_id))
    await session.execute(statements.shred(key_id))
    await session.execute(forget(key_id))
    await record(session, key_event(Action.watermark_deleted, actor, key_id))


async def grant(
    session: AsyncSession,
    key_id: str,
    *,
    actor: Actor,
    auditor_id: str,
    suspect_hosts: Sequence[str],
    probe_budget: int,
    expires_in_seconds: int,
) -> Grant:
    """Let an auditor ask the named hosts with this key, so many questions, until then.

    Raises:
        NotFound: the key is not the caller's, or there is no such auditor.
        InvalidHost: a host is not host:port.
        InvalidRequest: the key is one of the paper's presets, which no audit uses.
    """
    row = await get_owned(session, key_id, organization_id=actor.organization_id)
    if row.origin == "preset":
        raise InvalidRequest("a preset of the paper is a research baseline; no audit uses it", param="id")
    auditor = (
        await session.scalars(account_statements.organization(auditor_id, role=Role.auditor.value))
    ).one_or_none()
    if auditor is None:
        raise NotFound(f"no auditor {auditor_id!r}", param="auditor", code="auditor_not_found")
    values = {
        "id": new_id("grant"),
        "key_id": key_id,
        "auditor_id": auditor.id,
        "suspect_hosts": _normalised(suspect_hosts),
        "probe_budget": probe_budget,
    }
    statement = statements.add_grant(values, timedelta(seconds=expires_in_seconds))
    added: Grant = (await session.execute(statement)).scalar_one()
    detail = {
        "auditor": added.auditor_id,
        "suspect_hosts": added.suspect_hosts,
        "questions": added.probe_budget,
        "expires_at": int(added.expires_at.timestamp()),
    }
    await record(session, key_event(Action.grant_created, actor, key_id, added.id, **detail))
    return added


async def revoke(session: AsyncSession, key_id: str, grant_id: str, *, actor: Actor) -> None:
    """End a grant now; revoking twice keeps the first time and is one event.

    Raises:
        NotFound: the key is not the caller's, or has no such grant.
    """
    await get_owned(session, key_id, organization_id=actor.organization_id)
    row = (await session.scalars(statements.grant_of(grant_id, key_id))).one_or_none()
    if row is None:
        raise NotFound(f"No such grant: {grant_id}", param="grant_id", code="grant_not_found")
    if (await session.execute(statements.revoke_grant(grant_id))).first() is not None:
        await record(
            session, key_event(Action.grant_revoked, actor, key_id, grant_id, auditor=row.auditor_id)
        )


def key_event(
    action: Action, actor: Actor, key_id: str, grant_id: str | None = None, **detail: object
) -> KeyEvent:
    """Something that a key's owner did with it."""
    return KeyEvent(
        action=action,
        owner_id=actor.organization_id,
        actor=actor,
        watermark=key_id,
        grant_id=grant_id,
        detail=detail,
    )


def _normalised(texts: Sequence[str]) -> list[str]:
    result: list[str] = []
    for index, text in enumerate(texts):
        try:
            host = hosts.normalise(text)
        except hosts.InvalidHost as error:
            raise hosts.InvalidHost(error.message, param=f"suspect_hosts[{index}]") from None
        if host not in result:
            result.append(host)
    return result


def _found(row: WatermarkKey | None, key_id: str) -> WatermarkKey:
    if row is None:
        raise NotFound(f"No such watermark: {key_id}", param="id", code="watermark_not_found")
    return row
