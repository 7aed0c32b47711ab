"""/v1/models: base models, and the caller's fine-tuned ones."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, cast

import httpx2
from fastapi import APIRouter, BackgroundTasks, Depends, Request
from starlette.responses import StreamingResponse

from catalogue import BaseModel, Catalogue, load_catalogue
from service.api.dependencies import (
    AppSettings,
    AppStorage,
    CurrentPrincipal,
    DbSession,
    Principal,
    Role,
    require_role,
)
from service.models import archive, statements, usecases
from service.models.usecases import AnyModel
from service.serving_client import ServingClient

router = APIRouter(prefix="/v1/models", tags=["models"])

Owner = Annotated[Principal, Depends(require_role(Role.owner))]

BASE_OWNER = "double-i"


def catalogue(settings: AppSettings) -> Catalogue:
    """The base models of this deployment."""
    return load_catalogue(settings.catalogue_file)


async def serving_client(request: Request, settings: AppSettings) -> ServingClient:
    """The deployment's inference server."""
    return ServingClient(cast(httpx2.AsyncClient, request.app.state.http), settings)


BaseModels = Annotated[Catalogue, Depends(catalogue)]
Serving = Annotated[ServingClient, Depends(serving_client)]


@router.get("")
async def list_models(
    principal: CurrentPrincipal, session: DbSession, base_models: BaseModels
) -> dict[str, Any]:
    """All of them at once, as OpenAI answers."""
    tuned = await session.scalars(statements.visible(organization_id=_scope(principal)))
    return {"object": "list", "data": [_wire(model) for model in (*base_models, *tuned)]}


@router.get("/{model_id}/adapter")
async def download_adapter(
    model_id: str, principal: Owner, session: DbSession, storage: AppStorage
) -> StreamingResponse:
    """The adapter's folder as a tar file: safetensors, its configuration and the model card."""
    model = await usecases.find_tuned(session, model_id, organization_id=principal.organization_id)
    folder = storage.root / model.adapter_path
    await asyncio.to_thread(archive.check, folder, model.manifest)
    name = model.id.replace(":", "_")
    return StreamingResponse(
        archive.tar_chunks(folder, model.manifest, root=name),
        media_type="application/x-tar",
        headers={"content-disposition": f'attachment; filename="{name}.tar"'},
    )


@router.get("/{model_id}")
async def retrieve_model(
    model_id: str, principal: CurrentPrincipal, session: DbSession, base_models: BaseModels
) -> dict[str, Any]:
    """One model."""
    return _wire(await usecases.find(session, base_models, model_id, organization_id=_scope(principal)))


@router.delete("/{model_id}")
async def delete_model(
    model_id: str,
    principal: Owner,
    session: DbSession,
    storage: AppStorage,
    serving: Serving,
    after: BackgroundTasks,
) -> dict[str, Any]:
    """Take one's own fine-tuned model out of service and remove its weights."""
    model = await usecases.find_tuned(session, model_id, organization_id=principal.organization_id)
    await usecases.delete(session, model_id, organization_id=principal.organization_id)
    after.add_task(serving.unload, model_id)
    after.add_task(usecases.remove_files, storage, model)
    return {"id": model_id, "object": "model", "deleted": True}


def _scope(principal: Principal) -> str | None:
    """The provider sees the names of every organization's models."""
    return None if principal.role is Role.provider else principal.organization_id


def _wire(model: AnyModel) -> dict[str, Any]:
    """OpenAI's model object, and for a fine-tuned model where it came from."""
    if isinstance(model, BaseModel):
        return {"id": model.id, "object": "model", "created": 0, "owned_by": BASE_OWNER}
    return {
        "id": model.id,
        "object": "model",
        "created": int(model.created_at.timestamp()),
        "owned_by": model.organization_id,
        "root": model.base_model,
        "fine_tuning_job_id": model.job_id,
        "checkpoint_id": model.checkpoint_id,
        "manifest": model.manifest,
    }
