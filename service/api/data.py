"""/v1/data: all that an owner has here, to be deleted at once."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Depends, Query

from service.accounts import erasure
from service.api.dependencies import AppStorage, DbSession, Principal, Role, actor_of, require_role
from service.api.models import Serving
from service.errors import InvalidRequest

router = APIRouter(prefix="/v1/data", tags=["accounts"])

Owner = Annotated[Principal, Depends(require_role(Role.owner))]


@router.delete("")
async def erase(
    principal: Owner,
    session: DbSession,
    storage: AppStorage,
    serving: Serving,
    after: BackgroundTasks,
    confirm: Annotated[str, Query(max_length=200)] = "",
) -> dict[str, Any]:
    """Delete the organization's files, models, keys and descriptions. ``confirm`` is its id."""
    if confirm != principal.organization_id:
        raise InvalidRequest(
            f"This deletes all that {principal.organization_id} has here. Confirm with ?confirm=<that id>.",
            param="confirm",
            code="not_confirmed",
        )
    done = await erasure.erase(session, actor=actor_of(principal))
    await session.commit()
    await erasure.remove(session, storage, done, organization_id=principal.organization_id)
    for model in done.models:
        after.add_task(serving.unload, model.id)
    return {
        "object": "data.erasure",
        "organization": principal.organization_id,
        "deleted": done.deleted,
        "remaining": done.remaining,
    }
