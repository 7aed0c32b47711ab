"""One request being answered: its rows in the engine, and their news on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from worker.serving.engine import Engine
from worker.serving.errors import ServingError
from worker.serving.lora import Adapter
from worker.serving.rows import Progress, Row, Sink
from worker.serving.sampling import Sampler, SamplingPlan
from worker.serving.text import AnswerText, Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Token ids and how long the answer may be."""

    tokens: Sequence[int]
    max_new_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """Progress of one of the request's answers."""

    index: int
    progress: Progress


class Generation:
    """Answers to one request. Use as an async context manager: leaving it cancels whatever still runs."""

    def __init__(
        self,
        engine: Engine,
        *,
        prompts: Sequence[Prompt],
        choices: int,
        plan: SamplingPlan,
        stops: Sequence[str],
        adapter: Adapter | None,
        cache_salt: str,
        vocabulary: Vocabulary,
    ) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._news: asyncio.Queue[tuple[int, Progress | ServingError]] = asyncio.Queue()
        self.prompt_tokens = sum(len(prompt.tokens) for prompt in prompts)
        self.choices = choices
        self._rows = [
            Row(
                prompt_tokens=len(prompt.tokens),
                tokens=list(prompt.tokens),
                max_new_tokens=prompt.max_new_tokens,
                adapter=adapter,
                cache_salt=cache_salt,
                sampler=Sampler(plan, index=choice),
                answer=AnswerText(vocabulary, stops),
                sink=self._sink(place * choices + choice),
            )
            for place, prompt in enumerate(prompts)
            for choice in range(choices)
        ]
        self.generated_tokens = [0] * len(self._rows)
        self.cached_tokens = [0] * len(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def cached_prompt_tokens(self) -> int:
        """Prompt tokens that had not to be computed, each prompt counted once."""
        return sum(self.cached_tokens[:: self.choices])

    def start(self) -> None:
        """Queue the rows. Raises: QueueFull, NotReady."""
        self._engine.submit(self._rows)

    def cancel(self) -> None:
        self._engine.cancel(self._rows)

    async def news(self) -> AsyncIterator[News]:
        """All progress until every answer is complete. Raises: ServingError when one of them failed."""
        open_rows = len(self._rows)
        while open_rows:
            index, progress = await self._news.get()
            if isinstance(progress, ServingError):
                raise progress
            self.generated_tokens[index] = progress.generated_tokens
            self.cached_tokens[index] = progress.cached_tokens
            open_rows -= progress.finish_reason is not None
            yield News(index=index, progress=progress)

    def _sink(self, index: int) -> Sink:
        deliver: Callable[[tuple[int, Progress | ServingError]], None] = self._news.put_nowait

        def sink(progress: Progress | ServingError) -> None:
            try:
                self._loop.call_soon_threadsafe(deliver, (index, progress))
            except RuntimeError:
                # The loop is closed: the server is going down and nobody listens.
                self.cancel()

        return sink
