"""Adapters as peft knows them: their settings, and their two files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from peft import IA3Config, LoraConfig, PeftConfig
from safetensors.torch import save_file

from worker.finetune.config import Method


def adapter_settings(
    method: Method, *, lora_rank: int, lora_alpha: int, target_modules: tuple[str, ...] | None
) -> PeftConfig:
    """lora and dora: on these layers, or on every linear one. ia3: on those that peft names for the model's
    type, for which of them scale their input and which their output is part of the method."""
    if method == "ia3":
        return IA3Config(task_type="CAUSAL_LM")
    return LoraConfig(
        r=lora_rank,
        lora_alpha=lora_alpha,
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
        target_modules=list(target_modules) if target_modules else "all-linear",
        use_dora=method == "dora",
    )


def write_adapter(
    folder: Path, state: Mapping[str, torch.Tensor], settings: PeftConfig, *, base_model: str
) -> None:
    """`state` has peft's names. The settings get the base model's name and are written for inference."""
    settings.base_model_name_or_path = base_model
    settings.inference_mode = True
    for name in ("target_modules", "feedforward_modules"):
        chosen = getattr(settings, name, None)
        if isinstance(chosen, set):
            setattr(settings, name, sorted(chosen))  # so that equal runs leave equal files
    save_file(dict(state), folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings.save_pretrained(str(folder))
