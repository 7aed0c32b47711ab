"""One answer being generated."""

from __future__ import annotations

import enum
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from worker.serving.errors import ServingError
from worker.serving.lora import Adapter
from worker.serving.sampling import Choice, Sampler
from worker.serving.text import AnswerText


class FinishReason(enum.StrEnum):
    """Why an answer ended, in OpenAI's words."""

    stop = "stop"
    length = "length"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """News of one row, in order. `finish_reason` is set in the last one."""

    text: str
    tokens: tuple[Choice, ...]
    finish_reason: FinishReason | None = None
    generated_tokens: int = 0
    """So far, the end-of-text token not counted."""
    cached_tokens: int = 0
    """Prompt tokens that had not to be computed."""


Sink = Callable[["Progress | ServingError"], None]
"""Gets a row's news on the engine's thread; must not block."""


@dataclass(slots=True, kw_only=True, eq=False)
class Row:
    """A prompt and what has been generated for it. Owned by the engine once submitted."""

    prompt_tokens: int
    tokens: list[int] = field(repr=False)
    """Prompt, then answer."""
    max_new_tokens: int
    adapter: Adapter | None
    sampler: Sampler
    answer: AnswerText = field(repr=False)
    sink: Sink = field(repr=False)
    cache_salt: str = field(default="", repr=False)
    cancelled: bool = False

    computed: int = 0
    """Tokens whose keys and values are in memory."""
    blocks: list[int] = field(default_factory=list)
    published: int = 0
    """How many of the blocks, from the first, have been offered to other prompts."""
    parent: Hashable = None
    """What the next block to publish continues."""
    cached_tokens: int = 0

    @property
    def cache_root(self) -> tuple[str, str]:
        """Rows share computed beginnings only under one root: keys and values depend on the weights that made
        them, and a caller's salt keeps its prompts from being found, or noticed, by others."""
        return ("" if self.adapter is None else self.adapter.digest, self.cache_salt)

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_tokens

    def take(self, choice: Choice, *, end_tokens: frozenset[int]) -> bool:
        """Add a token and tell the sink. Returns whether the answer is complete."""
        if choice.token in end_tokens:
            self._finish(FinishReason.stop)
            return True
        self.tokens.append(choice.token)
        piece = self.answer.push(choice)
        if self.answer.stopped:
            self._tell(piece.text, piece.tokens, FinishReason.stop)
            return True
        if self.generated >= self.max_new_tokens:
            rest = self.answer.finish()
            reason = FinishReason.stop if self.answer.stopped else FinishReason.length
            self._tell(piece.text + rest.text, piece.tokens + rest.tokens, reason)
            return True
        if piece.text or piece.tokens:
            self._tell(piece.text, piece.tokens, None)
        return False

    def fail(self, error: ServingError) -> None:
        self.sink(error)

    def _finish(self, reason: FinishReason) -> None:
        rest = self.answer.finish()
        self._tell(rest.text, rest.tokens, reason)

    def _tell(self, text: str, tokens: tuple[Choice, ...], reason: FinishReason | None) -> None:
        self.sink(
            Progress(
                text=text,
                tokens=tokens,
                finish_reason=reason,
                generated_tokens=self.generated,
                cached_tokens=self.cached_tokens,
            )
        )
