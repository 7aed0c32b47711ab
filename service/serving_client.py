"""Talking to the inference server: the internal token, adapters loaded on first use, answers passed through.

The wire is vLLM's (`vllm serve --enable-lora`), so that it can stand in for `worker.serving`. An adapter's
name there is the model's public name, so answers need no rewriting.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2
import structlog

from service.errors import ServiceError, Unavailable
from service.settings import Settings

log = structlog.get_logger(__name__)

LOAD_TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A fine-tuned model's weights as the inference server can find them."""

    name: str
    path: str
    """Below the storage folder, which both processes see at the same place."""


class ServingRefused(ServiceError):
    """The inference server's own error, with its status and its envelope's fields."""

    status = 400
    code = "serving_refused"

    def __init__(self, status: int, error: Mapping[str, Any]) -> None:
        super().__init__(
            str(error.get("message") or "refused"), param=error.get("param"), code=error.get("code")
        )
        self.status = status  # type: ignore[misc]
        self.type = str(error.get("type") or self.type)  # type: ignore[misc]
        self._error = dict(error)

    def __reduce__(self) -> tuple[object, ...]:
        return (ServingRefused, (self.status, self._error))


class ServingClient:
    """One deployment's inference server."""

    def __init__(self, http: httpx2.AsyncClient, settings: Settings) -> None:
        self._http = http
        self._base_url = settings.serving_url.rstrip("/")
        self._settings = settings

    async def complete(self, path: str, body: Mapping[str, Any], adapter: Adapter | None) -> httpx2.Response:
        """POST and return the open response of a request that was accepted. The caller closes it.

        Raises:
            ServingRefused: what the server said.
            Unavailable: it does not answer, or not in a way that can be understood.
        """
        response = await self._post(path, body)
        if response.status_code == 200:
            return response
        refusal = await _refusal(response)
        if adapter is None or refusal.error_code != "model_not_found":
            raise refusal
        await self._load(adapter)
        response = await self._post(path, body)
        if response.status_code == 200:
            return response
        raise await _refusal(response)

    async def unload(self, name: str) -> None:
        """Forget an adapter; not knowing it, or not answering, is no error."""
        try:
            response = await self._post("/v1/unload_lora_adapter", {"lora_name": name})
            await response.aclose()
        except ServiceError as error:
            log.warning("serving.unload_failed", code=error.error_code)

    async def _load(self, adapter: Adapter) -> None:
        response = await self._post(
            "/v1/load_lora_adapter", {"lora_name": adapter.name, "lora_path": adapter.path}
        )
        if response.status_code == 200:
            await response.aclose()
            return
        refusal = await _refusal(response)
        # Two first requests at once: vLLM refuses the second load, and the adapter is there.
        if "already" not in refusal.message:
            log.error("serving.load_failed", code=refusal.error_code, status=refusal.status)
            raise Unavailable(
                "this model can't be served here at the moment", code="model_not_servable", param="model"
            )

    async def _post(self, path: str, body: Mapping[str, Any]) -> httpx2.Response:
        request = self._http.build_request(
            "POST",
            self._base_url + path,
            json=dict(body),
            headers={"authorization": f"Bearer {self._settings.serving_token()}"},
        )
        try:
            return await self._http.send(request, stream=True)
        except httpx2.TransportError as error:
            log.warning("serving.unavailable", error=type(error).__name__)
            raise _unavailable() from None
        except OSError as error:  # the token's file
            log.error("serving.no_token", error=type(error).__name__)
            raise _unavailable() from None


async def pass_on(response: httpx2.Response) -> AsyncIterator[bytes]:
    """The body as it comes. If the server goes away in the middle of a stream, a last event says so."""
    try:
        async for chunk in response.aiter_raw():
            yield chunk
    except httpx2.TransportError as error:
        log.warning("serving.broke_off", error=type(error).__name__)
        yield b"data: " + json.dumps(_BROKEN_OFF).encode() + b"\n\n"
    finally:
        await response.aclose()


async def read(response: httpx2.Response) -> bytes:
    """The whole body.

    Raises:
        Unavailable: the server went away before the end.
    """
    try:
        return await response.aread()
    except httpx2.TransportError as error:
        log.warning("serving.broke_off", error=type(error).__name__)
        raise _unavailable() from None
    finally:
        await response.aclose()


_BROKEN_OFF = {
    "error": {
        "message": "the answer broke off",
        "type": "server_error",
        "param": None,
        "code": "serving_broke_off",
    }
}


def _unavailable() -> Unavailable:
    return Unavailable("model serving is not answering", code="serving_unavailable")


async def _refusal(response: httpx2.Response) -> ServingRefused:
    """Raises: Unavailable if the answer is no error envelope, or is about our own token."""
    body = await read(response)
    try:
        error = json.loads(body)["error"]
        message = error["message"]
    except (ValueError, KeyError, TypeError):
        log.error("serving.unreadable_error", status=response.status_code)
        raise _unavailable() from None
    if response.status_code in (401, 403) or not isinstance(message, str):
        log.error("serving.refused_us", status=response.status_code)
        raise _unavailable()
    return ServingRefused(response.status_code, error)
