"""What "auto" stands for, and how OpenAI's hyperparameters become the trainer's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.jobs import hyperparameters as hp
from service.jobs.hyperparameters import Hyperparameters, trainer_settings


def test_auto() -> None:
    """Three epochs, rank 16, rate 1.5e-3, batches of 512 tokens."""
    settings = trainer_settings(Hyperparameters().resolved(), mean_characters=100)
    assert (settings.n_epochs, settings.lora_rank, settings.lora_alpha) == (3, 16, 32)
    assert (settings.batch_tokens, settings.max_length_tokens) == (None, 512)
    assert settings.learning_rate == pytest.approx(1.5e-3)


def test_the_multiplier_scales_our_rate() -> None:
    """As OpenAI's does theirs."""
    stored = Hyperparameters(learning_rate_multiplier=0.25).resolved()
    assert trainer_settings(stored, mean_characters=1).learning_rate == pytest.approx(3.75e-4)


def test_alpha_follows_the_rank() -> None:
    """Unless it is given."""
    assert Hyperparameters(lora_rank=4).resolved()["lora_alpha"] == 8
    assert Hyperparameters(lora_rank=4, lora_alpha=5).resolved()["lora_alpha"] == 5


def test_batch_tokens_beat_batch_size() -> None:
    """The trainer's own unit is exact."""
    stored = Hyperparameters(batch_size=64, batch_tokens=300).resolved()
    assert trainer_settings(stored, mean_characters=400).batch_tokens == 300


@given(size=st.integers(1, hp.MAX_BATCH_SIZE), mean=st.floats(1, 1e6))
def test_a_batch_size_is_a_token_budget_within_limits(size: int, mean: float) -> None:
    """Size times the mean length; a larger size never gives a smaller budget."""

    def budget(size: int) -> int:
        stored = Hyperparameters(batch_size=size).resolved()
        found = trainer_settings(stored, mean_characters=mean).batch_tokens
        assert found is not None
        return found

    assert hp.MIN_BATCH_TOKENS <= budget(size) <= hp.MAX_BATCH_TOKENS
    assert budget(size) <= budget(min(size + 1, hp.MAX_BATCH_SIZE))
