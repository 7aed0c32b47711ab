"""Writing and reading the audit trail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Insert
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from service.db.models import AuditEvent
from service.trail import statements

PROVIDER_READ_WINDOW = timedelta(minutes=10)
"""A dashboard asks every few seconds: the same reading by the provider is one event in so long."""


class Action(StrEnum):
    """What happened."""

    watermark_created = "watermark.created"
    watermark_deleted = "watermark.deleted"
    watermark_exported = "watermark.exported"
    data_erased = "data.erased"
    grant_created = "grant.created"
    grant_revoked = "grant.revoked"
    campaign_created = "campaign.created"
    preregistered = "verification.preregistered"
    nonce_revealed = "verification.nonce_revealed"
    cancelled = "verification.cancelled"
    continued = "verification.continued"
    concluded = "verification.concluded"
    finished = "verification.finished"
    refused = "verification.refused"
    read_by_provider = "verification.read"
    evidence_read = "evidence.read"
    report_read = "report.read"


class Refusal(StrEnum):
    """Why somebody who is not the key's owner may not ask with it."""

    no_grant = "no_grant"
    grant_expired = "grant_expired"
    grant_revoked = "grant_revoked"
    host_not_granted = "host_not_granted"
    budget_exceeded = "budget_exceeded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who acts, with which API key. ``key_id`` is the key's id, never any of its secret."""

    organization_id: str
    key_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyEvent:
    """Something about an owner's watermark key, or about all it has, that is not about one verification."""

    action: Action
    owner_id: str
    """whose trail it goes to: the key's owner"""
    actor: Actor
    watermark: str | None
    grant_id: str | None = None
    suspect_host: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)

    def statement(self) -> Insert:
        """For a session of either kind."""
        return statements.event(
            {
                "organization_id": self.owner_id,
                "actor_organization_id": self.actor.organization_id,
                "actor_key_id": self.actor.key_id,
                "action": self.action.value,
                "key_id": self.watermark,
                "grant_id": self.grant_id,
                "verification_id": None,
                "suspect_host": self.suspect_host,
                "detail": dict(self.detail),
            }
        )


async def record(session: AsyncSession, event: KeyEvent) -> None:
    """In the caller's transaction: what is rolled back did not happen."""
    await session.execute(event.statement())


async def record_apart(sessions: async_sessionmaker[AsyncSession], event: KeyEvent) -> None:
    """In a transaction of its own: it stays when the caller's is rolled back."""
    async with sessions() as session, session.begin():
        await session.execute(event.statement())


def verification_event(
    verification_id: str, action: Action, actor: Actor, detail: Mapping[str, Any] | None = None
) -> Insert:
    """What somebody did with a verification, in the transaction that did it."""
    return statements.about_verification(
        verification_id,
        action.value,
        actor_organization_id=actor.organization_id,
        actor_key_id=actor.key_id,
        detail=detail,
    )


def finished(verification_id: str) -> Insert:
    """A verification has ended or paused; right after the UPDATE that says so, in its transaction.

    Status and verdict are read from the row.
    """
    return statements.about_verification(verification_id, Action.finished.value, with_outcome=True)


def provider_read(verification_id: str, actor: Actor) -> Insert:
    """The provider's operator looked at a verification; once in `PROVIDER_READ_WINDOW`."""
    return statements.about_verification(
        verification_id,
        Action.read_by_provider.value,
        actor_organization_id=actor.organization_id,
        actor_key_id=actor.key_id,
        unless_within=PROVIDER_READ_WINDOW,
    )


async def of_owner(session: AsyncSession, organization_id: str, **page: Any) -> list[AuditEvent]:
    """What happened to an owner's keys, whoever did it; newest first."""
    return list(await session.scalars(statements.page(owner_id=organization_id, **page)))


async def of_actor(session: AsyncSession, organization_id: str, **page: Any) -> list[AuditEvent]:
    """What an organization did. Its refusals are left out: that there is one would say that the key exists,
    which the 404 did not."""
    hidden = (Action.refused.value,)
    return list(
        await session.scalars(statements.page(actor_id=organization_id, hidden_actions=hidden, **page))
    )


async def of_everybody(session: AsyncSession, **page: Any) -> list[AuditEvent]:
    """All events, for the provider; the caller leaves out what the provider must not see."""
    return list(await session.scalars(statements.page(**page)))
