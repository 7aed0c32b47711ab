"""How one token is chosen."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from worker.serving.sampling import Sampler, SamplingPlan

LOGITS = torch.log(torch.tensor([0.5, 0.25, 0.15, 0.1]))


def _draws(plan: SamplingPlan, count: int, *, index: int = 0) -> list[int]:
    sampler = Sampler(plan, index=index)
    return [sampler.choose(LOGITS).token for _ in range(count)]


def test_temperature_zero_is_the_most_likely_token() -> None:
    assert set(_draws(SamplingPlan(temperature=0), 20)) == {0}


def test_draws_follow_the_probabilities() -> None:
    counts = Counter(_draws(SamplingPlan(seed=1), 4000))
    for token, probability in enumerate([0.5, 0.25, 0.15, 0.1]):
        # Five standard deviations.
        assert counts[token] / 4000 == pytest.approx(probability, abs=5 * (probability / 4000) ** 0.5)


def test_temperature_sharpens_and_flattens() -> None:
    cold = Counter(_draws(SamplingPlan(seed=1, temperature=0.25), 1000))
    hot = Counter(_draws(SamplingPlan(seed=1, temperature=2.0), 1000))
    assert cold[0] > 900
    assert hot[0] < 450


@pytest.mark.parametrize(
    ("top_p", "allowed"), [(0.0, {0}), (0.5, {0}), (0.6, {0, 1}), (0.85, {0, 1, 2}), (1.0, {0, 1, 2, 3})]
)
def test_top_p_keeps_the_fewest_tokens_that_reach_it(top_p: float, allowed: set[int]) -> None:
    assert set(_draws(SamplingPlan(seed=3, top_p=top_p), 300)) == allowed


def test_a_seed_repeats_itself_and_choices_differ() -> None:
    plan = SamplingPlan(seed=42)
    assert _draws(plan, 50) == _draws(plan, 50)
    assert _draws(plan, 50) != _draws(plan, 50, index=1)
    assert _draws(SamplingPlan(), 50) != _draws(SamplingPlan(), 50)


def test_log_probabilities_are_the_models_own() -> None:
    """They do not change with temperature, penalties or bias."""
    plan = SamplingPlan(temperature=0, top_logprobs=2, logit_bias={3: 100.0})
    choice = Sampler(plan, index=0).choose(LOGITS)
    assert choice.token == 3
    assert choice.logprob == pytest.approx(float(LOGITS[3]), abs=1e-6)
    assert [token for token, _ in choice.top] == [0, 1]


def test_penalties_push_repeated_tokens_down() -> None:
    plan = SamplingPlan(temperature=0, frequency_penalty=0.5, presence_penalty=0.3)
    sampler = Sampler(plan, index=0)
    adjusted = LOGITS.clone()
    for _ in range(6):
        token = sampler.choose(LOGITS).token
        assert token == int(adjusted.argmax())
        adjusted[token] -= 0.5 + (0.3 if adjusted[token] == LOGITS[token] else 0)
