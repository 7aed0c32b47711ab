"""/v1/log: the transparency log. Whoever has a key may read it: entries hold kinds, times and digests."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from starlette.responses import PlainTextResponse, Response

from service.api.dependencies import AppSigner, DbSession, authenticate
from service.log import usecases

router = APIRouter(prefix="/v1/log", tags=["transparency log"], dependencies=[Depends(authenticate)])

DEFAULT_ENTRIES = 1000
MAX_ENTRIES = 10_000

Size = Annotated[int, Query(ge=0, lt=2**53)]
Count = Annotated[int, Query(ge=1, le=MAX_ENTRIES)]


@router.get("/checkpoint", response_class=PlainTextResponse)
async def get_checkpoint(session: DbSession, signer: AppSigner) -> PlainTextResponse:
    """The signed checkpoint of what is committed now, a C2SP signed note."""
    note = await usecases.checkpoint(session, signer)
    return PlainTextResponse(str(note), headers={"cache-control": "no-store"})


@router.get("/key")
async def get_key(signer: AppSigner) -> dict[str, Any]:
    """The log's public key. Who takes it from here believes this service; keep it, or get it elsewhere."""
    return {"object": "log.key", "origin": signer.name, "key": str(signer.public)}


@router.get("/entries", response_class=Response)
async def get_entries(session: DbSession, start: Size = 0, limit: Count = DEFAULT_ENTRIES) -> Response:
    """The exact bytes of entries, a line each, as far as the log goes."""
    found = await usecases.entries(session, start=start, limit=limit)
    return Response(b"".join(entry + b"\n" for entry in found), media_type="application/jsonl")


@router.get("/inclusion")
async def get_inclusion(session: DbSession, index: Size, size: Size) -> dict[str, Any]:
    """That an entry is in the tree of a size: RFC 6962, section 2.1.1."""
    made = await usecases.inclusion(session, index=index, size=size)
    return {
        "object": "log.inclusion",
        "index": index,
        "size": size,
        "leaf_hash": made.leaf.hex(),
        "root": made.root.hex(),
        "hashes": [one.hex() for one in made.proof],
    }


@router.get("/consistency")
async def get_consistency(session: DbSession, first: Size, second: Size) -> dict[str, Any]:
    """That the tree of one size begins that of another: RFC 6962, section 2.1.2."""
    proof = await usecases.consistency(session, first=first, second=second)
    return {
        "object": "log.consistency",
        "first": first,
        "second": second,
        "hashes": [one.hex() for one in proof],
    }
