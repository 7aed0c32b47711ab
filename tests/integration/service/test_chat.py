"""/v1/chat/completions: who may use which model, and that the rest passes through unchanged.

The inference server is replaced by a small one that records what it is sent; `worker.serving` has its own
tests, and the whole way is walked in tests/e2e.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
import uvicorn
from fastapi import FastAPI, Request
from sqlalchemy import Engine, text
from starlette.responses import JSONResponse, Response, StreamingResponse

from service.settings import Settings

pytestmark = pytest.mark.integration

BASE = "smollm2-135m-instruct"
TUNED = f"ft:{BASE}:acme:try:abcdefgh"
MESSAGES = [{"role": "user", "content": "Hello"}]


class Serving:
    """Knows the base model, loads adapters, and remembers every request."""

    def __init__(self) -> None:
        self.url = ""
        self.adapters: dict[str, str] = {}
        self.requests: list[tuple[str, dict[str, Any], str | None]] = []
        self.app = FastAPI()
        self.app.post("/{path:path}")(self.answer)

    async def answer(self, path: str, request: Request) -> Response:
        """Anything that is POSTed."""
        body = await request.json()
        self.requests.append((path, body, request.headers.get("authorization")))
        if path == "v1/load_lora_adapter":
            if body["lora_path"].endswith("/broken"):
                return _error(400, "invalid_adapter", "bad tensor")
            self.adapters[body["lora_name"]] = body["lora_path"]
            return JSONResponse({})
        if body["model"] != BASE and body["model"] not in self.adapters:
            return _error(404, "model_not_found", "no such model")
        if body.get("temperature") == 9:
            return _error(400, "invalid_request", "temperature must be at most 2", "temperature")
        if body.get("seed") == 401:
            return _error(401, "invalid_api_key", "wrong token")
        if body.get("stream"):
            return StreamingResponse(self._stream(), media_type="text/event-stream")
        return JSONResponse({"model": body["model"], "choices": [{"message": {"content": "Hi"}}]})

    async def _stream(self) -> AsyncIterator[bytes]:
        for word in ("H", "i"):
            yield b"data: " + json.dumps({"delta": word}).encode() + b"\n\n"
        yield b"data: [DONE]\n\n"


def _error(status: int, code: str, message: str, param: str | None = None) -> JSONResponse:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return JSONResponse({"error": error}, status_code=status)


@pytest.fixture
async def serving() -> AsyncIterator[Serving]:
    """Running on a free port."""
    fake = Serving()
    server = uvicorn.Server(uvicorn.Config(fake.app, port=0, log_level="error", lifespan="off"))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    fake.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    yield fake
    server.should_exit = True
    await task


@pytest.fixture
def tuned(database: Engine, owner: Any) -> str:
    """A published model of the owner's."""
    file = (
        "INSERT INTO files (id, organization_id, purpose, filename, bytes, sha256, validation)"
        " VALUES ('file-1', :org, 'fine-tune', 'x', 1, :sha, '{}')"
    )
    job = (
        "INSERT INTO jobs (id, organization_id, status, base_model, seed, training_file_id, hyperparameters,"
        " method, metadata) VALUES ('ftjob-1', :org, 'succeeded', :base, 1, 'file-1', '{}', '{}', '{}')"
    )
    model = (
        "INSERT INTO models (id, organization_id, job_id, base_model, adapter_path, manifest)"
        " VALUES (:id, :org, 'ftjob-1', :base, 'adapters/ftjob-1/1', '{}')"
    )
    values = {"org": owner.organization, "base": BASE, "id": TUNED, "sha": "0" * 64}
    with database.begin() as connection:
        for statement in (file, job, model):
            connection.execute(text(statement), values)
    return TUNED


@pytest.fixture
def point_at(app: FastAPI, settings: Settings) -> Any:
    """Have the API talk to that inference server."""

    def point(serving: Serving) -> None:
        app.state.settings = settings.model_copy(update={"serving_url": serving.url})

    return point


async def chat(account: Any, **fields: Any) -> httpx2.Response:
    """Ask."""
    body = {"model": BASE, "messages": MESSAGES} | fields
    response: httpx2.Response = await account.http.post("/v1/chat/completions", json=body)
    return response


async def test_a_base_model_for_everybody(accounts: dict[str, Any], serving: Serving, point_at: Any) -> None:
    """Owner, provider and auditor; the server sees the internal token, never the caller's key."""
    point_at(serving)
    for account in accounts.values():
        response = await chat(account, temperature=0, max_tokens=3)
        assert response.status_code == 200
        assert response.json()["choices"][0]["message"]["content"] == "Hi"
        path, body, authorization = serving.requests[-1]
        assert path == "v1/chat/completions"
        assert body == {"model": BASE, "messages": MESSAGES, "temperature": 0, "max_tokens": 3}
        assert authorization == "Bearer internal-token"


