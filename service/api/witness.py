"""/v1/witness: this service as a witness of other logs (C2SP tlog-witness; this is its submission prefix).

There is no API key here: a checkpoint is believed for its log's signature and nothing else.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from evidence.errors import NoteInvalid
from evidence.log.witness import MAX_SUBMISSION_BYTES, SIZE_TYPE, Submission
from service.api.dependencies import AppWitness, DbSession
from service.errors import InvalidRequest, NotFound, TooLarge
from service.settings import Witness
from service.witness import usecases

router = APIRouter(prefix="/v1/witness", tags=["witness"])


@router.get("/key")
async def get_key(witness: AppWitness) -> dict[str, Any]:
    """The witness's public key; who takes it from here believes this service."""
    signer = _here(witness).signer
    return {"object": "witness.key", "name": signer.name, "key": str(signer.public)}


@router.post("/add-checkpoint", response_class=PlainTextResponse)
async def add_checkpoint(request: Request, witness: AppWitness, session: DbSession) -> Response:
    """Cosign a checkpoint that continues what was seen of its log. 409 holds the size that is known here."""
    here = _here(witness)
    body = await _body(request)
    try:
        submission = Submission.from_text(body.decode())
    except (NoteInvalid, UnicodeDecodeError) as error:
        reason = "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise InvalidRequest(f"The body can't be read: {reason}.") from None
    try:
        made = await usecases.add_checkpoint(session, here, submission)
    except usecases.OtherSize as refusal:
        return Response(f"{refusal.known}\n", status_code=409, headers={"content-type": SIZE_TYPE})
    return PlainTextResponse(f"{made}\n")


def _here(witness: Witness | None) -> Witness:
    if witness is None:
        raise NotFound("This service is no witness.")
    return witness


async def _body(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_SUBMISSION_BYTES:
            raise TooLarge(f"A submission has at most {MAX_SUBMISSION_BYTES} bytes.")
    return body
