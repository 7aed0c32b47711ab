"""The wire, asked as OpenAI's clients ask it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from fastapi import FastAPI
from pydantic import SecretBytes

from worker.serving.app import create_app
from worker.serving.loading import Served
from worker.serving.readiness import Readiness

USER = [{"role": "user", "content": "ab ab ab?"}]
CHAT: dict[str, Any] = {"model": "tiny", "messages": USER, "temperature": 0, "max_tokens": 10}
MakeClient = Callable[[FastAPI], httpx2.AsyncClient]


@pytest.fixture
def official(client: httpx2.AsyncClient) -> openai.AsyncOpenAI:
    """The official client, without retries, on the application in this process."""
    return openai.AsyncOpenAI(
        base_url="http://serving/v1",
        api_key=client.headers["authorization"].removeprefix("Bearer "),
        max_retries=0,
        http_client=client,
    )


def _envelope(response: httpx2.Response) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return dict(body["error"])


class TestChat:
    async def test_a_reply_has_openais_shape(self, official: openai.AsyncOpenAI) -> None:
        reply = await official.chat.completions.create(**CHAT)
        assert reply.object == "chat.completion"
        assert reply.model == "tiny"
        assert reply.choices[0].finish_reason in ("stop", "length")
        assert reply.choices[0].message.role == "assistant"
        assert reply.usage is not None
        assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens

    async def test_greedy_answers_repeat(self, official: openai.AsyncOpenAI) -> None:
        replies = await asyncio.gather(*(official.chat.completions.create(**CHAT) for _ in range(8)))
        assert len({reply.choices[0].message.content for reply in replies}) == 1

    async def test_log_probabilities_belong_to_the_text(self, official: openai.AsyncOpenAI) -> None:
        reply = await official.chat.completions.create(**CHAT, logprobs=True, top_logprobs=3)
        choice = reply.choices[0]
        assert choice.logprobs is not None
        tokens = choice.logprobs.content or []
        data = b"".join(bytes(token.bytes or []) for token in tokens)
        assert data.decode("utf-8", "replace") == choice.message.content
        assert reply.usage is not None
        assert len(tokens) == reply.usage.completion_tokens
        for token in tokens:
            assert len(token.top_logprobs) == 3
            assert token.logprob == token.top_logprobs[0].logprob <= 0

    async def test_n_choices_differ_and_a_seed_repeats_them(self, official: openai.AsyncOpenAI) -> None:
        request = CHAT | {"temperature": 1.5, "seed": 3, "n": 3}
        first = await official.chat.completions.create(**request)
        second = await official.chat.completions.create(**request)
        texts = [choice.message.content for choice in first.choices]
        assert [choice.index for choice in first.choices] == [0, 1, 2]
        assert texts == [choice.message.content for choice in second.choices]
        assert len(set(texts)) == 3
        other = await official.chat.completions.create(**request | {"seed": 4})
        assert [choice.message.content for choice in other.choices] != texts

    async def test_stop_strings_end_the_answer_before_them(self, official: openai.AsyncOpenAI) -> None:
        whole = (await official.chat.completions.create(**CHAT)).choices[0].message.content or ""
        assert len(whole) >= 4
        reply = await official.chat.completions.create(**CHAT, stop=["never there", whole[2:4]])
        assert reply.choices[0].message.content == whole[: whole.index(whole[2:4])]
        assert reply.choices[0].finish_reason == "stop"

    async def test_parts_and_developer_messages_are_text(self, official: openai.AsyncOpenAI) -> None:
        plain = [{"role": "system", "content": "be"}, {"role": "user", "content": "ab c"}]
        parts = [{"type": "text", "text": "ab"}, {"type": "text", "text": " c"}]
        other = [{"role": "developer", "content": "be"}, {"role": "user", "content": parts}]
        first, second = [
            await official.chat.completions.create(**CHAT | {"messages": messages})
            for messages in (plain, other)
        ]
        assert first.choices[0].message.content == second.choices[0].message.content

    async def test_without_a_limit_the_servers_own_applies(self, official: openai.AsyncOpenAI) -> None:
        request = {"model": "tiny", "messages": USER, "temperature": 2, "logit_bias": {"0": -100, "2": -100}}
        reply = await official.chat.completions.create(**request)  # type: ignore[call-overload]
        assert reply.usage.completion_tokens == 12
        assert reply.choices[0].finish_reason == "length"


class TestStreaming:
    @pytest.mark.parametrize(
        "extra",
        [
            {},
            {"n": 3, "temperature": 1.3, "seed": 5},
            {"logprobs": True, "top_logprobs": 2},
            {"stop": ["a", "e", "\u00e9"], "temperature": 1.9, "seed": 1, "max_tokens": 60},
        ],
        ids=["greedy", "choices", "logprobs", "stop"],
    )
    async def test_a_stream_adds_up_to_the_whole_reply(
        self, official: openai.AsyncOpenAI, extra: dict[str, Any]
    ) -> None:
        request = CHAT | extra
        whole = await official.chat.completions.create(**request)
        texts = [""] * len(whole.choices)
        reasons: dict[int, str] = {}
        tokens: list[list[Any]] = [[] for _ in whole.choices]
        usage = None
        stream = await official.chat.completions.create(
            **request, stream=True, stream_options={"include_usage": True}
        )
        async for chunk in stream:
            usage = chunk.usage
            for choice in chunk.choices:
                assert choice.index not in reasons
                texts[choice.index] += choice.delta.content or ""
                if choice.logprobs is not None:
                    tokens[choice.index].extend(choice.logprobs.content or [])
                if choice.finish_reason:
                    reasons[choice.index] = choice.finish_reason
        assert texts == [choice.message.content for choice in whole.choices]
        assert reasons == {choice.index: choice.finish_reason for choice in whole.choices}
        for choice in whole.choices:
            # The cache may serve other blocks the second time: equal but for the last bits.
            wanted = (choice.logprobs.content if choice.logprobs else None) or []
            assert [token.token for token in tokens[choice.index]] == [token.token for token in wanted]
        assert usage is not None
        assert whole.usage is not None
        assert usage.completion_tokens == whole.usage.completion_tokens

    async def test_the_bytes_are_server_sent_events(self, client: httpx2.AsyncClient) -> None:
        response = await client.post("/v1/chat/completions", json=CHAT | {"stream": True})
        assert response.headers["content-type"].startswith("text/event-stream")
        events = [event for event in response.text.split("\n\n") if event]
        assert all(event.startswith("data: ") for event in events)
        assert events[-1] == "data: [DONE]"
        first = json.loads(events[0].removeprefix("data: "))
        assert first["object"] == "chat.completion.chunk"
        assert first["choices"][0]["delta"]["role"] == "assistant"
        assert "usage" not in first


class TestCompletions:
    async def test_prompts_as_text_and_as_tokens(self, official: openai.AsyncOpenAI, served: Served) -> None:
        tokens = served.tokenizer.encode("ab ab")
        common = {"model": "tiny", "temperature": 0, "max_tokens": 5}
        both = await official.completions.create(**common, prompt=["ab ab", "z"], n=2)  # type: ignore[call-overload]
        ids = await official.completions.create(**common, prompt=tokens)  # type: ignore[call-overload]
        assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
        assert both.choices[0].text == both.choices[1].text == ids.choices[0].text
        assert both.usage.prompt_tokens == len(tokens) + len(served.tokenizer.encode("z"))

    async def test_log_probabilities_have_the_older_shape(self, official: openai.AsyncOpenAI) -> None:
        reply = await official.completions.create(
            model="tiny", prompt="ab", max_tokens=4, temperature=0, logprobs=2
        )
        logprobs = reply.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.tokens is not None
        assert len(logprobs.tokens) == len(logprobs.token_logprobs or []) == len(logprobs.text_offset or [])
        assert all(len(top) <= 2 for top in logprobs.top_logprobs or [])


class TestAdapters:
    async def test_an_adapter_is_loaded_asked_and_forgotten(
        self, client: httpx2.AsyncClient, put_adapter: Callable[..., Path]
    ) -> None:
        folder = put_adapter("job-1", 1)
        name = "ft:tiny:org:suffix:1"
        unknown = await client.post("/v1/chat/completions", json=CHAT | {"model": name})
        assert (unknown.status_code, _envelope(unknown)["code"]) == (404, "model_not_found")
        body = {"lora_name": name, "lora_path": str(folder)}
        for _ in range(2):
            assert (await client.post("/v1/load_lora_adapter", json=body)).status_code == 200
        listed = (await client.get("/v1/models")).json()["data"]
        assert [(entry["id"], entry["parent"]) for entry in listed] == [("tiny", None), (name, "tiny")]
        assert (await client.get(f"/v1/models/{name}")).json()["id"] == name
        tuned = await client.post("/v1/chat/completions", json=CHAT | {"model": name})
        plain = await client.post("/v1/chat/completions", json=CHAT)
        assert tuned.json()["model"] == name
        assert tuned.json()["choices"][0]["message"] != plain.json()["choices"][0]["message"]
        assert (await client.post("/v1/unload_lora_adapter", json={"lora_name": name})).status_code == 200
        assert (await client.post("/v1/chat/completions", json=CHAT | {"model": name})).status_code == 404

    async def test_evicted_adapters_come_back_by_themselves(
        self, start: Callable[..., Served], make_client: MakeClient, put_adapter: Callable[..., Path]
    ) -> None:
        served = start(max_adapters=1)
        readiness = Readiness()
        readiness.set_served(served)
        client = make_client(create_app(readiness, token=SecretBytes(b"a-token-for-tests-only")))
        for seed, name in enumerate("abc"):
            put_adapter(name, seed)
            await client.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": name})
        requests = [CHAT | {"model": name} for name in "abc" * 4]
        first = [(await client.post("/v1/chat/completions", json=request)).json() for request in requests[:3]]
        replies = await asyncio.gather(*(client.post("/v1/chat/completions", json=one) for one in requests))
        for at, reply in enumerate(replies):
            assert reply.json()["choices"] == first[at % 3]["choices"]
        assert len(served.adapters.loaded_names()) == 1

    async def test_a_bad_folder_is_a_400(self, client: httpx2.AsyncClient) -> None:
        body = {"lora_name": "x", "lora_path": "/etc"}
        response = await client.post("/v1/load_lora_adapter", json=body)
        assert (response.status_code, _envelope(response)["code"]) == (400, "invalid_adapter")


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "status", "code", "param"),
        [
            ({"model": "other"}, 404, "model_not_found", "model"),
            ({"model": None}, 400, "invalid_request", "model"),
            ({"messages": []}, 400, "invalid_request", "messages"),
            ({"messages": [{"role": "tool", "content": "x"}]}, 400, "invalid_request", "messages.0.role"),
            ({"temperature": 2.1}, 400, "invalid_request", "temperature"),
            ({"temperature": "nan"}, 400, "invalid_request", "temperature"),
            ({"top_p": -0.1}, 400, "invalid_request", "top_p"),
            ({"max_tokens": 0}, 400, "invalid_request", "max_tokens"),
            ({"max_tokens": 255}, 400, "context_length_exceeded", "messages"),
            ({"max_completion_tokens": 11}, 400, "invalid_request", None),
            ({"n": 0}, 400, "invalid_request", "n"),
            ({"top_logprobs": 1}, 400, "invalid_request", None),
            ({"stream_options": {"include_usage": True}}, 400, "invalid_request", None),
            ({"stop": [""]}, 400, "invalid_request", None),
            ({"logit_bias": {"9999": 1}}, 400, "invalid_request", "logit_bias"),
            ({"tools": [{"type": "function"}]}, 400, "unsupported_parameter", "tools"),
            ({"response_format": {"type": "json_object"}}, 400, "unsupported_parameter", "response_format"),
            ({"surprise": 1}, 400, "invalid_request", "surprise"),
        ],
    )
    async def test_a_bad_request_names_what_is_wrong(
        self, client: httpx2.AsyncClient, change: dict[str, Any], status: int, code: str, param: str | None
    ) -> None:
        response = await client.post("/v1/chat/completions", json=CHAT | change)
        error = _envelope(response)
        assert (response.status_code, error["code"]) == (status, code)
        if param is not None:
            assert error["param"] == param

    async def test_nothing_of_the_prompt_is_repeated(self, client: httpx2.AsyncClient) -> None:
        messages = [{"role": "user", "content": {"secret-word": 1}}]
        response = await client.post("/v1/chat/completions", json=CHAT | {"messages": messages})
        assert response.status_code == 400
        assert "secret-word" not in response.text

    async def test_a_prompt_longer_than_the_context(self, client: httpx2.AsyncClient) -> None:
        for words in (300, 30_000):
            messages = [{"role": "user", "content": "zq " * words}]
            response = await client.post("/v1/chat/completions", json=CHAT | {"messages": messages})
            assert (response.status_code, _envelope(response)["code"]) == (400, "context_length_exceeded")

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "/nowhere", 404),
            ("DELETE", "/v1/models", 405),
            ("GET", "/docs", 404),
            ("GET", "/openapi.json", 404),
        ],
    )
    async def test_routes_that_are_not_there(
        self, client: httpx2.AsyncClient, method: str, path: str, status: int
    ) -> None:
        response = await client.request(method, path)
        assert response.status_code == status
        _envelope(response)

    async def test_a_body_that_is_no_json(self, client: httpx2.AsyncClient) -> None:
        headers = {"content-type": "application/json"}
        response = await client.post("/v1/chat/completions", content=b"{", headers=headers)
        assert response.status_code == 400
        _envelope(response)

    async def test_a_fault_of_ours_is_an_envelope_too(
        self, client: httpx2.AsyncClient, served: Served, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("worker.serving.answering._generation", lambda *_, **__: 1 / 0)
        response = await client.post("/v1/chat/completions", json=CHAT)
        assert (response.status_code, _envelope(response)["type"]) == (500, "server_error")

    async def test_a_full_queue_is_429_with_retry_after(
        self, start: Callable[..., Served], make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        served = start(max_rows=1, max_waiting=2)
        readiness = Readiness()
        readiness.set_served(served)
        client = make_client(create_app(readiness, token=SecretBytes(b"a-token-for-tests-only")))
        going = threading.Event()
        step = type(served.engine.decoder).step
        monkeypatch.setattr(
            type(served.engine.decoder), "step", lambda *inputs: step(*inputs) if going.wait(30) else None
        )
        first = asyncio.create_task(client.post("/v1/chat/completions", json=CHAT | {"n": 2}))
        while not served.engine._schedule.running:
            await asyncio.sleep(0.01)
        for stream in (False, True):
            response = await client.post("/v1/chat/completions", json=CHAT | {"n": 2, "stream": stream})
            assert (response.status_code, _envelope(response)["code"]) == (429, "queue_full")
            assert int(response.headers["retry-after"]) >= 1
        going.set()
        assert (await first).status_code == 200


class TestDoor:
    @pytest.mark.parametrize(
        "authorization", ["", "Bearer", "Bearer wrong", "Basic a-token-for-tests-only", "Bearer \u00e9"]
    )
    async def test_every_route_but_health_wants_the_token(
        self, client: httpx2.AsyncClient, authorization: str
    ) -> None:
        headers = {b"authorization": authorization.encode("latin-1")}
        for method, path in (("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("GET", "/nowhere")):
            response = await client.request(method, path, headers=headers)
            assert (response.status_code, _envelope(response)["code"]) == (401, "invalid_api_key")
        assert (await client.get("/health", headers=headers)).status_code == 200

    async def test_replies_carry_a_request_id(self, client: httpx2.AsyncClient) -> None:
        assert (await client.get("/v1/models")).headers["x-request-id"].startswith("req_")
        echoed = await client.get("/v1/models", headers={"x-request-id": "mine"})
        assert echoed.headers["x-request-id"] == "mine"


class TestReadiness:
    async def test_everything_is_503_until_the_weights_are_there(
        self, served: Served, make_client: MakeClient
    ) -> None:
        readiness = Readiness()
        client = make_client(create_app(readiness, token=SecretBytes(b"a-token-for-tests-only")))
        for method, path, body in (
            ("GET", "/health", None),
            ("GET", "/v1/models", None),
            ("POST", "/v1/chat/completions", CHAT),
        ):
            response = await client.request(method, path, json=body)
            assert (response.status_code, _envelope(response)["code"]) == (503, "model_loading")
            assert "retry-after" in response.headers
        readiness.set_served(served)
        assert (await client.get("/health")).status_code == 200

    async def test_a_failure_to_load_is_told_and_reported(self, make_client: MakeClient) -> None:
        readiness = Readiness()
        told = asyncio.Event()
        loop = asyncio.get_running_loop()

        def load() -> Served:
            raise OSError("no such file")

        def tell() -> None:
            loop.call_soon_threadsafe(told.set)

        readiness.start(load, on_failure=tell)
        await asyncio.wait_for(told.wait(), 10)
        client = make_client(create_app(readiness, token=SecretBytes(b"a-token-for-tests-only")))
        response = await client.get("/health")
        assert readiness.failed
        assert "could not be loaded" in _envelope(response)["message"]
