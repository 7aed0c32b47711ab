"""The result's folder: written beside its place, flushed, then renamed into it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from worker.finetune.config import RunConfig
from worker.finetune.errors import DiskFullError, OutputNotWritableError
from worker.finetune.faults import is_disk_full
from worker.finetune.trainee import Trainee

WEIGHTS = ".safetensors"


def save(
    trainee: Trainee,
    tokenizer: PreTrainedTokenizerBase,
    *,
    config: RunConfig,
    facts: Mapping[str, str | int | float],
    output_dir: Path,
) -> None:
    """Write what was trained as plain peft or transformers loads it, and a model card with `facts`; beside a
    whole model its tokenizer too.

    All or nothing: each file appears in `output_dir` complete, the weights last.

    Raises: DiskFullError, OutputNotWritableError.
    """
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output_dir, prefix=".part-") as scratch:
            folder = Path(scratch)
            trainee.write(folder, base_model=config.base_model)
            if config.method == "full":
                tokenizer.save_pretrained(scratch)
            (folder / "README.md").write_text(_model_card(config, facts), "utf-8")
            written = sorted(folder.iterdir(), key=lambda path: (path.suffix == WEIGHTS, path.name))
            for path in written:  # all before the first appears: a full disk is found out here
                _flush(path)
            for path in written:
                os.replace(path, output_dir / path.name)
            _flush(output_dir)
    except Exception as error:
        if is_disk_full(error):
            raise DiskFullError("no space was left for the result") from error
        if isinstance(error, OSError):
            raise OutputNotWritableError(error.strerror or type(error).__name__) from error
        raise


def remove_partial(output_dir: Path) -> None:
    """Remove what an interrupted `save` left, if anything."""
    for scratch in output_dir.glob(".part-*"):
        shutil.rmtree(scratch, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _model_card(config: RunConfig, facts: Mapping[str, str | int | float]) -> str:
    whole = config.method == "full"
    title = "Fine-tuned from" if whole else f"{_TITLES[config.method]} adapter for"
    settings: dict[str, str | int | float] = {"method": config.method}
    if config.method in ("lora", "dora"):
        settings |= {"rank": config.lora_rank, "lora_alpha": config.lora_alpha}
    settings |= {
        "epochs": config.n_epochs,
        "learning rate": config.learning_rate,
        "longest row (tokens)": config.max_length_tokens,
        "seed": config.seed,
    }
    loading = [
        "Load it with transformers:",
        "",
        '    model = AutoModelForCausalLM.from_pretrained("THIS FOLDER")',
    ]
    if not whole:
        loading = [
            "Load it with peft:",
            "",
            "    model = AutoModelForCausalLM.from_pretrained(BASE)",
            '    model = PeftModel.from_pretrained(model, "THIS FOLDER")',
        ]
    lines = [
        "---",
        f"base_model: {config.base_model}",
        f"library_name: {'transformers' if whole else 'peft'}",
        "pipeline_tag: text-generation",
        f"tags: [{config.method}]",
        "---",
        "",
        f"# {title} {config.base_model}",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in {**settings, **facts}.items()),
        "",
        *loading,
        "",
    ]
    return "\n".join(lines)


_TITLES = {"lora": "LoRA", "dora": "DoRA", "ia3": "IA3"}
