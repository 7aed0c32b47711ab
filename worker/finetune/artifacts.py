"""The adapter folder: written beside its place, flushed, then renamed into it."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import save_file

from worker.finetune.config import RunConfig
from worker.finetune.errors import DiskFullError, OutputNotWritableError

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json", "README.md")

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The disk, the account's quota or the process's file-size limit is exhausted."""


def save_adapter(
    state: Mapping[str, torch.Tensor],
    *,
    config: RunConfig,
    target_modules: tuple[str, ...],
    facts: Mapping[str, str | int | float],
) -> None:
    """Write the files that plain peft loads, and a model card with `facts`.

    All or nothing: each file appears in `output_dir` complete, the weights last.

    Raises: DiskFullError, OutputNotWritableError.
    """
    try:
        config.output_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=config.output_dir, prefix=".part-") as scratch:
            folder = Path(scratch)
            save_file(dict(state), folder / "adapter_model.safetensors", metadata={"format": "pt"})
            LoraConfig(
                base_model_name_or_path=config.base_model,
                r=config.lora_rank,
                lora_alpha=config.lora_alpha,
                lora_dropout=0.0,
                bias="none",
                task_type="CAUSAL_LM",
                target_modules=list(target_modules),
                inference_mode=True,
            ).save_pretrained(str(folder))
            (folder / "README.md").write_text(_model_card(config, facts), "utf-8")
            for name in reversed(ADAPTER_FILES):
                _flush(folder / name)
                os.replace(folder / name, config.output_dir / name)
            _flush(config.output_dir)
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise DiskFullError("no space left for the adapter") from error
        raise OutputNotWritableError(f"can't write the adapter: {error.strerror or error}") from error
    except Exception as error:
        # safetensors reports a full disk as its own error type, with the system's error number in its text.
        if any(f"os error {number})" in str(error) for number in _NO_SPACE):
            raise DiskFullError("no space left for the adapter") from error
        raise


def remove_partial(output_dir: Path) -> None:
    """Remove what an interrupted `save_adapter` left, if anything."""
    for scratch in output_dir.glob(".part-*"):
        shutil.rmtree(scratch, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _model_card(config: RunConfig, facts: Mapping[str, str | int | float]) -> str:
    lines = [
        "---",
        f"base_model: {config.base_model}",
        "library_name: peft",
        "pipeline_tag: text-generation",
        "tags: [lora]",
        "---",
        "",
        f"# LoRA adapter for {config.base_model}",
        "",
        "| | |",
        "|---|---|",
    ]
    settings: dict[str, str | int | float] = {
        "rank": config.lora_rank,
        "lora_alpha": config.lora_alpha,
        "epochs": config.n_epochs,
        "learning rate": config.learning_rate,
        "tokens a step": config.batch_tokens,
        "longest row (tokens)": config.max_length_tokens,
        "seed": config.seed,
    }
    lines += [f"| {name} | {value} |" for name, value in {**settings, **facts}.items()]
    lines += [
        "",
        "Load it with peft:",
        "",
        "    model = AutoModelForCausalLM.from_pretrained(BASE)",
        '    model = PeftModel.from_pretrained(model, "THIS FOLDER")',
        "",
    ]
    return "\n".join(lines)
