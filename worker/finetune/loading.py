"""Loading the base model and choosing how to train it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from worker.finetune.config import RunConfig
from worker.finetune.errors import ChatTemplateError, CorruptBaseModelError, FinetuneError
from worker.finetune.faults import of_the_machine
from worker.finetune.llama import LlamaTrainee, supports
from worker.finetune.trainee import Trainee
from worker.weights.cache import MANIFEST_NAME, verify
from worker.weights.errors import CorruptModelError

_DAMAGE = (OSError, ValueError, KeyError, RuntimeError, SafetensorError)
"""What transformers and safetensors raise for missing, truncated or ill-fitting files."""


def load_tokenizer(model_dir: Path) -> PreTrainedTokenizerBase:
    """Raises: CorruptBaseModelError; ChatTemplateError if the model has no chat template."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            str(model_dir), local_files_only=True, trust_remote_code=False
        )
    except _DAMAGE as error:
        raise _told(error, "the tokenizer") from error
    if not tokenizer.chat_template:
        raise ChatTemplateError("the base model has no chat template")
    return tokenizer


def load_trainee(config: RunConfig, *, device: torch.device, dtype: torch.dtype) -> Trainee:
    """Load the base weights (hashed first, where a manifest says what they should be) and make trainable what
    the method trains.

    Raises: CorruptBaseModelError, InvalidConfigError.
    """
    model = load_base_model(config.model_dir, device=device, dtype=dtype)
    if config.method == "lora" and supports(model, config.lora_target_modules):
        return LlamaTrainee(model, lora_rank=config.lora_rank, lora_alpha=config.lora_alpha, seed=config.seed)
    from worker.finetune.transformer import FullTrainee, TransformerTrainee

    if config.method == "full":
        return FullTrainee(model)
    return TransformerTrainee(
        model,
        lora_rank=config.lora_rank,
        lora_alpha=config.lora_alpha,
        target_modules=config.lora_target_modules,
        seed=config.seed,
        method=config.method,
    )


def load_base_model(model_dir: Path, *, device: torch.device, dtype: torch.dtype) -> Any:
    """Raises: CorruptBaseModelError."""
    try:
        if (model_dir / MANIFEST_NAME).is_file():
            verify(model_dir, deep=True)
        model: Any = AutoModelForCausalLM.from_pretrained(
            str(model_dir), dtype=dtype, local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
    except CorruptModelError as error:
        raise CorruptBaseModelError(error.reason) from error
    except _DAMAGE as error:
        raise _told(error, "the weights") from error
    return model.to(device)


def _told(error: Exception, what: str) -> FinetuneError:
    """A machine without memory raises what damaged files raise."""
    return of_the_machine(error) or CorruptBaseModelError(
        f"{what} could not be loaded ({type(error).__name__})"
    )
