"""/v1/watermarks/{id}/commitment: what a key's owner shows others of the log, to prove when it committed."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from evidence.log.entry import EntryKind
from service.api.dependencies import CurrentPrincipal, DbSession
from service.errors import NotFound
from service.log.usecases import told
from service.watermarks import usecases

router = APIRouter(prefix="/v1/watermarks", tags=["watermarks"])


@router.get("/{key_id}/commitment")
async def get_commitment(key_id: str, principal: CurrentPrincipal, session: DbSession) -> dict[str, Any]:
    """The log's entry of a key's commitment and the record behind it, for whom the key is visible to.

    With an inclusion proof and a checkpoint it makes a receipt: `doublei log prove`.
    """
    row = await usecases.get(session, key_id, organization_id=principal.organization_id)
    found = await told(session, row.id, EntryKind.key_commitment)
    if found is None:
        raise NotFound(
            f"The log has no entry of the commitment of {key_id}.",
            param="key_id",
            code="commitment_not_found",
        )
    return {
        "object": "watermark.commitment",
        "watermark": row.id,
        "index": found.index,
        "entry": found.entry,
        "record": found.record,
    }
