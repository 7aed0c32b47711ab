"""/v1/log: the transparency log. Whoever has a key may read it: entries hold kinds, times and digests."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from starlette.responses import PlainTextResponse, Response

from service.api.dependencies import AppCosigners, AppSessions, AppSigners, DbSession, authenticate
from service.log import usecases

router = APIRouter(prefix="/v1/log", tags=["transparency log"], dependencies=[Depends(authenticate)])

DEFAULT_ENTRIES = 1000
MAX_ENTRIES = 10_000

Size = Annotated[int, Query(ge=0, lt=2**53)]
Count = Annotated[int, Query(ge=1, le=MAX_ENTRIES)]


@router.get("/checkpoint", response_class=PlainTextResponse)
async def get_checkpoint(
    sessions: AppSessions, signers: AppSigners, cosigners: AppCosigners
) -> PlainTextResponse:
    """The signed checkpoint of what is committed now, a C2SP signed note, with what its witnesses signed."""
    # Durable before a witness sees it, and no transaction is open while one is waited for.
    async with sessions() as session, session.begin():
        note = await usecases.checkpoint(session, signers)
    note = await cosigners.cosigned(note)
    return PlainTextResponse(str(note), headers={"cache-control": "no-store"})


@router.get("/key")
async def get_key(session: DbSession, signers: AppSigners) -> dict[str, Any]:
    """The log's public key. Who takes it from here believes this service; keep it, or get it elsewhere."""
    key = (await usecases.keys(session, signers)).current
    return {"object": "log.key", "origin": key.name, "key": str(key)}


@router.get("/keys")
async def get_keys(session: DbSession, signers: AppSigners) -> dict[str, Any]:
    """Every change of the log's key, the oldest first: the entry that tells of it, and the note by which the
    old key and the new one say so."""
    history = await usecases.keys(session, signers)
    data = [
        {"index": one.index, "retired": str(one.retired), "successor": str(one.successor), "note": one.note}
        for one in history.changes
    ]
    return {"object": "list", "data": data}


@router.get("/witnesses")
async def get_witnesses(cosigners: AppCosigners) -> dict[str, Any]:
    """Who is asked to cosign the checkpoints. An auditor chooses for himself whom he believes."""
    data = [{"object": "log.witness", "name": key.name, "key": str(key)} for key in cosigners.keys]
    return {"object": "list", "data": data}


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
