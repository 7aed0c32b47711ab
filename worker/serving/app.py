"""The HTTP side: OpenAI's routes, plus loading and unloading adapters as vLLM has them."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import SecretBytes
from starlette.exceptions import HTTPException

from worker.serving.answering import answer_chat, answer_completion
from worker.serving.errors import GenerationFailed, InvalidRequest, ModelNotFound, ServingError
from worker.serving.loading import Served
from worker.serving.readiness import Readiness
from worker.serving.security import Door, envelope
from worker.serving.wire import (
    ChatRequest,
    CompletionRequest,
    LoadAdapterRequest,
    UnloadAdapterRequest,
)

RETRY_SECONDS = 1
router = APIRouter()


def create_app(readiness: Readiness, *, token: SecretBytes) -> FastAPI:
    """The application. It answers at once: /health and everything else say 503 until `readiness` is ready."""
    app = FastAPI(title="Double-I serving", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.readiness = readiness
    app.include_router(router)
    app.add_exception_handler(ServingError, _serving_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected_error)
    app.add_middleware(Door, token=token)
    return app


def served(request: Request) -> Served:
    """Raises: NotReady."""
    readiness: Readiness = request.app.state.readiness
    return readiness.served


ServedModel = Annotated[Served, Depends(served)]


@router.get("/health")
async def health(request: Request) -> dict[str, str]:
    """200 once answers can be given."""
    return {"status": "ok", "model": served(request).model}


@router.get("/v1/models")
async def list_models(model: ServedModel) -> dict[str, Any]:
    names = [model.model, *(entry.name for entry in model.adapters.registered())]
    return {"object": "list", "data": [_model_object(model, name) for name in names], "has_more": False}


@router.get("/v1/models/{name:path}")
async def get_model(name: str, model: ServedModel) -> dict[str, Any]:
    return _model_object(model, name)


@router.post("/v1/chat/completions")
async def chat_completions(body: ChatRequest, request: Request, model: ServedModel) -> Response:
    return await answer_chat(model, body, request)


@router.post("/v1/completions")
async def completions(body: CompletionRequest, request: Request, model: ServedModel) -> Response:
    return await answer_completion(model, body, request)


@router.post("/v1/load_lora_adapter")
async def load_adapter(body: LoadAdapterRequest, model: ServedModel) -> dict[str, Any]:
    """Register an adapter below the storage directory under a name; saying it twice is fine."""
    await asyncio.to_thread(model.adapters.register, body.lora_name, body.lora_path)
    return _model_object(model, body.lora_name)


@router.post("/v1/unload_lora_adapter")
async def unload_adapter(body: UnloadAdapterRequest, model: ServedModel) -> dict[str, Any]:
    """Forget a name; answers under way are not disturbed."""
    model.adapters.unregister(body.lora_name)
    return {"id": body.lora_name, "object": "model", "deleted": True}


def _model_object(model: Served, name: str) -> dict[str, Any]:
    if name == model.model:
        return {
            "id": name,
            "object": "model",
            "created": model.created_at,
            "owned_by": "doublei",
            "root": name,
            "parent": None,
            "max_model_len": model.context_tokens,
        }
    entry = model.adapters.find(name)
    if entry is None:
        raise ModelNotFound(f"the model {name!r} does not exist", param="model")
    return {
        "id": name,
        "object": "model",
        "created": entry.created_at,
        "owned_by": "doublei",
        "root": f"sha256:{entry.digest}",
        "parent": model.model,
        "max_model_len": model.context_tokens,
    }


async def _serving_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ServingError)
    headers = {"retry-after": str(RETRY_SECONDS)} if error.status in (429, 503) else None
    return JSONResponse(envelope(error), status_code=error.status, headers=headers)


async def _validation_error(request: Request, error: Exception) -> Response:
    """The first thing wrong with the body, without repeating what was sent."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    path = [str(part) for part in first["loc"] if part != "body"]
    if first["type"] == "extra_forbidden":
        refused = InvalidRequest(f"unrecognized request argument: {path[-1][:64]!r}", param=path[-1][:64])
    elif first["type"] == "json_invalid":
        refused = InvalidRequest("the request body is not valid JSON")
    else:
        where = ".".join(path)
        message = first["msg"].removeprefix("Value error, ")
        refused = InvalidRequest(f"{where}: {message}" if where else message, param=where or None)
    return await _serving_error(request, refused)


async def _http_error(_: Request, error: Exception) -> Response:
    """Unknown routes and methods, in the same envelope."""
    assert isinstance(error, HTTPException)
    body = {
        "error": {
            "message": str(error.detail),
            "type": "invalid_request_error",
            "param": None,
            "code": {404: "unknown_url", 405: "method_not_allowed"}.get(error.status_code),
        }
    }
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


async def _unexpected_error(request: Request, _: Exception) -> Response:
    """What happened is in the log; the caller learns only that it did."""
    return await _serving_error(request, GenerationFailed("the server failed to answer; see its log"))
