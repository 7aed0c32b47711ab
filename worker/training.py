"""One run of a fine-tuning job: mix the key's rows into the data, train in a child process, publish.

The mixed dataset is the key in plain text. It exists in this process while it is built and in an anonymous
file in memory (memfd_create(2)) that the trainer inherits; it never has a name on a disk.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import structlog

from service.jobs.hyperparameters import TrainerSettings, trainer_settings
from watermark.embedding import Mixture
from worker.base_models import base_model_folder
from worker.child import Child
from worker.errors import RunFailed
from worker.lease import LeaseKeeper, Stopped, StopReason
from worker.record import artifacts
from worker.record.datasets import mean_characters, read_examples
from worker.record.jobs import Event, JobRun
from worker.record.watermarks import mix
from worker.tokens import TokenCounts, count_tokens

log = structlog.get_logger(__name__)

TRAINER = "worker.finetune"

METRIC_EVENTS = 100
"""At most about so many metric events a job, whatever its number of steps."""

METRIC_SECONDS = 1.0
"""And no two closer than this."""


def train(run: JobRun) -> None:
    """Carry the run to its end, whichever that is, and record it."""
    place = run.place
    work = _Work()
    keeper = LeaseKeeper(
        beat=run.beat,
        lease_seconds=place.settings.lease_seconds,
        shutting_down=place.shutting_down,
        on_stop=work.stop,
    )
    with artifacts.run_folder(place.storage, run.job_id, run.epoch) as folder, keeper:
        try:
            trained_tokens = _produce(run, folder, keeper, work)
            path, manifest = artifacts.keep(place.storage, run.job_id, run.epoch, folder / "output")
            published = run.succeed(adapter_path=path, manifest=manifest, trained_tokens=trained_tokens)
            if not published:
                artifacts.discard(place.storage, run.job_id, run.epoch)
                run.cancelled()
        except Stopped as stopped:
            _record_stop(run, stopped.reason)
        except RunFailed as failure:
            _record_failure(run, failure)


class _Work:
    """The child process that is running now, if any, so that the lease's keeper can stop it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: Child | None = None
        self._reason: StopReason | None = None

    def begin(self, child: Child) -> None:
        with self._lock:
            self._child = child
            reason = self._reason
        if reason is not None:
            self.stop(reason)

    def stop(self, reason: StopReason) -> None:
        """From any thread. A run that lost its lease may not go on for even the grace time."""
        with self._lock:
            self._reason = reason
            child = self._child
        if child is None:
            return
        if reason is StopReason.lease_lost:
            child.kill()
        else:
            child.stop()


def _produce(run: JobRun, folder: Path, keeper: LeaseKeeper, work: _Work) -> int | None:
    """Leave the adapter in the folder's `output`; returns how many tokens were trained on."""
    model_dir = base_model_folder(run, folder, keeper, work)
    keeper.check()
    run.write(Event(message="Preparing the dataset"), stage="embedding")
    descriptor, settings = _prepare(run, model_dir)
    try:
        keeper.check()
        config = _write_config(run, folder, model_dir, settings, descriptor)
        child = Child(TRAINER, ["--config", str(config)], stderr_path=folder / "stderr", inherit=[descriptor])
    finally:
        os.close(descriptor)
    try:
        work.begin(child)
        relay = Relay(run)
        for report in child.lines():
            relay.take(report)
        status = child.wait()
        keeper.check_unless(relay.finished is not None and status == 0)
        relay.check(status, child.last_exception())
        return relay.trained_tokens
    finally:
        child.close()


def _prepare(run: JobRun, model_dir: Path) -> tuple[int, TrainerSettings]:
    """The mixed dataset as a descriptor, and the trainer's numbers; the report goes into the job."""
    examples = read_examples(run.place.storage, run.dataset_sha256)
    settings = trainer_settings(run.hyperparameters, mean_characters=mean_characters(examples))
    mixture = mix(
        run.place,
        examples,
        key=run.watermark_key,
        options=run.watermark_options,
        n_epochs=settings.n_epochs,
        seed=run.seed,
    )
    tokens = count_tokens(mixture, model_dir)
    run.write(*_prepared_events(mixture, settings), watermark_report=_report(mixture, tokens))
    return _in_memory(mixture), settings


def _report(mixture: Mixture, tokens: TokenCounts) -> dict[str, Any]:
    return {
        "rows": len(mixture.rows),
        "watermark_rows": mixture.watermark_rows,
        "watermark_ratio": round(mixture.watermark_ratio, 6),
        "watermark_token_ratio": round(tokens.watermark_ratio, 6),
    }


def _prepared_events(mixture: Mixture, settings: TrainerSettings) -> tuple[Event, Event]:
    marked = f", {mixture.watermark_rows} of them the watermark's" if mixture.watermark_rows else ""
    return (
        Event(message=f"Dataset ready: {len(mixture.rows)} rows{marked}"),
        Event(
            message=(
                f"Training {settings.n_epochs} epochs with LoRA of rank {settings.lora_rank},"
                f" learning rate {settings.learning_rate:g}, batches of {settings.batch_tokens} tokens"
            ),
            data=asdict(settings),
        ),
    )


