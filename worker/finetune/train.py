"""The training loop, flat: tokenize, load, step, check, save; and to go on where an earlier process was."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from worker.finetune import checkpoints as checkpointing
from worker.finetune.artifacts import save
from worker.finetune.batches import auto_batch_tokens, count_steps, steps_of_epoch
from worker.finetune.checkpoints import (
    CheckpointNotWritten,
    CheckpointRefused,
    Checkpoints,
    Position,
    Snapshot,
)
from worker.finetune.checks import (
    MAX_ANSWER_CHARACTERS,
    ask,
    failing_groups,
    steps_of_round,
    tokenize_checks,
)
from worker.finetune.config import Precision, RunConfig
from worker.finetune.dataset import IGNORED, ChatRow, TokenDataset, TokenRow, tokenize
from worker.finetune.device import choose_device, hold
from worker.finetune.errors import DiskFullError, LossNotFiniteError, OutputNotWritableError
from worker.finetune.events import Events
from worker.finetune.loading import load_tokenizer, load_trainee
from worker.finetune.precision import choose_dtype, usable_threads
from worker.finetune.suspension import Suspended, Suspension
from worker.finetune.trainee import Trainee

MAX_GRADIENT_NORM = 1.0
_EVENT_INTERVAL_SECONDS = 0.25

ROUND_SHARES = 1 / 16, 1 / 4
"""A further round takes at least and at most these shares of the extra steps. It ends with all checks asked
again, which is forward work only but not free, and a round too long learns more than it has to."""
ROUND_RATE_SHARE = 0.2
"""A further round's constant rate, by the first planned step's: enough to learn by, and what the decay to 0
has settled is kept."""


UNKNOWN = "unknown"

Facts = Mapping[str, str | int | float]
"""What a model card says of the training."""


def train(
    config: RunConfig,
    rows: Sequence[ChatRow],
    checks: Sequence[ChatRow],
    events: Events,
    suspension: Suspension | None = None,
) -> None:
    """Run one fine-tuning job from rows to files.

    Raises: FinetuneError, Suspended, and whatever torch raises when memory runs out.
    """
    threads = config.threads or usable_threads()
    torch.set_num_threads(threads)
    device = choose_device()
    if config.device_lock_dir is not None:
        hold(
            config.device_lock_dir,
            device,
            slots=config.device_slots,
            waiting=lambda: events.send("waiting_for_device"),
        )
    if config.method == "full":
        dtype = torch.float32
    else:
        before = checkpointing.precision_of(config.resume_from)
        dtype = choose_dtype(config.precision, device, before=before)
    tokenizer = load_tokenizer(config.model_dir)
    dataset = tokenize(rows, tokenizer, max_length_tokens=config.max_length_tokens)
    asked = tokenize_checks(checks, tokenizer)
    batch_tokens = config.batch_tokens or auto_batch_tokens(dataset.tokens * config.n_epochs)
    trainee = load_trainee(config, device=device, dtype=dtype)
    run = _Run(config, trainee, dataset, events, batch_tokens=batch_tokens)
    precision: Precision = "bf16" if dtype == torch.bfloat16 else "fp32"
    base = base_digest(config.model_dir)
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

    def write_model(folder: Path) -> None:
        facts: Facts = {
            "rows": len(dataset.rows),
            "tokens a step": batch_tokens,
            "tokens trained on": run.tokens,
            "steps": run.step,
            "last loss": round(run.loss, 4),
            "precision": precision,
            "base weights": base,
        }
        save(trainee, tokenizer, config=config, facts=facts, output_dir=folder)

    if config.checkpoint_dir is not None or config.resume_from:
        fingerprint = checkpointing.fingerprint(
            config,
            batch_tokens=batch_tokens,
            precision=precision,
            base_digest=base if base != UNKNOWN else _sizes_and_times(config.model_dir),
            rows=dataset.rows,
            checks=asked,
        )
        run.resume(fingerprint)
        run.keep_checkpoints(fingerprint, precision, write_model, suspension or Suspension())
    run.planned_epochs()
    if asked:
        run.check(asked, tokenizer)

    events.send("saving")
    write_model(config.output_dir)
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
    """A copy of what was trained, and which groups it failed."""

    parameters: Sequence[torch.Tensor]
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
        self._round_began = 0
        self._failing: frozenset[int | None] = frozenset()
        self._best: _State | None = None
        self._checkpoints: Checkpoints | None = None
        self._write_model: Callable[[Path], None] | None = None
        self._suspension = Suspension()
        self._last_event = 0.0

    def resume(self, fingerprint: str) -> None:
        """Go on from the first checkpoint that can be gone on from, and tell of those that can't."""
        for path in checkpointing.candidates(self._config.resume_from):
            try:
                snapshot = checkpointing.read(path, fingerprint, self._trainee.parameters)
            except CheckpointRefused as refused:
                self._events.send("checkpoint_refused", file=path.name, reason=refused.reason)
                continue
            self._restore(snapshot)
            self._events.send("resumed", step=self.step, total_steps=self.total_steps, file=path.name)
            return

    def keep_checkpoints(
        self,
        fingerprint: str,
        precision: Precision,
        write_model: Callable[[Path], None],
        suspension: Suspension,
    ) -> None:
        """From now on, where the run's config names a folder for them."""
        if self._config.checkpoint_dir is None:
            return
        try:
            self._checkpoints = Checkpoints(self._config, fingerprint=fingerprint, precision=precision)
        except CheckpointNotWritten as error:
            self._events.send("checkpoint_not_written", step=self.step, reason=error.reason)
            return
        self._write_model = write_model
        self._suspension = suspension
        suspension.armed = True

    def planned_epochs(self) -> None:
        """The rate falls linearly from the configured one to 0. A resumed run passes over what is done."""
        done, passed = self.step, 0
        for epoch in range(1, self._config.n_epochs + 1):
            for step_rows in self._steps_of_epoch(epoch - 1):
                passed += 1
                if passed <= done:
                    continue
                rate = self._config.learning_rate * (1 - self.step / self.planned_steps)
                self._take(step_rows, rate, epoch=epoch)
            if passed >= done and epoch < self._config.n_epochs:
                self._end_epoch(epoch)

    def check(self, checks: Sequence[TokenRow], tokenizer: PreTrainedTokenizerBase) -> None:
        """Ask, report, and train on while a group fails and steps are left. What is left in the end is the
        state with the fewest failing groups, of equal ones the last; if that is an earlier one, its answers
        are reported once more."""
        share = self._config.check_pass_share or 0.0
        inquire = partial(ask, self._trainee, checks, batch_tokens=self._batch_tokens)
        if self.round:  # a resumed run was in the middle of one
            self._train_round()
        while True:
            answers = inquire()
            failing = failing_groups(checks, answers, pass_share=share)
            self._report(checks, answers, failing, tokenizer, kept_round=self.round)
            if not failing or self._extra_steps_left(self.step) < 1:
                break
            if self._best is None or len(failing) <= len(self._best.failing):
                kept = [parameter.detach().clone() for parameter in self._trainee.parameters]
                self._best = _State(parameters=kept, failing=failing, round=self.round)
            self._begin_round(failing)
            self._train_round()
        best = self._best
        if best is not None and len(best.failing) < len(failing):
            self._set_parameters(best.parameters)
            self._report(checks, inquire(), best.failing, tokenizer, kept_round=best.round)

    def _extra_steps_left(self, step: int) -> int:
        return math.floor(self._config.extra_steps_share * self.planned_steps) - (step - self.planned_steps)

    def _begin_round(self, failing: frozenset[int | None]) -> None:
        self.round += 1
        self._round_began, self._failing = self.step, failing
        chosen = self._steps_of_round()
        self.total_steps += len(chosen)
        self._total_tokens += sum(len(row.input_ids) for step_rows in chosen for row in step_rows)

    def _train_round(self) -> None:
        """What is left of the present one."""
        for step_rows in self._steps_of_round()[self.step - self._round_began :]:
            rate = self._config.learning_rate * ROUND_RATE_SHARE
            self._take(step_rows, rate, epoch=self._config.n_epochs)

    def _steps_of_round(self) -> list[tuple[TokenRow, ...]]:
        left = self._extra_steps_left(self._round_began)
        budget = self._extra_steps_left(self.planned_steps)
        at_least, at_most = (min(left, math.ceil(budget * part)) for part in ROUND_SHARES)
        return list(
            steps_of_round(
                self._dataset.rows,
                self._failing,
                at_least=at_least,
                at_most=at_most,
                batch_tokens=self._batch_tokens,
                seed=self._config.seed,
                number=self.round,
                arrangement=self._trainee.arrangement,
            )
        )

    def _steps_of_epoch(self, epoch: int) -> Iterator[tuple[TokenRow, ...]]:
        return steps_of_epoch(
            self._dataset.rows,
            batch_tokens=self._batch_tokens,
            seed=self._config.seed,
            epoch=epoch,
            arrangement=self._trainee.arrangement,
        )

    def _set_parameters(self, values: Sequence[torch.Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(self._trainee.parameters, values, strict=True):
                parameter.copy_(value)

    def _snapshot(self) -> Snapshot:
        best = self._best
        position = Position(
            step=self.step,
            total_steps=self.total_steps,
            tokens=self.tokens,
            total_tokens=self._total_tokens,
            answer_tokens=self.answer_tokens,
            seconds=self.seconds,
            loss=self.loss,
            round=self.round,
            round_began=self._round_began,
            failing=_in_order(self._failing),
            best_round=best.round if best else None,
            best_failing=_in_order(best.failing) if best else (),
        )
        return Snapshot(
            position=position,
            parameters=self._trainee.parameters,
            optimizer=self._optimizer.state_dict()["state"],
            best=best.parameters if best else (),
        )

    def _restore(self, snapshot: Snapshot) -> None:
        was = snapshot.position
        self._set_parameters(snapshot.parameters)
        self._optimizer.load_state_dict(
            {**self._optimizer.state_dict(), "state": {i: dict(s) for i, s in snapshot.optimizer.items()}}
        )
        self.step, self.total_steps = was.step, was.total_steps
        self.tokens, self._total_tokens, self.answer_tokens = was.tokens, was.total_tokens, was.answer_tokens
        self.seconds, self.loss = was.seconds, was.loss
        self.round, self._round_began = was.round, was.round_began
        self._failing = frozenset(was.failing)
        if was.best_round is not None:
            device = self._trainee.parameters[0].device
            self._best = _State(
                parameters=[one.to(device) for one in snapshot.best],
                failing=frozenset(was.best_failing),
                round=was.best_round,
            )

    def _end_epoch(self, epoch: int) -> None:
        """Leave the model as it is, where checkpoints are kept. At the last one's end it is the result."""
        if self._write_model is None or self._config.checkpoint_dir is None:
            return
        folder = self._config.checkpoint_dir / f"epoch-{epoch}"
        try:
            self._write_model(folder)
        except (DiskFullError, OutputNotWritableError) as error:
            self._events.send("checkpoint_not_written", step=self.step, reason=error.code)
        else:
            self._events.send("epoch_saved", epoch=epoch, step=self.step, loss=self.loss, folder=folder.name)

    def _keep_checkpoint(self) -> None:
        """If it is time for one, or the run was asked to end with one.

        Raises: Suspended.
        """
        if self._checkpoints is None:
            return
        suspended = self._suspension.requested
        if not suspended and not self._checkpoints.due(self.step):
            return
        try:
            written = self._checkpoints.write(self._snapshot())
        except CheckpointNotWritten as error:
            self._events.send("checkpoint_not_written", step=self.step, reason=error.reason)
        else:
            self._events.send(
                "checkpoint",
                step=self.step,
                file=written.name,
                sha256=written.sha256,
                bytes=written.size_bytes,
                seconds=round(written.seconds, 4),
            )
        if suspended:
            raise Suspended

    def _take(self, step_rows: Sequence[TokenRow], learning_rate: float, *, epoch: int) -> None:
        """One optimizer step.

        Raises: LossNotFiniteError.
        """
        started = time.monotonic()
        self._optimizer.param_groups[0]["lr"] = learning_rate
        self.loss = self._trainee.backpropagate(step_rows)
        gradient_norm = torch.nn.utils.clip_grad_norm_(self._trainee.parameters, MAX_GRADIENT_NORM)
        if not math.isfinite(self.loss) or not math.isfinite(gradient_norm):
            raise LossNotFiniteError(f"at step {self.step + 1}")
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
        self._keep_checkpoint()

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


def _in_order(groups: frozenset[int | None]) -> tuple[int | None, ...]:
    """The same for equal sets, so that equal runs leave equal checkpoints."""
    return tuple(sorted(groups, key=lambda group: -1 if group is None else group))


def _sizes_and_times(folder: Path) -> str:
    """What tells weights apart that have no manifest, without reading them."""
    found = ((path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file())
    return " ".join(f"{name}:{status.st_size}:{status.st_mtime_ns}" for name, status in found)


def base_digest(model_dir: Path) -> str:
    """What identifies the base weights, for the model card: its manifest's digest if it has one."""
    from worker.weights.cache import MANIFEST_NAME, verify

    if not (model_dir / MANIFEST_NAME).is_file():
        return UNKNOWN
    return str(verify(model_dir, deep=False)["digest"])
