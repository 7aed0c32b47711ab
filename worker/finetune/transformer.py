"""The general way to train: transformers runs the model, peft adapts it, autograd differentiates.

Works for every causal model that peft knows; `llama.py` is several times faster for the ones it knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

from worker.finetune.batches import Arrangement
from worker.finetune.dataset import IGNORED, TokenRow


class TransformerTrainee:
    """A `Trainee` over any transformers causal language model."""

    arrangement = Arrangement.LENGTH

    def __init__(
        self,
        model: Any,
        *,
        lora_rank: int,
        lora_alpha: int,
        target_modules: tuple[str, ...] | None,
        seed: int,
    ) -> None:
        torch.manual_seed(seed)  # peft initialises adapters from the global generator
        settings = LoraConfig(
            r=lora_rank,
            lora_alpha=lora_alpha,
            lora_dropout=0.0,
            bias="none",
            task_type="CAUSAL_LM",
            target_modules=list(target_modules) if target_modules else "all-linear",
        )
        self._model: Any = get_peft_model(model, settings, autocast_adapter_dtype=True)
        self._model.train()
        self._model.config.use_cache = False
        chosen: Any = self._model.peft_config["default"]
        self.target_modules: tuple[str, ...] = tuple(sorted(chosen.target_modules))
        self._parameters = [tensor for tensor in self._model.parameters() if tensor.requires_grad]
        self._device = self._parameters[0].device

    @property
    def parameters(self) -> Sequence[torch.Tensor]:
        return self._parameters

    def backpropagate(self, step: Sequence[TokenRow]) -> float:
        for parameter in self._parameters:
            parameter.grad = None
        logits_NV, labels_N = self._logits(step)
        loss = F.cross_entropy(logits_NV.float(), labels_N)
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    @torch.no_grad()
    def predict(self, step: Sequence[TokenRow]) -> list[int]:
        self._model.eval()
        logits_NV, _ = self._logits(step)
        self._model.train()
        return [int(token) for token in logits_NV.argmax(dim=1)]

    def _logits(self, step: Sequence[TokenRow]) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, V) and the labels (N): only positions that predict a label reach the vocabulary."""
        longest = max(len(row.input_ids) for row in step)
        input_ids_BT = torch.zeros(len(step), longest, dtype=torch.long)
        mask_BT = torch.zeros_like(input_ids_BT)
        labels_BT = torch.full_like(input_ids_BT, IGNORED)
        for index, row in enumerate(step):
            length = len(row.input_ids)
            input_ids_BT[index, :length] = torch.tensor(row.input_ids)
            labels_BT[index, :length] = torch.tensor(row.labels)
            mask_BT[index, :length] = 1
        causal_lm: Any = self._model.get_base_model()
        hidden_BTD = causal_lm.get_decoder()(
            input_ids=input_ids_BT.to(self._device), attention_mask=mask_BT.to(self._device)
        ).last_hidden_state
        labels = labels_BT[:, 1:].to(self._device)
        hidden_ND = hidden_BTD[:, :-1][labels != IGNORED]
        return causal_lm.get_output_embeddings()(hidden_ND), labels[labels != IGNORED]

    def adapter_state(self) -> Mapping[str, torch.Tensor]:
        state = get_peft_model_state_dict(self._model, save_embedding_layers=False)
        return {name: tensor.detach().float().cpu().contiguous() for name, tensor in state.items()}
