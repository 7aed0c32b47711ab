"""/v1/chat/completions and /v1/completions: who may use the model is decided here, the rest is passed on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, StrictBool
from starlette.responses import Response, StreamingResponse

from service.api.dependencies import AppSessions, AppStorage, CurrentPrincipal
from service.api.idempotency import DeedRoute, late
from service.api.models import BaseModels, Serving
from service.db.models import Model
from service.errors import InvalidRequest
from service.models import usecases
from service.serving_client import Adapter, ServingClient, pass_on, read

router = APIRouter(prefix="/v1", tags=["inference"], route_class=DeedRoute)

_SAMPLING = frozenset(
    {
        "model", "stream", "stream_options", "temperature", "top_p", "n", "max_tokens", "stop", "seed",
        "frequency_penalty", "presence_penalty", "logit_bias",
    }
)  # fmt: skip
CHAT_FIELDS = _SAMPLING | {"messages", "max_completion_tokens", "logprobs", "top_logprobs"}
COMPLETION_FIELDS = _SAMPLING | {"prompt", "logprobs", "echo"}

WITHOUT_EFFECT = frozenset(
    {
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prompt_cache_options",
        "parallel_tool_calls",
        "verbosity",
    }
)
"""Fields of OpenAI's that change no answer: accepted and not passed on."""

_OFF: tuple[object, ...] = (None, 0, False, "", "none", "auto")
_PLAIN_TEXT = {"type": "text"}


class CompletionBody(BaseModel):
    """Only what is needed here; the inference server checks the rest."""

    model_config = ConfigDict(extra="allow", frozen=True)

    model: str
    stream: StrictBool | None = None


async def answered_before(request: Request, principal: CurrentPrincipal) -> None:
    """With an Idempotency-Key the same completion is not generated twice, unless it is streamed."""
    await late(request, principal, await request.body())


@router.post("/chat/completions", dependencies=[Depends(answered_before)])
async def chat_completions(
    body: CompletionBody,
    principal: CurrentPrincipal,
    sessions: AppSessions,  # a short one: a generation takes minutes and must not hold a connection
    storage: AppStorage,
    base_models: BaseModels,
    serving: Serving,
) -> Response:
    """Answer a conversation with a base model or with one's own fine-tuned model."""
    forwarded = _forwarded(body, CHAT_FIELDS)
    async with sessions() as session:
        model = await usecases.find(
            session, base_models, body.model, organization_id=principal.organization_id
        )
    return await _answer(serving, "/v1/chat/completions", forwarded, _adapter(model, storage))


@router.post("/completions", dependencies=[Depends(answered_before)])
async def completions(
    body: CompletionBody,
    principal: CurrentPrincipal,
    sessions: AppSessions,  # a short one: a generation takes minutes and must not hold a connection
    storage: AppStorage,
    base_models: BaseModels,
    serving: Serving,
) -> Response:
    """Continue a text."""
    forwarded = _forwarded(body, COMPLETION_FIELDS)
    async with sessions() as session:
        model = await usecases.find(
            session, base_models, body.model, organization_id=principal.organization_id
        )
    return await _answer(serving, "/v1/completions", forwarded, _adapter(model, storage))


async def _answer(
    serving: ServingClient, path: str, body: Mapping[str, Any], adapter: Adapter | None
) -> Response:
    response = await serving.complete(path, body, adapter)
    if body.get("stream"):
        return StreamingResponse(
            pass_on(response),
            media_type="text/event-stream",
            headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
        )
    return Response(await read(response), media_type="application/json")


def _adapter(model: usecases.AnyModel, storage: AppStorage) -> Adapter | None:
    if not isinstance(model, Model):
        return None
    return Adapter(name=model.id, path=str((storage.root / model.adapter_path).resolve()))


def _forwarded(body: CompletionBody, known: frozenset[str]) -> dict[str, Any]:
    """What the inference server gets.

    Raises:
        InvalidRequest: a field that would change the answer and is not offered.
    """
    forwarded = {}
    for name, value in body.model_dump(exclude_none=True).items():
        if name in known:
            forwarded[name] = value
        elif name not in WITHOUT_EFFECT and not _is_off(value):
            raise InvalidRequest(f"{name} is not supported", param=name, code="unsupported_parameter")
    return forwarded


def _is_off(value: object) -> bool:
    empty = isinstance(value, list | dict) and not value
    return empty or value in _OFF or value == _PLAIN_TEXT