async def test_a_tuned_model_is_loaded_on_first_use(
    owner: Any, serving: Serving, point_at: Any, tuned: str, settings: Settings
) -> None:
    """Once, by its public name."""
    point_at(serving)
    for _ in range(2):
        response = await chat(owner, model=tuned)
        assert response.status_code == 200, response.text
        assert response.json()["model"] == tuned
    assert serving.adapters == {tuned: str(settings.storage_dir.resolve() / "adapters/ftjob-1/1")}
    paths = [path for path, _, _ in serving.requests]
    assert paths == [
        "v1/chat/completions",
        "v1/load_lora_adapter",
        "v1/chat/completions",
        "v1/chat/completions",
    ]


async def test_an_inference_key_may_chat(
    owner: Any, http: httpx2.AsyncClient, serving: Serving, point_at: Any, tuned: str
) -> None:
    """With its organization's models."""
    point_at(serving)
    made = await owner.http.post("/v1/api_keys", json={"role": "inference", "name": "app"})
    headers = {"authorization": f"Bearer {made.json()['key']}"}
    body = {"model": tuned, "messages": MESSAGES}
    assert (await http.post("/v1/chat/completions", headers=headers, json=body)).status_code == 200


@pytest.mark.parametrize("role", ["owner", "auditor", "provider"])
async def test_a_foreign_tuned_model_does_not_exist(
    new_account: Any, accounts: dict[str, Any], serving: Serving, point_at: Any, tuned: str, role: str
) -> None:
    """Not for another owner, an auditor or the provider; the inference server is not even asked."""
    point_at(serving)
    stranger = accounts[role] if role != "owner" else await new_account("owner")
    response = await chat(stranger, model=tuned)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
    assert serving.requests == []


async def test_a_stream_passes_through(owner: Any, serving: Serving, point_at: Any) -> None:
    """Byte for byte."""
    point_at(serving)
    response = await chat(owner, stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text == 'data: {"delta": "H"}\n\ndata: {"delta": "i"}\n\ndata: [DONE]\n\n'


async def test_the_servers_own_errors_pass_through(owner: Any, serving: Serving, point_at: Any) -> None:
    """With status, code and param; in a stream too, because none has begun."""
    point_at(serving)
    for stream in (False, True):
        response = await chat(owner, temperature=9, stream=stream)
        assert response.status_code == 400
        error = response.json()["error"]
        assert (error["param"], error["message"]) == ("temperature", "temperature must be at most 2")


async def test_a_wrong_internal_token_is_not_the_callers_fault(
    owner: Any, serving: Serving, point_at: Any
) -> None:
    """503, not 401."""
    point_at(serving)
    assert (await chat(owner, seed=401)).status_code == 503


async def test_an_adapter_that_can_not_be_loaded(
    owner: Any, serving: Serving, point_at: Any, tuned: str, database: Engine
) -> None:
    """503 that names the model, not the server's reason."""
    point_at(serving)
    with database.begin() as connection:
        connection.execute(text("UPDATE models SET adapter_path = 'adapters/broken'"))
    response = await chat(owner, model=tuned)
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "model_not_servable"


async def test_no_inference_server(owner: Any) -> None:
    """503 with a hint to retry."""
    response = await chat(owner)
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "serving_unavailable"
    assert "retry-after" in response.headers


async def test_fields_without_effect_are_accepted_and_others_refused(
    owner: Any, serving: Serving, point_at: Any
) -> None:
    """A field that would change the answer is never dropped silently."""
    point_at(serving)
    harmless = {
        "user": "u",
        "store": False,
        "tools": [],
        "verbosity": "low",
        "response_format": {"type": "text"},
    }
    assert (await chat(owner, **harmless)).status_code == 200
    assert set(serving.requests[-1][1]) == {"model", "messages"}
    for name, value in {"tools": [{"type": "function"}], "best_of": 2}.items():
        response = await chat(owner, **{name: value})
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "unsupported_parameter"
        assert response.json()["error"]["param"] == name


async def test_completions(owner: Any, serving: Serving, point_at: Any) -> None:
    """The older route passes on as well."""
    point_at(serving)
    response = await owner.http.post("/v1/completions", json={"model": BASE, "prompt": "Once"})
    assert response.status_code == 200
    assert serving.requests[-1][:2] == ("v1/completions", {"model": BASE, "prompt": "Once"})
