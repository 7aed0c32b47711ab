"""What an owner may set of the training, what it means for the trainer, and what "auto" stands for.

OpenAI's three names keep OpenAI's meaning: `learning_rate_multiplier` scales our default rate, and
`batch_size` counts examples. The trainer fills batches by tokens, so `batch_size` becomes a token budget by
the mean length of the data; `batch_tokens` sets that budget directly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Auto = Literal["auto"]

DEFAULT_EPOCHS = 3
DEFAULT_LEARNING_RATE = 1.5e-3
"""For LoRA of rank 16 on a model of this size; a multiplier of 1.0."""
DEFAULT_LORA_RANK = 16
DEFAULT_MAX_LENGTH_TOKENS = 512

MAX_EPOCHS = 50
MAX_BATCH_SIZE = 256
MAX_LEARNING_RATE_MULTIPLIER = 100.0
MAX_LORA_RANK = 256
MAX_LORA_ALPHA = 1024
MIN_BATCH_TOKENS, MAX_BATCH_TOKENS = 64, 65_536
MIN_LENGTH_TOKENS, MAX_LENGTH_TOKENS = 32, 8_192

CHARACTERS_PER_TOKEN = 4
TEMPLATE_TOKENS = 24
"""What a chat template adds to a short conversation, roughly; only for turning examples into tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hyperparameters:
    """As asked for. The ranges are checked where the request is parsed."""

    n_epochs: int | Auto = "auto"
    batch_size: int | Auto = "auto"
    learning_rate_multiplier: float | Auto = "auto"
    lora_rank: int | Auto = "auto"
    lora_alpha: int | Auto = "auto"
    batch_tokens: int | Auto = "auto"
    max_length_tokens: int | Auto = "auto"

    def resolved(self) -> dict[str, Any]:
        """What the job shows: "auto" replaced wherever the answer does not depend on the data."""
        rank = _or(self.lora_rank, DEFAULT_LORA_RANK)
        return asdict(self) | {
            "n_epochs": _or(self.n_epochs, DEFAULT_EPOCHS),
            "learning_rate_multiplier": (
                1.0 if self.learning_rate_multiplier == "auto" else float(self.learning_rate_multiplier)
            ),
            "lora_rank": rank,
            "lora_alpha": _or(self.lora_alpha, 2 * rank),
            "max_length_tokens": _or(self.max_length_tokens, DEFAULT_MAX_LENGTH_TOKENS),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerSettings:
    """The numbers the trainer gets, by its own names."""

    n_epochs: int
    learning_rate: float
    lora_rank: int
    lora_alpha: int
    batch_tokens: int | None
    """None: the trainer chooses by the size of the data"""
    max_length_tokens: int


def trainer_settings(stored: Mapping[str, Any], *, mean_characters: float) -> TrainerSettings:
    """From a job's stored hyperparameters and the mean length of an example in characters."""
    return TrainerSettings(
        n_epochs=int(stored["n_epochs"]),
        learning_rate=DEFAULT_LEARNING_RATE * stored["learning_rate_multiplier"],
        lora_rank=stored["lora_rank"],
        lora_alpha=stored["lora_alpha"],
        batch_tokens=_batch_tokens(stored, mean_characters),
        max_length_tokens=stored["max_length_tokens"],
    )


def _batch_tokens(stored: Mapping[str, Any], mean_characters: float) -> int | None:
    if stored["batch_tokens"] != "auto":
        return int(stored["batch_tokens"])
    if stored["batch_size"] == "auto":
        return None
    mean_tokens = TEMPLATE_TOKENS + mean_characters / CHARACTERS_PER_TOKEN
    budget = math.ceil(int(stored["batch_size"]) * mean_tokens)
    return min(max(budget, MIN_BATCH_TOKENS), MAX_BATCH_TOKENS)


def _or(value: int | Auto, default: int) -> int:
    return default if value == "auto" else value
