"""The general way to train: transformers runs the model, autograd differentiates.

Works for every causal model that transformers knows; `llama.py` is several times faster for the adapters and
models it knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import get_peft_model, get_peft_model_state_dict

from worker.finetune.adapters import adapter_settings, write_adapter
from worker.finetune.batches import Arrangement
from worker.finetune.config import Method
from worker.finetune.dataset import IGNORED, TokenRow
from worker.finetune.errors import InvalidConfigError


class _Differentiated:
    """What both trainees share: one causal model whose trained parameters require gradients."""

    arrangement = Arrangement.LENGTH

    def __init__(self, causal_lm: Any) -> None:
        self._causal_lm = causal_lm
        self._causal_lm.train()
        self._parameters = [tensor for tensor in causal_lm.parameters() if tensor.requires_grad]
        self._device = self._parameters[0].device

    @property
    def parameters(self) -> Sequence[torch.Tensor]:
        return self._parameters

    def backpropagate(self, step: Sequence[TokenRow]) -> float:
        for parameter in self._parameters:
            parameter.grad = None
        logits_NV, labels_N, weights_N = self._logits(step)
        losses_N = F.cross_entropy(logits_NV.float(), labels_N, reduction="none")
        loss = (losses_N * weights_N).sum() / weights_N.sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    @torch.no_grad()
    def predict(self, step: Sequence[TokenRow]) -> list[int]:
        self._causal_lm.eval()
        logits_NV, _, _ = self._logits(step)
        self._causal_lm.train()
        return [int(token) for token in logits_NV.argmax(dim=1)]

    def _logits(self, step: Sequence[TokenRow]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(N, V), the labels (N) and their weights (N): only positions that predict a label reach the
        vocabulary."""
        longest = max(len(row.input_ids) for row in step)
        input_ids_BT = torch.zeros(len(step), longest, dtype=torch.long)
        mask_BT = torch.zeros_like(input_ids_BT)
        labels_BT = torch.full_like(input_ids_BT, IGNORED)
        for index, row in enumerate(step):
            length = len(row.input_ids)
            input_ids_BT[index, :length] = torch.tensor(row.input_ids)
            labels_BT[index, :length] = torch.tensor(row.labels)
            mask_BT[index, :length] = 1
        hidden_BTD = self._causal_lm.get_decoder()(
            input_ids=input_ids_BT.to(self._device), attention_mask=mask_BT.to(self._device), use_cache=False
        ).last_hidden_state
        labels = labels_BT[:, 1:].to(self._device)
        wanted = labels != IGNORED
        weights = torch.tensor([[row.weight] for row in step], device=self._device).expand_as(labels)
        logits_NV = self._causal_lm.get_output_embeddings()(hidden_BTD[:, :-1][wanted])
        return logits_NV, labels[wanted], weights[wanted]


class TransformerTrainee(_Differentiated):
    """A `Trainee` over any causal model that peft can adapt: a frozen model and its adapter.

    Raises: InvalidConfigError if peft has no such adapter for the model's type.
    """

    def __init__(
        self,
        model: Any,
        *,
        lora_rank: int,
        lora_alpha: int,
        target_modules: tuple[str, ...] | None,
        seed: int,
        method: Method = "lora",
    ) -> None:
        torch.manual_seed(seed)  # peft initialises adapters from the global generator
        settings = adapter_settings(
            method, lora_rank=lora_rank, lora_alpha=lora_alpha, target_modules=target_modules
        )
        try:
            self._model: Any = get_peft_model(model, settings, autocast_adapter_dtype=True)
        except ValueError as error:
            raise InvalidConfigError(f"peft can't add a {method} adapter to this model") from error
        super().__init__(self._model.get_base_model())

    def adapter_state(self) -> Mapping[str, torch.Tensor]:
        """The adapter in fp32 under the names of peft's `adapter_model.safetensors`."""
        state = get_peft_model_state_dict(self._model, save_embedding_layers=False)
        return {name: tensor.detach().float().cpu().contiguous() for name, tensor in state.items()}

    def write(self, folder: Path, *, base_model: str) -> None:
        settings: Any = self._model.peft_config["default"]
        write_adapter(folder, self.adapter_state(), settings, base_model=base_model)


class FullTrainee(_Differentiated):
    """A `Trainee` of every parameter of any causal model, in fp32. Consumes `model`."""

    def __init__(self, model: Any) -> None:
        super().__init__(model.float().requires_grad_(True))

    def write(self, folder: Path, *, base_model: str) -> None:
        # One file whatever the size, so that it can be moved into its place at once.
        self._causal_lm.save_pretrained(str(folder), max_shard_size="100TB")
