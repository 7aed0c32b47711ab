"""TRL's SFTTrainer on given token rows: a child of `training_speed.py`, run with .venv-bench on its path.

python benchmarks/trl_baseline.py settings.json rows.json    ->  one JSON line on stdout
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    rows = json.loads(Path(sys.argv[2]).read_text("utf-8"))
    stdout = os.dup(1)
    os.dup2(2, 1)  # trainers print to stdout
    torch.set_num_threads(settings["threads"])
    with tempfile.TemporaryDirectory() as folder:
        seconds, loss = run(settings, rows, folder)
    os.write(stdout, (json.dumps({"seconds": seconds, "mean_loss": loss}) + "\n").encode())


def run(settings: dict[str, Any], rows: list[dict[str, list[int]]], folder: str) -> tuple[float, float]:
    """Seconds inside `trainer.train()` (loading and preparing are not counted) and the mean training loss."""
    import pyarrow  # type: ignore[import-not-found, import-untyped, unused-ignore]
    from datasets import Dataset  # type: ignore[import-not-found, unused-ignore]
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found, unused-ignore]

    dtype = torch.bfloat16 if settings["weights"] == "bf16" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(settings["model_dir"], dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(settings["model_dir"])
    config = SFTConfig(
        output_dir=folder,
        num_train_epochs=1,
        learning_rate=1e-3,
        lr_scheduler_type="linear",
        max_length=512,
        logging_steps=1000,
        save_strategy="no",
        report_to="none",
        dataloader_pin_memory=False,
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),  # without it bf16 autocast is refused
        seed=0,
        dataset_kwargs={"skip_prepare_dataset": True},  # rows come with labels and within max_length
        **settings["options"],
    )
    adapter = LoraConfig(
        r=16,
        lora_alpha=32,
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    )
    trainer = SFTTrainer(
        model=model,
        args=config,
        # With a fingerprint given, none is computed: dill can not pickle this pyarrow's types.
        train_dataset=Dataset(pyarrow.Table.from_pylist(rows), fingerprint="rows"),
        processing_class=tokenizer,
        peft_config=adapter,
    )
    start = time.perf_counter()
    result = trainer.train()
    return time.perf_counter() - start, float(result.training_loss)


if __name__ == "__main__":
    main()