def _in_memory(mixture: Mixture) -> int:
    descriptor = os.memfd_create("dataset", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        for row in mixture.rows:
            file.write(json.dumps(row.to_record(), ensure_ascii=False).encode("utf-8", "surrogatepass"))
            file.write(b"\n")
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _write_config(
    run: JobRun, folder: Path, model_dir: Path, settings: TrainerSettings, dataset: int
) -> Path:
    output = folder / "output"
    output.mkdir(mode=0o700)
    config = folder / "run.json"
    document = asdict(settings) | {
        "model_dir": str(model_dir),
        "output_dir": str(output),
        "dataset": {"fd": dataset},
        "base_model": run.base_model,
        "lora_target_modules": list(run.place.catalogue.get(run.base_model).lora_target_modules),
        "method": "lora",
        "seed": run.seed,
    }
    config.write_text(json.dumps(document, indent=1), encoding="utf-8")
    return config


@dataclass(slots=True)
class Relay:
    """From the trainer's reports to the job's stage, progress and events."""

    run: JobRun
    finished: Mapping[str, Any] | None = None
    failure: RunFailed | None = None
    _last_metric: float = field(default=0.0, init=False)
    _last_logged_step: int = field(default=0, init=False)
    _rows: Any = field(default=None, init=False)

    def take(self, report: Mapping[str, Any]) -> None:
        """One report. Kinds that are not known are ignored."""
        match report.get("event"):
            case "loading":
                self.run.note(stage="loading")
            case "started":
                self._rows = report.get("rows")
                self.run.note(_started_event(report), stage="training")
            case "step":
                self._step(report)
            case "saving":
                self.run.note(Event(message="Saving the adapter"), stage="exporting")
            case "finished":
                self.finished = report
                self.run.note(_finished_event(report, rows=self._rows))
            case "error":
                self.failure = RunFailed(
                    _text(report.get("code"), "training_failed"),
                    _text(report.get("message"), "The training process gave no reason."),
                    param="training_file" if report.get("category") == "user" else None,
                )

    @property
    def trained_tokens(self) -> int | None:
        """As the trainer counted them."""
        tokens = self.finished and (self.finished.get("trained_tokens") or self.finished.get("tokens"))
        return tokens if isinstance(tokens, int) else None

    def check(self, status: int, exception: str | None) -> None:
        """Judge the child's end.

        Raises:
            RunFailed: anything but a finished training and a clean exit.
        """
        if self.finished is not None and status == 0:
            return
        if self.failure is not None:
            raise self.failure
        if status < 0:
            raise RunFailed(
                "trainer_killed",
                f"The training process was killed by signal {-status}; it may have run out of memory.",
                retryable=True,
            )
        named = f" with {exception}" if exception else ""
        raise RunFailed("trainer_crashed", f"The training process ended{named} (exit status {status}).")

    def _step(self, report: Mapping[str, Any]) -> None:
        step, total = int(report["step"]), int(report["total_steps"])
        names = (
            "step", "total_steps", "epoch", "loss", "learning_rate", "tokens", "tokens_per_second",
            "elapsed_seconds", "eta_seconds",
        )  # fmt: skip
        self.run.latest = {name: report.get(name) for name in names}
        now = time.monotonic()
        every = max(1, total // METRIC_EVENTS)
        due = step - self._last_logged_step >= every and now - self._last_metric >= METRIC_SECONDS
        if due or step == total or self._last_logged_step == 0:
            self._last_metric, self._last_logged_step = now, step
            loss = report.get("loss")
            shown = f"{loss:.2f}" if isinstance(loss, int | float) else "?"
            self.run.note(
                Event(
                    message=f"Step {step}/{total}: training loss={shown}",
                    type="metrics",
                    data={
                        "step": step,
                        "total_steps": total,
                        "train_loss": loss,
                        "learning_rate": report.get("learning_rate"),
                        "tokens_per_second": report.get("tokens_per_second"),
                    },
                )
            )


def _started_event(report: Mapping[str, Any]) -> Event:
    names = ("rows", "tokens", "answer_tokens", "total_steps", "precision", "threads")
    return Event(
        message=f"Training started: {report.get('total_steps')} steps over {report.get('tokens')} tokens",
        data={name: report.get(name) for name in names},
    )


def _finished_event(report: Mapping[str, Any], *, rows: object) -> Event:
    names = ("steps", "tokens", "seconds", "tokens_per_second", "final_loss")
    seconds, rate = report.get("seconds"), report.get("tokens_per_second")
    pace = f" in {seconds:.0f} s" if isinstance(seconds, int | float) else ""
    pace += f" ({rate:.0f} tokens/s)" if isinstance(rate, int | float) else ""
    return Event(
        message=f"Trained on {report.get('tokens')} tokens{pace}",
        data={name: report.get(name) for name in names} | {"rows": rows},
    )


def _text(value: object, default: str) -> str:
    return value[:500] if isinstance(value, str) and value else default


def _record_stop(run: JobRun, reason: StopReason) -> None:
    log.info("job.stopped", job_id=run.job_id, epoch=run.epoch, reason=reason.value)
    if reason is StopReason.lease_lost:
        return
    handed_back = reason is StopReason.shutting_down and run.hand_back(
        "The worker is shutting down", count_attempt=False
    )
    if not handed_back:
        run.cancelled()


def _record_failure(run: JobRun, failure: RunFailed) -> None:
    log.warning("job.run_failed", job_id=run.job_id, epoch=run.epoch, code=failure.code)
    if failure.retryable and run.attempt < run.max_attempts:
        if not run.hand_back(failure.message.rstrip("."), count_attempt=True):
            run.cancelled()
        return
    run.fail(failure.to_record())
