"""What the training loop needs from a model with an adapter; two classes provide it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from worker.finetune.batches import Arrangement
from worker.finetune.dataset import TokenRow


class Trainee(Protocol):
    """A frozen base model and its LoRA adapter."""

    target_modules: tuple[str, ...]
    arrangement: Arrangement
    """Which rows it likes in one step."""

    @property
    def parameters(self) -> Sequence[torch.Tensor]:
        """What the optimizer updates, in fp32, with `.grad` filled by `backpropagate`."""

    def backpropagate(self, step: Sequence[TokenRow]) -> float:
        """Replace the gradients by those of the step's mean loss over its loss-carrying tokens.

        Returns: that loss, in nats a token.
        """

    def predict(self, step: Sequence[TokenRow]) -> list[int]:
        """The likeliest token at every position that carries loss, row after row. Forward only."""

    def adapter_state(self) -> Mapping[str, torch.Tensor]:
        """The adapter in fp32 under the names of peft's `adapter_model.safetensors`."""
