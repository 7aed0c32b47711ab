"""From a parsed request to its reply, whole or as a stream."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from worker.serving.errors import ContextLengthExceeded, InvalidRequest, ServingError
from worker.serving.generation import Generation, Prompt
from worker.serving.loading import Served
from worker.serving.lora import Adapter
from worker.serving.replies import Answer, ChatShape, CompletionShape, Json, ReplyShape
from worker.serving.sampling import SamplingPlan
from worker.serving.security import envelope
from worker.serving.wire import ChatRequest, CompletionRequest, GenerationRequest

COMPLETION_TOKENS = 16
"""OpenAI's length limit of a plain completion that names none."""

MAX_CHARACTERS_PER_TOKEN = 32
"""A prompt with more characters than this for every token of context is refused without tokenising it."""

DISCONNECTED_STATUS = 499
"""nginx's code for a client that went away; nobody is left to read it."""

_T = TypeVar("_T")


async def answer_chat(served: Served, body: ChatRequest, request: Request) -> Response:
    """Raises: ServingError."""
    adapter = await _adapter(served, body.model)
    messages = [message.for_template() for message in body.messages]
    _check_characters(served, sum(len(message["content"]) for message in messages), "messages")
    try:
        rendered = served.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:
        # Templates refuse what they can't render (say, two user turns in a row) with errors of their own.
        reason = f"the chat template refuses these messages: {type(error).__name__}"
        raise InvalidRequest(reason, param="messages") from None
    tokens = served.tokenizer.encode(str(rendered), add_special_tokens=False)
    limit = served.default_output_tokens if body.token_limit is None else body.token_limit
    prompt = _fit(served, tokens, limit, named=body.token_limit is not None, param="messages")
    top = body.top_logprobs or 0
    generation = _generation(served, body, [prompt], adapter, top_logprobs=top if body.logprobs else None)
    shape = ChatShape(**_frame(served, body, "chatcmpl"), with_logprobs=bool(body.logprobs))
    return await _respond(request, body, generation, shape)


async def answer_completion(served: Served, body: CompletionRequest, request: Request) -> Response:
    """Raises: ServingError."""
    adapter = await _adapter(served, body.model)
    limit = COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens
    prompts = [
        _fit(served, _prompt_tokens(served, prompt), limit, named=body.max_tokens is not None, param="prompt")
        for prompt in body.prompts
    ]
    generation = _generation(served, body, prompts, adapter, top_logprobs=body.logprobs)
    shape = CompletionShape(**_frame(served, body, "cmpl"), with_logprobs=body.logprobs is not None)
    return await _respond(request, body, generation, shape)


async def _adapter(served: Served, model: str) -> Adapter | None:
    """The adapter of that name, None for the base model. Raises: ModelNotFound, AdapterInvalid."""
    if model == served.model:
        return None
    return served.adapters.in_memory(model) or await asyncio.to_thread(served.adapters.load, model)


def _prompt_tokens(served: Served, prompt: str | list[int]) -> list[int]:
    if isinstance(prompt, str):
        _check_characters(served, len(prompt), "prompt")
        tokens: list[int] = served.tokenizer.encode(prompt)
        if tokens:
            return tokens
        start = served.tokenizer.bos_token_id
        if start is None:
            raise InvalidRequest("the prompt is empty", param="prompt")
        return [start]
    if any(token >= served.vocabulary.size for token in prompt):
        raise InvalidRequest(f"token ids must be below {served.vocabulary.size}", param="prompt")
    return prompt


def _check_characters(served: Served, characters: int, param: str) -> None:
    if characters > served.context_tokens * MAX_CHARACTERS_PER_TOKEN:
        raise ContextLengthExceeded(
            f"this model's maximum context length is {served.context_tokens} tokens; your prompt has "
            f"{characters} characters",
            param=param,
        )


