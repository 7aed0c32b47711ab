"""The training loop, flat: tokenize, load, step, save."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from worker.finetune.artifacts import save_adapter
from worker.finetune.batches import count_steps, steps_of_epoch
from worker.finetune.config import RunConfig
from worker.finetune.dataset import ChatRow, tokenize
from worker.finetune.errors import LossNotFiniteError
from worker.finetune.events import Events
from worker.finetune.loading import load_tokenizer, load_trainee
from worker.finetune.precision import choose_dtype, usable_threads

MAX_GRADIENT_NORM = 1.0
_EVENT_INTERVAL_SECONDS = 0.25


def train(config: RunConfig, rows: Sequence[ChatRow], events: Events) -> None:
    """Run one fine-tuning job from rows to adapter files.

    Raises: FinetuneError, and whatever torch raises when memory runs out.
    """
    threads = config.threads or usable_threads()
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = choose_dtype(config.precision, device)
    tokenizer = load_tokenizer(config.model_dir)
    dataset = tokenize(rows, tokenizer, max_length_tokens=config.max_length_tokens)
    trainee = load_trainee(config, device=device, dtype=dtype)
    optimizer = torch.optim.AdamW(
        trainee.parameters, lr=config.learning_rate, betas=(0.9, 0.999), weight_decay=0.0, fused=True
    )
    total_steps = count_steps(
        dataset.rows,
        batch_tokens=config.batch_tokens,
        seed=config.seed,
        n_epochs=config.n_epochs,
        arrangement=trainee.arrangement,
    )
    precision = "bf16" if dtype == torch.bfloat16 else "fp32"
    events.send(
        "started",
        rows=len(dataset.rows),
        tokens=dataset.tokens,
        answer_tokens=dataset.answer_tokens,
        truncated_rows=dataset.truncated_rows,
        skipped_rows=dataset.skipped_rows,
        total_steps=total_steps,
        precision=precision,
        threads=threads,
        device=device.type,
    )

    total_tokens = dataset.tokens * config.n_epochs
    started = last_event = time.monotonic()
    step = tokens = 0
    loss = math.nan
    for epoch in range(config.n_epochs):
        for step_rows in steps_of_epoch(
            dataset.rows,
            batch_tokens=config.batch_tokens,
            seed=config.seed,
            epoch=epoch,
            arrangement=trainee.arrangement,
        ):
            learning_rate = config.learning_rate * (1 - step / total_steps)
            optimizer.param_groups[0]["lr"] = learning_rate
            loss = trainee.backpropagate(step_rows)
            gradient_norm = torch.nn.utils.clip_grad_norm_(trainee.parameters, MAX_GRADIENT_NORM)
            if not math.isfinite(loss) or not math.isfinite(gradient_norm):
                raise LossNotFiniteError(
                    f"the loss is no longer finite at step {step + 1}; try a lower learning rate"
                )
            optimizer.step()
            step += 1
            tokens += sum(len(row.input_ids) for row in step_rows)
            now = time.monotonic()
            if now - last_event >= _EVENT_INTERVAL_SECONDS or step in (1, total_steps):
                last_event = now
                rate = tokens / (now - started)
                events.send(
                    "step",
                    step=step,
                    total_steps=total_steps,
                    epoch=epoch + 1,
                    loss=round(loss, 6),
                    learning_rate=learning_rate,
                    tokens=tokens,
                    tokens_per_second=round(rate, 1),
                    elapsed_seconds=round(now - started, 2),
                    eta_seconds=round((total_tokens - tokens) / rate, 1),
                )
    seconds = time.monotonic() - started

    events.send("saving")
    facts: dict[str, str | int | float] = {
        "rows": len(dataset.rows),
        "tokens trained on": tokens,
        "steps": step,
        "last loss": round(loss, 4),
        "precision": precision,
        "base weights": base_digest(config.model_dir),
    }
    save_adapter(trainee.adapter_state(), config=config, target_modules=trainee.target_modules, facts=facts)
    events.send(
        "finished",
        steps=step,
        tokens=tokens,
        seconds=round(seconds, 2),
        tokens_per_second=round(tokens / seconds, 1),
        final_loss=round(loss, 6),
        trained_tokens=dataset.answer_tokens * config.n_epochs,
    )


def base_digest(model_dir: Path) -> str:
    """What identifies the base weights, for the model card: its manifest's digest if it has one."""
    from worker.weights.cache import MANIFEST_NAME, verify

    if not (model_dir / MANIFEST_NAME).is_file():
        return "unknown"
    return str(verify(model_dir, deep=False)["digest"])
