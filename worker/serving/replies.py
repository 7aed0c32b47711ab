"""Replies in OpenAI's shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from worker.serving.generation import Generation, News
from worker.serving.rows import FinishReason, Progress
from worker.serving.sampling import Choice
from worker.serving.text import Vocabulary

Json = dict[str, Any]


@dataclass(slots=True, kw_only=True)
class Answer:
    """A choice's text as it accumulates."""

    text: str = ""
    tokens: list[Choice] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def add(self, progress: Progress) -> None:
        self.text += progress.text
        self.tokens.extend(progress.tokens)
        self.finish_reason = progress.finish_reason or self.finish_reason


def usage(generation: Generation) -> Json:
    """Token counts of the request so far; the end-of-text token is not counted."""
    completion = sum(generation.generated_tokens)
    return {
        "prompt_tokens": generation.prompt_tokens,
        "completion_tokens": completion,
        "total_tokens": generation.prompt_tokens + completion,
        "prompt_tokens_details": {"cached_tokens": generation.cached_prompt_tokens},
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyShape:
    """What every reply to one request repeats, and how its choices look."""

    id: str
    created: int
    model: str
    fingerprint: str
    vocabulary: Vocabulary
    with_logprobs: bool

    object_name: str = ""
    chunk_name: str = ""

    def reply(self, answers: Sequence[Answer], generation: Generation) -> Json:
        """The whole reply at once."""
        choices = [self._choice(index, answer) for index, answer in enumerate(answers)]
        return self._frame(self.object_name, choices) | {"usage": usage(generation)}

    def opening(self, index: int) -> Json | None:
        """The first chunk of a choice, if this shape has one."""
        return None

    def chunk(self, news: News, text_before: int) -> Json:
        """One chunk of a stream; `text_before` is the length of the choice's text so far."""
        return self._frame(self.chunk_name, [self._delta(news, text_before)])

    def usage_chunk(self, generation: Generation) -> Json:
        """The last chunk of a stream that asked for usage."""
        return self._frame(self.chunk_name, []) | {"usage": usage(generation)}

    def _frame(self, object_name: str, choices: list[Json]) -> Json:
        return {
            "id": self.id,
            "object": object_name,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        }

    def _choice(self, index: int, answer: Answer) -> Json:
        raise NotImplementedError

    def _delta(self, news: News, text_before: int) -> Json:
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatShape(ReplyShape):
    """/v1/chat/completions"""

    object_name: str = "chat.completion"
    chunk_name: str = "chat.completion.chunk"

    def opening(self, index: int) -> Json | None:
        delta = {"role": "assistant", "content": "", "refusal": None}
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        return self._frame(self.chunk_name, [choice])

    def _choice(self, index: int, answer: Answer) -> Json:
        return {
            "index": index,
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": self._logprobs(answer.tokens),
            "finish_reason": answer.finish_reason,
        }

    def _delta(self, news: News, text_before: int) -> Json:
        progress = news.progress
        return {
            "index": news.index,
            "delta": {"content": progress.text} if progress.text else {},
            "logprobs": self._logprobs(progress.tokens) if progress.tokens else None,
            "finish_reason": progress.finish_reason,
        }

    def _logprobs(self, tokens: Sequence[Choice]) -> Json | None:
        if not self.with_logprobs:
            return None
        return {"content": [self._token(choice) for choice in tokens], "refusal": None}

    def _token(self, choice: Choice) -> Json:
        top = [self._named(token, logprob) for token, logprob in choice.top]
        return self._named(choice.token, choice.logprob) | {"top_logprobs": top}

    def _named(self, token: int, logprob: float | None) -> Json:
        vocabulary = self.vocabulary
        return {
            "token": vocabulary.name_of(token),
            "logprob": logprob,
            "bytes": list(vocabulary.bytes_of(token)),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionShape(ReplyShape):
    """/v1/completions"""

    object_name: str = "text_completion"
    chunk_name: str = "text_completion"

    def _choice(self, index: int, answer: Answer) -> Json:
        return {
            "index": index,
            "text": answer.text,
            "logprobs": self._logprobs(answer.tokens, 0),
            "finish_reason": answer.finish_reason,
        }

    def _delta(self, news: News, text_before: int) -> Json:
        progress = news.progress
        return {
            "index": news.index,
            "text": progress.text,
            "logprobs": self._logprobs(progress.tokens, text_before),
            "finish_reason": progress.finish_reason,
        }

    def _logprobs(self, tokens: Sequence[Choice], text_before: int) -> Json | None:
        """OpenAI's older shape; `text_offset` counts characters of the answer, the prompt not included."""
        if not self.with_logprobs:
            return None
        names = [self.vocabulary.name_of(choice.token) for choice in tokens]
        offsets, at = [], text_before
        for name in names:
            offsets.append(at)
            at += len(name)
        return {
            "tokens": names,
            "token_logprobs": [choice.logprob for choice in tokens],
            "top_logprobs": [self._top(choice) for choice in tokens],
            "text_offset": offsets,
        }

    def _top(self, choice: Choice) -> dict[str, float]:
        """Most likely first; of two tokens with one name, the likelier is kept."""
        named: dict[str, float] = {}
        for token, logprob in choice.top:
            named.setdefault(self.vocabulary.name_of(token), logprob)
        return named
