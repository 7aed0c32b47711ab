"""/v1/evidence: the key that signs bundles."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends

from evidence.dsse import key_id, public_line
from service.api.dependencies import AppSettings, authenticate

router = APIRouter(prefix="/v1/evidence", tags=["evidence"], dependencies=[Depends(authenticate)])


@router.get("/key")
async def get_key(settings: AppSettings) -> dict[str, Any]:
    """The public key of this service's bundles. Who takes it from here believes this service; keep it, or
    get it elsewhere."""
    public = settings.evidence_signer.public_key().public_bytes_raw()
    name = settings.log_signer.name
    return {"object": "evidence.key", "id": key_id(public), "key": public_line(public, name)}
