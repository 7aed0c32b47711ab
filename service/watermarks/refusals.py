"""Why one may not ask with another's key: for the trail of the key's owner, never for the asker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from service.errors import NotFound
from service.trail.usecases import Action, Actor, KeyEvent, Refusal, record_apart
from service.watermarks import statements


class GrantDoesNotCover(NotFound):
    """The caller holds a live grant for the key, but for other hosts or fewer questions."""

    code = "grant_not_found"

    def __init__(self, message: str, *, host_port: str, questions: int) -> None:
        super().__init__(message, param="watermark")
        self.host_port = host_port
        self.questions = questions


@asynccontextmanager
async def noted(
    sessions: async_sessionmaker[AsyncSession], *, actor: Actor, watermark: str, suspect_hosts: list[str]
) -> AsyncIterator[None]:
    """Around the pre-registration of an audit or a campaign.

    A 404 that is about the grant is written to the trail of the key's owner, in a transaction of its own;
    then it goes on to the asker, unchanged. Nothing is written where there is no such key, or where it is the
    caller's own.
    """
    try:
        yield
    except NotFound as refusal:
        questions = None
        if isinstance(refusal, GrantDoesNotCover):
            suspect_hosts, questions = [refusal.host_port], refusal.questions
        for event in await _events(sessions, actor, watermark, suspect_hosts, questions):
            await record_apart(sessions, event)
        raise


async def _events(
    sessions: async_sessionmaker[AsyncSession],
    actor: Actor,
    watermark: str,
    suspect_hosts: list[str],
    questions: int | None,
) -> list[KeyEvent]:
    async with sessions() as session:
        owner = (await session.scalars(statements.owner_of_any(watermark))).one_or_none()
        if owner is None or owner == actor.organization_id:
            return []
        held = (await session.execute(statements.standing(watermark, actor.organization_id))).all()
    refused = []
    for host in suspect_hosts:
        why, grant_id = _reason([(row[0], row[1], row[2], row[3]) for row in held], host)
        if why is Refusal.budget_exceeded and questions is None:
            # a live grant covers the host, and no budget was asked of it: the 404 was about something else
            continue
        detail = {"reason": why.value} | ({} if questions is None else {"questions": questions})
        event = KeyEvent(
            action=Action.refused,
            owner_id=owner,
            actor=actor,
            watermark=watermark,
            grant_id=grant_id,
            suspect_host=host,
            detail=detail,
        )
        refused.append(event)
    return refused


def _reason(held: list[tuple[str, list[str], bool, bool]], host: str) -> tuple[Refusal, str | None]:
    """The reason that is nearest to a permission, and the grant that it is about.

    Args:
        held: (id, hosts, live, revoked) of each grant of this key to this auditor, newest first.
    """
    live = [(grant_id, hosts) for grant_id, hosts, is_live, _ in held if is_live]
    for grant_id, hosts in live:
        if host in hosts:
            return Refusal.budget_exceeded, grant_id
    if live:
        return Refusal.host_not_granted, live[0][0]
    if held:
        grant_id, _, _, revoked = held[0]
        return (Refusal.grant_revoked if revoked else Refusal.grant_expired), grant_id
    return Refusal.no_grant, None
