"""/v1/files: OpenAI's file objects, each with the report of its validation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import FileResponse

from service.api.dependencies import (
    AppSettings,
    AppStorage,
    CurrentPrincipal,
    DbSession,
    Principal,
    Role,
    require_role,
)
from service.api.idempotency import DeedRoute, late
from service.api.multipart import UploadForm
from service.api.pagination import After, page
from service.db.models import File
from service.errors import InvalidRequest
from service.files import statements, usecases

router = APIRouter(prefix="/v1/files", tags=["files"], route_class=DeedRoute)

MAX_LIMIT = 10_000
"""OpenAI's, for this list alone."""

Owner = Annotated[Principal, Depends(require_role(Role.owner))]

_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": list(usecases.PURPOSES)},
                    },
                }
            }
        },
    }
}


@router.post("", openapi_extra=_FORM)
async def upload(
    request: Request,
    principal: Owner,
    session: DbSession,
    storage: AppStorage,
    settings: AppSettings,
) -> dict[str, Any]:
    """Store a dataset, after every row of it was read and found usable."""
    with storage.incoming() as incoming:
        form = UploadForm(
            request.headers.get("content-type"), incoming, max_file_bytes=settings.max_file_bytes
        )
        await form.read(request.stream())
        purpose = _check_fields(form)
        # A boundary is drawn anew for each try, so it is the parts that make it the same upload.
        digest = incoming.blob().sha256
        await late(request, principal, purpose.encode(), (form.filename or "").encode(), digest.encode())
        row = await usecases.add(
            session,
            incoming,
            organization_id=principal.organization_id,
            filename=form.filename or "",
            purpose=purpose,
        )
    return _file(row)


@router.get("")
async def list_files(
    principal: Owner,
    session: DbSession,
    purpose: Annotated[str | None, Query(max_length=100)] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = MAX_LIMIT,
    order: Literal["asc", "desc"] = "desc",
    after: After = None,
) -> dict[str, Any]:
    """The organization's files by age."""
    statement = statements.page(
        principal.organization_id, purpose=purpose, after=after, limit=limit, ascending=order == "asc"
    )
    return page((await session.scalars(statement)).all(), limit, _file)


@router.get("/{file_id}")
async def get_file(file_id: str, principal: CurrentPrincipal, session: DbSession) -> dict[str, Any]:
    """One file."""
    return _file(await usecases.get(session, file_id, organization_id=principal.organization_id))


@router.get("/{file_id}/content")
async def get_content(
    file_id: str, principal: CurrentPrincipal, session: DbSession, storage: AppStorage
) -> FileResponse:
    """The bytes as they were uploaded."""
    row = await usecases.get(session, file_id, organization_id=principal.organization_id)
    return FileResponse(
        storage.path(row.sha256), media_type="application/octet-stream", filename=row.filename
    )


@router.delete("/{file_id}")
async def delete_file(
    file_id: str, principal: CurrentPrincipal, session: DbSession, storage: AppStorage
) -> dict[str, Any]:
    """Delete it. A job that already uses it is not disturbed."""
    await usecases.delete(session, storage, file_id, organization_id=principal.organization_id)
    return {"id": file_id, "object": "file", "deleted": True}


def _check_fields(form: UploadForm) -> str:
    if form.filename is None:
        raise InvalidRequest("the form has no file", param="file", code="missing_field")
    for name in form.fields:
        if name != "purpose":
            raise InvalidRequest(
                f"{name[:60]!r} is not supported here", param=name[:60], code="unsupported_parameter"
            )
    purpose = form.fields.get("purpose")
    if not purpose:
        raise InvalidRequest("the form has no purpose", param="purpose", code="missing_field")
    if purpose not in usecases.PURPOSES:
        raise InvalidRequest(
            f"the purpose must be {' or '.join(usecases.PURPOSES)}", param="purpose", code="invalid_value"
        )
    return purpose


def _file(row: File) -> dict[str, Any]:
    return {
        "id": row.id,
        "object": "file",
        "bytes": row.bytes,
        "created_at": int(row.created_at.timestamp()),
        "filename": row.filename,
        "purpose": row.purpose,
        "status": "processed",
        "status_details": None,
        "expires_at": None,
        "validation": row.validation,
    }
