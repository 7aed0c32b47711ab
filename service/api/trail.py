"""/v1/audit_trail: who asked what of whom. An owner reads of its keys, an auditor of what it did."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from service.api.dependencies import DbSession, Principal, Role, require_role
from service.api.pagination import DEFAULT_LIMIT, After, Limit, page
from service.db.models import AuditEvent
from service.trail import usecases

router = APIRouter(prefix="/v1/audit_trail", tags=["audit trail"])

Reader = Annotated[Principal, Depends(require_role(Role.owner, Role.auditor, Role.provider))]
Filter = Annotated[str | None, Query(max_length=200, pattern=r"^[^\x00]*$")]

PROVIDER_DETAIL = frozenset({"reason", "status"})
"""What the provider sees of an event's detail: neither questions nor figures."""


@router.get("")
async def list_events(
    principal: Reader,
    session: DbSession,
    watermark: Filter = None,
    verification: Filter = None,
    after: After = None,
    limit: Limit = DEFAULT_LIMIT,
) -> dict[str, Any]:
    """Newest first. The provider sees all, without questions and figures."""
    wanted: dict[str, Any] = {
        "watermark": watermark,
        "verification": verification,
        "after": after,
        "limit": limit,
    }
    match principal.role:
        case Role.provider:
            events = await usecases.of_everybody(session, **wanted)
        case Role.auditor:
            events = await usecases.of_actor(session, principal.organization_id, **wanted)
        case _:
            events = await usecases.of_owner(session, principal.organization_id, **wanted)
    return page(events, limit, lambda event: _wire(event, principal))


def _wire(event: AuditEvent, principal: Principal) -> dict[str, Any]:
    shown = event.detail
    if principal.role is Role.provider:
        shown = {name: value for name, value in shown.items() if name in PROVIDER_DETAIL}
    return {
        "id": event.id,
        "object": "audit_trail.event",
        "created_at": int(event.at.timestamp()),
        "action": event.action,
        "owner": event.organization_id,
        "actor": {"organization": event.actor_organization_id, "api_key": event.actor_key_id},
        "watermark": event.key_id,
        "grant": event.grant_id,
        "verification": event.verification_id,
        "suspect_host": event.suspect_host,
        "detail": shown,
    }
