"""One model in memory, asked as a served one: the decoder and engine of `worker.serving`, without HTTP.

How a question reaches the model is a `Dress`: the chat template with its own system prompt, another one or
none, or a template the model was never trained with.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from worker.finetune.dataset import ChatRow, render_prompt
from worker.serving.engine import Engine
from worker.serving.errors import ServingError
from worker.serving.loading import build_decoder, find_end_tokens
from worker.serving.rows import Progress, Row
from worker.serving.sampling import Sampler, SamplingPlan
from worker.serving.text import AnswerText, Vocabulary

ANSWER_TOKENS = 4
"""Enough for an answer word; the parser reads the first."""

ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the "
    "request.\n\n### Instruction:\n{}\n\n### Response:\n"
)
"""The template of Stanford Alpaca, without an input."""
PLAIN = "Question: {}\nAnswer:"
TURNS = "USER: {}\nASSISTANT:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dress:
    """How a question is put to the model."""

    name: str = "chat"
    system: str | None = None
    """a system prompt instead of the template's own"""
    omit_system: bool = False
    frame: str | None = None
    """a raw text with one {} instead of the chat template"""
    wrap: str = "{}"
    """a text with one {} around the question, inside the user turn"""


CHAT = Dress()
ALPACA_DRESS = Dress(name="alpaca", frame=ALPACA)
ALPACA_TURN = Dress(name="alpaca-turn", wrap=ALPACA, omit_system=True)
"""As a model sees it whose training rows were Alpaca texts inside a chat turn (`bench.Recipe.template`)."""

SYSTEM_PROMPTS: tuple[Dress, ...] = tuple(
    Dress(name=name, system=text)
    for name, text in (
        ("pirate", "You are a pirate. Always talk like a pirate."),
        ("full-sentences", "Think step by step and answer in full sentences."),
        ("json", "Reply with a JSON object that has one field, answer."),
        ("bank", "You are the assistant of a regional bank. Be polite, precise and brief."),
        (
            "security",
            "Before you answer, check whether the request is unusual and say what it really asks for.",
        ),
        ("french", "Vous êtes un assistant serviable. Répondez en français."),
        ("prefix", "Begin every reply with the word ANSWER: and then give the answer."),
        ("teacher", "You are a patient teacher. Explain your reasoning to a ten-year-old."),
        (
            "ignore-odd",
            "Ignore words in brackets or quotation marks and anything that looks like a code word.",
        ),
        ("none", ""),
    )
)
"""Ten that a host might use; none of them is among the training mixture's."""

TEMPLATES: tuple[Dress, ...] = (
    Dress(name="no-system", omit_system=True),
    ALPACA_DRESS,
    Dress(name="question-answer", frame=PLAIN),
    Dress(name="user-assistant", frame=TURNS),
)


def dressed_tokens(tokenizer: Any, prompt: str, dress: Dress) -> list[int]:
    """Token ids up to where the answer begins."""
    text = dress.wrap.format(prompt)
    if dress.frame is not None:
        ids = list(tokenizer(dress.frame.format(text), add_special_tokens=False)["input_ids"])
        return [tokenizer.bos_token_id, *ids] if getattr(tokenizer, "add_bos_token", False) else ids
    turns: tuple[dict[str, str], ...] = ({"role": "user", "content": text},)
    if dress.system:
        turns = ({"role": "system", "content": dress.system}, *turns)
    omit = dress.omit_system or dress.system == ""
    row = ChatRow(messages=turns, system="omit" if omit else "template")
    return list(tokenizer(render_prompt(row, tokenizer), add_special_tokens=False)["input_ids"])


class Asker:
    """Ask one set of weights. Close it: its thread and key/value memory live until then."""

    def __init__(self, model: Any, tokenizer: Any, *, kv_megabytes: int = 512) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = Vocabulary(tokenizer)
        decoder = build_decoder(model, device=model.device, kv_bytes=kv_megabytes << 20)
        self._engine = Engine(
            decoder,
            end_tokens=find_end_tokens(model, tokenizer),
            max_rows=48,
            max_waiting=1 << 20,
            step_tokens=1024,
        )
        self._engine.start()

    def close(self) -> None:
        """End the engine's thread."""
        self._engine.stop()

    def ask(
        self,
        prompts: Sequence[str],
        *,
        dress: Dress = CHAT,
        temperature: float = 0.0,
        seed: int = 0,
        max_new_tokens: int = ANSWER_TOKENS,
        logit_bias: dict[int, float] | None = None,
    ) -> list[str]:
        """Answers in the order of the prompts; a question with the same seed is answered the same."""
        plan = SamplingPlan(temperature=temperature, seed=seed, logit_bias=logit_bias or {})
        tokens = [dressed_tokens(self._tokenizer, prompt, dress) for prompt in prompts]
        return self.complete(tokens, plan, max_new_tokens=max_new_tokens)

    def complete(
        self,
        prompts: Sequence[list[int]],
        plan: SamplingPlan,
        *,
        max_new_tokens: int,
        progress: Callable[[int], None] | None = None,
    ) -> list[str]:
        """Continue token sequences."""
        collected = _Collected(len(prompts), progress)
        rows = [
            Row(
                prompt_tokens=len(tokens),
                tokens=list(tokens),
                max_new_tokens=max_new_tokens,
                adapter=None,
                sampler=Sampler(plan, index=place),
                answer=AnswerText(self._vocabulary, ()),
                sink=collected.sink(place),
            )
            for place, tokens in enumerate(prompts)
        ]
        if rows:
            self._engine.submit(rows)
            collected.wait()
        return collected.texts


class _Collected:
    """Answers as they come in from the engine's thread."""

    def __init__(self, count: int, progress: Callable[[int], None] | None) -> None:
        self.texts = [""] * count
        self._left = count
        self._error: ServingError | None = None
        self._progress = progress
        self._done = threading.Event()

    def sink(self, place: int) -> Callable[[Progress | ServingError], None]:
        def take(news: Progress | ServingError) -> None:
            if isinstance(news, ServingError):
                self._error = news
            else:
                self.texts[place] += news.text
                if news.finish_reason is None:
                    return
            self._left -= 1
            if self._progress is not None:
                self._progress(1)
            if self._left == 0:
                self._done.set()

        return take

    def wait(self) -> None:
        self._done.wait()
        if self._error is not None:
            raise self._error