def _fit(served: Served, tokens: Sequence[int], limit: int, *, named: bool, param: str) -> Prompt:
    """A limit that the caller named must fit the context; our own default is cut to what fits."""
    context = served.context_tokens
    wanted = limit if named else 1
    if len(tokens) + wanted > context:
        raise ContextLengthExceeded(
            f"this model's maximum context length is {context} tokens; you asked for {len(tokens) + wanted} "
            f"({len(tokens)} in the prompt, {wanted} for the answer)",
            param=param,
        )
    return Prompt(tokens=tokens, max_new_tokens=min(limit, context - len(tokens)))


def _generation(
    served: Served,
    body: GenerationRequest,
    prompts: Sequence[Prompt],
    adapter: Adapter | None,
    *,
    top_logprobs: int | None,
) -> Generation:
    bias = {int(token): value for token, value in (body.logit_bias or {}).items()}
    if any(token >= served.vocabulary.size for token in bias):
        raise InvalidRequest(f"token ids must be below {served.vocabulary.size}", param="logit_bias")
    plan = SamplingPlan(
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        seed=body.seed,
        top_logprobs=top_logprobs,
        frequency_penalty=body.frequency_penalty or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        logit_bias=bias,
    )
    return Generation(
        served.engine,
        prompts=prompts,
        choices=body.n or 1,
        plan=plan,
        stops=body.stops,
        adapter=adapter,
        cache_salt=body.cache_salt or "",
        vocabulary=served.vocabulary,
    )


def _frame(served: Served, body: GenerationRequest, prefix: str) -> Json:
    return {
        "id": f"{prefix}-{secrets.token_hex(12)}",
        "created": int(time.time()),
        "model": body.model,
        "fingerprint": served.fingerprint,
        "vocabulary": served.vocabulary,
    }


async def _respond(
    request: Request, body: GenerationRequest, generation: Generation, shape: ReplyShape
) -> Response:
    # Queued before the reply starts, so that a full queue is a 429 for streams too.
    generation.start()
    if body.stream:
        events = _events(request, generation, shape, with_usage=body.wants_stream_usage)
        return _EventStream(events, generation)
    answers = [Answer() for _ in range(len(generation))]
    try:
        async for news in _until_disconnected(request, generation.news()):
            answers[news.index].add(news.progress)
        if any(answer.finish_reason is None for answer in answers):
            return Response(status_code=DISCONNECTED_STATUS)
        return JSONResponse(shape.reply(answers, generation))
    finally:
        generation.cancel()


class _EventStream(StreamingResponse):
    """A stream whose rows end with it, even if the client is gone before the first event is asked for."""

    def __init__(self, events: AsyncIterator[str], generation: Generation) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"cache-control": "no-cache"})
        self._generation = generation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._generation.cancel()


async def _events(
    request: Request, generation: Generation, shape: ReplyShape, *, with_usage: bool
) -> AsyncIterator[str]:
    """Server-sent events. A failure after the first byte is an event too: the status has been sent."""
    lengths = [0] * len(generation)
    usage_field: Json = {"usage": None} if with_usage else {}
    try:
        for index in range(len(generation)):
            opening = shape.opening(index)
            if opening is not None:
                yield _event(opening | usage_field)
        async for news in _until_disconnected(request, generation.news()):
            yield _event(shape.chunk(news, lengths[news.index]) | usage_field)
            lengths[news.index] += len(news.progress.text)
        if with_usage:
            yield _event(shape.usage_chunk(generation))
        yield "data: [DONE]\n\n"
    except ServingError as error:
        yield _event(envelope(error))
        yield "data: [DONE]\n\n"


def _event(data: object) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"


async def _until_disconnected(request: Request, source: AsyncIterator[_T]) -> AsyncIterator[_T]:
    """Items of `source` until it ends or the client goes away."""
    gone = asyncio.ensure_future(_disconnected(request))
    item: asyncio.Future[_T] | None = None
    try:
        while True:
            item = asyncio.ensure_future(anext(source))
            await asyncio.wait({item, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not item.done():
                return
            try:
                yield item.result()
            except StopAsyncIteration:
                return
    finally:
        gone.cancel()
        if item is not None:
            item.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
