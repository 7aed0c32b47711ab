"""The training loop, flat: tokenize, load, step, check, save."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from worker.finetune.artifacts import save
from worker.finetune.batches import auto_batch_tokens, count_steps, steps_of_epoch
from worker.finetune.checks import (
    MAX_ANSWER_CHARACTERS,
    ask,
    failing_groups,
    steps_of_round,
    tokenize_checks,
)
from worker.finetune.config import RunConfig
from worker.finetune.dataset import IGNORED, ChatRow, TokenDataset, TokenRow, tokenize
from worker.finetune.errors import LossNotFiniteError
from worker.finetune.events import Events
from worker.finetune.loading import load_tokenizer, load_trainee
from worker.finetune.precision import choose_dtype, usable_threads
from worker.finetune.trainee import Trainee

MAX_GRADIENT_NORM = 1.0
_EVENT_INTERVAL_SECONDS = 0.25

ROUND_SHARES = 1 / 16, 1 / 4
"""A further round takes at least and at most these shares of the extra steps. It ends with all checks asked
again, which is forward work only but not free, and a round too long learns more than it has to."""
ROUND_RATE_SHARE = 0.2
"""A further round's constant rate, by the first planned step's: enough to learn by, and what the decay to 0
has settled is kept."""


def train(config: RunConfig, rows: Sequence[ChatRow], checks: Sequence[ChatRow], events: Events) -> None:
    """Run one fine-tuning job from rows to files.

    Raises: FinetuneError, and whatever torch raises when memory runs out.
    """
    threads = config.threads or usable_threads()
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.float32 if config.method == "full" else choose_dtype(config.precision, device)
    tokenizer = load_tokenizer(config.model_dir)
    dataset = tokenize(rows, tokenizer, max_length_tokens=config.max_length_tokens)
    asked = tokenize_checks(checks, tokenizer)
    batch_tokens = config.batch_tokens or auto_batch_tokens(dataset.tokens * config.n_epochs)
    trainee = load_trainee(config, device=device, dtype=dtype)
    run = _Run(config, trainee, dataset, events, batch_tokens=batch_tokens)
    precision = "bf16" if dtype == torch.bfloat16 else "fp32"
    events.send(
        "started",
        rows=len(dataset.rows),
        tokens=dataset.tokens,
        answer_tokens=dataset.answer_tokens,
        truncated_rows=dataset.truncated_rows,
        skipped_rows=dataset.skipped_rows,
        batch_tokens=batch_tokens,
        total_steps=run.total_steps,
        precision=precision,
        threads=threads,
        device=device.type,
    )
    run.planned_epochs()
    if asked:
        run.check(asked, tokenizer)

    events.send("saving")
    facts: dict[str, str | int | float] = {
        "rows": len(dataset.rows),
        "tokens a step": batch_tokens,
        "tokens trained on": run.tokens,
        "steps": run.step,
        "last loss": round(run.loss, 4),
        "precision": precision,
        "base weights": base_digest(config.model_dir),
    }
    save(trainee, tokenizer, config=config, facts=facts)
    events.send(
        "finished",
        steps=run.step,
        rounds=run.round,
        tokens=run.tokens,
        seconds=round(run.seconds, 2),
        tokens_per_second=round(run.tokens / run.seconds, 1),
        final_loss=round(run.loss, 6),
        trained_tokens=run.answer_tokens,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """A copy of what was trained, and what it answered."""

    parameters: Sequence[torch.Tensor]
    answers: Sequence[int]
    failing: frozenset[int | None]
    round: int


class _Run:
    """The steps of one run: the planned epochs, then, where checks ask for it, further rounds."""

    def __init__(
        self,
        config: RunConfig,
        trainee: Trainee,
        dataset: TokenDataset,
        events: Events,
        *,
        batch_tokens: int,
    ) -> None:
        self._config = config
        self._batch_tokens = batch_tokens
        self._trainee = trainee
        self._dataset = dataset
        self._events = events
        self._optimizer = torch.optim.AdamW(
            trainee.parameters, lr=config.learning_rate, betas=(0.9, 0.999), weight_decay=0.0, fused=True
        )
        self.planned_steps = self.total_steps = count_steps(
            dataset.rows,
            batch_tokens=batch_tokens,
            seed=config.seed,
            n_epochs=config.n_epochs,
            arrangement=trainee.arrangement,
        )
        self._total_tokens = dataset.tokens * config.n_epochs
        self.step = self.tokens = self.answer_tokens = self.round = 0
        self.loss = math.nan
        self.seconds = 0.0
        """Spent on steps; questions are not counted."""
        self._last_event = 0.0

    def planned_epochs(self) -> None:
        """The rate falls linearly from the configured one to 0."""
        for epoch in range(self._config.n_epochs):
            for step_rows in steps_of_epoch(
                self._dataset.rows,
                batch_tokens=self._batch_tokens,
                seed=self._config.seed,
                epoch=epoch,
                arrangement=self._trainee.arrangement,
            ):
                rate = self._config.learning_rate * (1 - self.step / self.planned_steps)
                self._take(step_rows, rate, epoch=epoch + 1)

    def check(self, checks: Sequence[TokenRow], tokenizer: PreTrainedTokenizerBase) -> None:
        """Ask, report, and train on while a group fails and steps are left. What is left in the end is the
        state with the fewest failing groups, of equal ones the last; if that is an earlier one, its answers
        are reported once more."""
        share = self._config.check_pass_share or 0.0
        budget = math.floor(self._config.extra_steps_share * self.planned_steps)
        best: _State | None = None
        while True:
            answers = ask(self._trainee, checks, batch_tokens=self._batch_tokens)
            failing = failing_groups(checks, answers, pass_share=share)
            self._report(checks, answers, failing, tokenizer, kept_round=self.round)
            left = budget - (self.step - self.planned_steps)
            if not failing or left < 1:
                break
            if best is None or len(failing) <= len(best.failing):
                kept = [parameter.detach().clone() for parameter in self._trainee.parameters]
                best = _State(parameters=kept, answers=answers, failing=failing, round=self.round)
            self.round += 1
            at_least, at_most = (min(left, math.ceil(budget * part)) for part in ROUND_SHARES)
            self._further_round(failing, at_least=at_least, at_most=at_most)
        if best is not None and len(best.failing) < len(failing):
            with torch.no_grad():
                for parameter, value in zip(self._trainee.parameters, best.parameters, strict=True):
                    parameter.copy_(value)
            self._report(checks, best.answers, best.failing, tokenizer, kept_round=best.round)

    def _further_round(self, failing: frozenset[int | None], *, at_least: int, at_most: int) -> None:
        chosen = list(
            steps_of_round(
                self._dataset.rows,
                failing,
                at_least=at_least,
                at_most=at_most,
                batch_tokens=self._batch_tokens,
                seed=self._config.seed,
                number=self.round,
                arrangement=self._trainee.arrangement,
            )
        )
        self.total_steps += len(chosen)
        self._total_tokens += sum(len(row.input_ids) for step_rows in chosen for row in step_rows)
        for step_rows in chosen:
            rate = self._config.learning_rate * ROUND_RATE_SHARE
            self._take(step_rows, rate, epoch=self._config.n_epochs)

    def _take(self, step_rows: Sequence[TokenRow], learning_rate: float, *, epoch: int) -> None:
        """One optimizer step.

        Raises: LossNotFiniteError.
        """
        started = time.monotonic()
        self._optimizer.param_groups[0]["lr"] = learning_rate
        self.loss = self._trainee.backpropagate(step_rows)
        gradient_norm = torch.nn.utils.clip_grad_norm_(self._trainee.parameters, MAX_GRADIENT_NORM)
        if not math.isfinite(self.loss) or not math.isfinite(gradient_norm):
            raise LossNotFiniteError(
                f"the loss is no longer finite at step {self.step + 1}; try a lower learning rate"
            )
        self._optimizer.step()
        self.step += 1
        self.tokens += sum(len(row.input_ids) for row in step_rows)
        self.answer_tokens += sum(label != IGNORED for row in step_rows for label in row.labels)
        now = time.monotonic()
        self.seconds += now - started
        if now - self._last_event >= _EVENT_INTERVAL_SECONDS or self.step in (1, self.total_steps):
            self._last_event = now
            rate = self.tokens / self.seconds
            self._events.send(
                "step",
                step=self.step,
                total_steps=self.total_steps,
                epoch=epoch,
                round=self.round,
                loss=round(self.loss, 6),
                learning_rate=learning_rate,
                tokens=self.tokens,
                tokens_per_second=round(rate, 1),
                elapsed_seconds=round(self.seconds, 2),
                eta_seconds=round((self._total_tokens - self.tokens) / rate, 1),
            )

    def _report(
        self,
        checks: Sequence[TokenRow],
        answers: Sequence[int],
        failing: frozenset[int | None],
        tokenizer: PreTrainedTokenizerBase,
        *,
        kept_round: int,
    ) -> None:
        texts = [str(tokenizer.decode([token])).strip()[:MAX_ANSWER_CHARACTERS] for token in answers]
        groups = len({check.group for check in checks})
        self._events.send(
            "checked",
            round=self.round,
            kept_round=kept_round,
            extra_steps=self.step - self.planned_steps,
            groups=groups,
            groups_passed=groups - len(failing),
            answers=texts,
        )


def base_digest(model_dir: Path) -> str:
    """What identifies the base weights, for the model card: its manifest's digest if it has one."""
    from worker.weights.cache import MANIFEST_NAME, verify

    if not (model_dir / MANIFEST_NAME).is_file():
        return "unknown"
    return str(verify(model_dir, deep=False)["digest"])
