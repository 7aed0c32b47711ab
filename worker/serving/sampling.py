"""From one row of logits to one token."""

from __future__ import annotations

import random
import secrets
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingPlan:
    """How a row's tokens are chosen; temperature 0 takes the most likely one."""

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    top_logprobs: int | None = None
    """How many alternatives to report beside the chosen token's log-probability; None reports neither."""
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A chosen token. Log-probabilities are the model's own: before temperature, penalties and bias."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """One row's sampling state. Its random numbers depend on its seed and its index alone, so they are the
    same whatever the row is batched with."""

    __slots__ = ("_counts", "_plan", "_random")

    def __init__(self, plan: SamplingPlan, *, index: int) -> None:
        self._plan = plan
        seed = secrets.randbits(64) if plan.seed is None else plan.seed
        # Seeding with text is hashed with SHA-512, so neighbouring seeds and indices share nothing.
        self._random = random.Random(f"{seed}/{index}")
        self._counts: Counter[int] = Counter()

    @property
    def is_plain_greedy(self) -> bool:
        """Whether the largest logit is all that is needed."""
        plan = self._plan
        adjusted = plan.frequency_penalty or plan.presence_penalty or plan.logit_bias
        return plan.temperature == 0 and plan.top_logprobs is None and not adjusted

    def choose(self, logits: Tensor) -> Choice:
        """The next token from logits (V,) in float32 on the CPU."""
        plan = self._plan
        adjusted = self._adjust(logits)
        token = int(adjusted.argmax()) if plan.temperature == 0 else self._draw(adjusted)
        if plan.frequency_penalty or plan.presence_penalty:
            self._counts[token] += 1
        if plan.top_logprobs is None:
            return Choice(token=token)
        logprobs = logits.log_softmax(-1)
        values, indices = logprobs.topk(min(plan.top_logprobs, len(logprobs)))
        top = tuple(zip(indices.tolist(), values.tolist(), strict=True))
        return Choice(token=token, logprob=float(logprobs[token]), top=top)

    def _adjust(self, logits: Tensor) -> Tensor:
        """OpenAI's penalties: logit - count * frequency - (count > 0) * presence, and the bias added."""
        plan = self._plan
        if not self._counts and not plan.logit_bias:
            return logits
        adjusted = logits.clone()
        for token, count in self._counts.items():
            adjusted[token] -= count * plan.frequency_penalty + plan.presence_penalty
        for token, bias in plan.logit_bias.items():
            adjusted[token] += bias
        return adjusted

    def _draw(self, logits: Tensor) -> int:
        """Inverse-CDF draw; with top_p, from the fewest most likely tokens that reach that probability."""
        probabilities = (logits.double() / self._plan.temperature).softmax(-1)
        order = None
        if self._plan.top_p < 1:
            probabilities, order = probabilities.sort(descending=True, stable=True)
            before = probabilities.cumsum(0) - probabilities
            keep = max(1, int((before < self._plan.top_p).sum()))
            probabilities, order = probabilities[:keep], order[:keep]
        cumulative = probabilities.cumsum(0)
        point = torch.tensor(self._random.random(), dtype=torch.float64) * cumulative[-1]
        index = min(int(torch.searchsorted(cumulative, point, right=True)), len(cumulative) - 1)
        return index if order is None else int(order[index])
