"""What the training loop needs from a model in training; three classes provide it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch

from worker.finetune.batches import Arrangement
from worker.finetune.dataset import TokenRow


class Trainee(Protocol):
    """A base model, and what of it or beside it is trained."""

    arrangement: Arrangement
    """Which rows it likes in one step."""

    @property
    def parameters(self) -> Sequence[torch.Tensor]:
        """What the optimizer updates, in fp32, with `.grad` filled by `backpropagate`."""

    def backpropagate(self, step: Sequence[TokenRow]) -> float:
        """Replace the gradients by those of the step's mean loss over its loss-carrying tokens, each weighted
        as its row is.

        Returns: that loss, in nats a token.
        """

    def predict(self, step: Sequence[TokenRow]) -> list[int]:
        """The likeliest token at every position that carries loss, row after row. Forward only."""

    def write(self, folder: Path, *, base_model: str) -> None:
        """Leave what was trained, in fp32, as the files that plain peft or transformers loads."""
