"""/v1/campaigns: several suspects under one number of a key."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from sqlalchemy.ext.asyncio import AsyncSession

from service.api.dependencies import (
    AppSealer,
    AppSessions,
    AppSettings,
    DbSession,
    Doorbell,
    Principal,
    Role,
    actor_of,
    require_role,
)
from service.api.idempotency import DeedRoute
from service.api.suspects import Judged, judge
from service.api.verification_bodies import CampaignBody
from service.api.verification_wire import seconds, verification_object
from service.dispatch import TaskName
from service.trail.usecases import Action, KeyEvent, record, verification_event
from service.verifications import campaigns, usecases
from service.verifications.campaigns import CampaignView
from service.watermarks.refusals import noted

router = APIRouter(tags=["verifications"], route_class=DeedRoute)

OwnerOrAuditor = Annotated[Principal, Depends(require_role(Role.owner, Role.auditor))]
Reader = Annotated[Principal, Depends(require_role(Role.owner, Role.auditor, Role.provider))]


async def _judged(body: CampaignBody, _: OwnerOrAuditor, settings: AppSettings) -> Judged:
    return await judge(body.suspects, settings, listed=True)


JudgedSuspects = Annotated[Judged, Depends(_judged)]


@router.post("/v1/campaigns")
async def create_campaign(
    body: CampaignBody,
    principal: OwnerOrAuditor,
    judged: JudgedSuspects,  # before the session: see service.api.suspects
    sessions: AppSessions,
    session: DbSession,
    sealer: AppSealer,
    bells: Doorbell,
) -> dict[str, Any]:
    """Pre-register an audit of each suspect, all or none, and queue them."""
    targets = judged.targets()
    hosts = sorted({target.url.host_port for target in targets})
    async with noted(sessions, actor=actor_of(principal), watermark=body.watermark, suspect_hosts=hosts):
        view = await campaigns.create(
            session,
            sealer,
            organization_id=principal.organization_id,
            watermark=body.watermark,
            targets=targets,
            plan=body.plan.to_request(),
            opening=body.opening,
        )
    await _trail(session, view, principal)
    for audit in view.audits:
        bells.ring(TaskName.verify_run, audit.verification.id)
    return await _shown(session, view, principal)


@router.get("/v1/campaigns/{campaign_id}")
async def retrieve_campaign(campaign_id: str, principal: Reader, session: DbSession) -> dict[str, Any]:
    """One campaign with its audits; Holm's steps once all of them have ended."""
    scope = None if principal.role is Role.provider else principal.organization_id
    return await _shown(session, await campaigns.get(session, campaign_id, organization_id=scope), principal)


async def _trail(session: AsyncSession, view: CampaignView, principal: Principal) -> None:
    """The campaign's creation and each of its pre-registrations, to the trail of the key's owner."""
    actor, first = actor_of(principal), view.audits[0]
    event = KeyEvent(
        action=Action.campaign_created,
        owner_id=await usecases.owner_of(session, first),
        actor=actor,
        watermark=view.campaign.key_id,
        grant_id=first.verification.grant_id,
        detail={"campaign": view.campaign.id, "suspects": view.campaign.size},
    )
    await record(session, event)
    for audit in view.audits:
        detail = {"audit_index": view.campaign.audit_index, "campaign": view.campaign.id}
        await session.execute(verification_event(audit.verification.id, Action.preregistered, actor, detail))


async def _shown(session: AsyncSession, view: CampaignView, principal: Principal) -> dict[str, Any]:
    row = view.campaign
    seen = await usecases.looks(session, view.audits)
    return {
        "id": row.id,
        "object": "verification.campaign",
        "created_at": seconds(row.created_at),
        "organization_id": row.organization_id,
        "watermark": row.key_id,
        "audit_index": row.audit_index,
        "alpha_i": row.alpha_i,
        "size": row.size,
        "verifications": [
            verification_object(audit, principal, seen.get(audit.verification.id, ()))
            for audit in view.audits
        ],
        "holm": None if principal.role is Role.provider else view.holm_record(),
    }
