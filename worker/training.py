"""One run of a fine-tuning job: mix the key's rows into the data, train in a child process, publish.

The mixed dataset is the key in plain text. It exists in this process while it is built and in an anonymous
file in memory (memfd_create(2)) that the trainer inherits; it never has a name on a disk.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import structlog

from service.jobs import failures
from service.jobs.hyperparameters import TrainerSettings, trainer_settings
from watermark.embedding import Mixture
from worker.base_models import base_model_files
from worker.child import Child
from worker.errors import RunFailed
from worker.lease import LeaseKeeper, Stopped, StopReason
from worker.record import artifacts, checkpoints
from worker.record.datasets import mean_characters, read_examples
from worker.record.jobs import Event, JobRun
from worker.record.watermarks import mix
from worker.relay import Relay
from worker.selfcheck import SelfCheck
from worker.tokens import TokenCounts, count_tokens

log = structlog.get_logger(__name__)

TRAINER = "worker.finetune"

DEVICES_FOLDER = "devices"
"""In storage: the locks of devices. A device's name is its own, so several machines may share the folder."""
MIXED_BY_OWNER = (
    "The owner holds the watermark's key and has mixed its rows into the file: nothing was added, and the "
    "marks are not checked here. Check the model with: doublei verify --key FILE"
)


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
            target = place.storage.adapter_dir(run.job_id, run.epoch)
            path, manifest = artifacts.keep(place.storage, target, folder / "output")
            if run.succeed(adapter_path=path, manifest=manifest, trained_tokens=trained_tokens):
                checkpoints.clear(run, states=True)
            else:
                artifacts.discard(place.storage, run.job_id, run.epoch)
                _cancel(run)
        except Stopped as stopped:
            _record_stop(run, stopped.reason)
        except RunFailed as failure:
            record_failure(run, failure)


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
        match reason:
            case StopReason.lease_lost:
                child.kill()
            case StopReason.cancelled:
                child.stop()
            case StopReason.paused | StopReason.shutting_down:
                child.suspend()


def _produce(run: JobRun, folder: Path, keeper: LeaseKeeper, work: _Work) -> int | None:
    """Leave the adapter in the folder's `output`; returns how many tokens were trained on."""
    base = base_model_files(run, folder, keeper, work)
    keeper.check()
    run.write(Event(message="Preparing the dataset"), stage="embedding")
    prepared = _prepare(run, base.path)
    try:
        keeper.check()
        config = _write_config(run, folder, base.path, prepared)
        run.enter_training(base_model_digest=base.digest, settings=asdict(prepared.settings))
        arguments = ["--config", str(config)]
        child = Child(TRAINER, arguments, stderr_path=folder / "stderr", inherit=prepared.descriptors)
    finally:
        for descriptor in prepared.descriptors:
            os.close(descriptor)
    try:
        work.begin(child)
        relay = Relay(run, prepared.self_check)
        for report in child.lines():
            relay.take(report)
        status = child.wait()
        keeper.check_unless(relay.finished is not None and status == 0)
        relay.check(status, child.last_exception(), out_of_memory=child.out_of_memory)
    finally:
        child.close()
    if prepared.self_check is not None:
        checked = prepared.report | {"self_check": prepared.self_check.to_record()}
        run.write(watermark_report=checked, progress=run.latest)
        prepared.self_check.require_passed()
    return relay.trained_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """What the trainer gets."""

    dataset: int
    checks: int | None
    settings: TrainerSettings
    report: dict[str, Any]
    self_check: SelfCheck | None

    @property
    def descriptors(self) -> list[int]:
        """Open here, and inherited by the trainer."""
        return [self.dataset] if self.checks is None else [self.dataset, self.checks]


def _prepare(run: JobRun, model_dir: Path) -> _Prepared:
    """The mixed dataset and the checks as descriptors, and the trainer's numbers; the report goes into the
    job."""
    examples = read_examples(run.place.storage, run.dataset_sha256)
    settings = trainer_settings(run.hyperparameters, mean_characters=mean_characters(examples))
    mixture, families = mix(
        run.place,
        examples,
        key=run.watermark_key,
        options=run.watermark_options,
        n_epochs=settings.n_epochs,
        seed=run.seed,
    )
    self_check = SelfCheck.of(families, seed=run.seed)
    report = _report(mixture, count_tokens(mixture, model_dir), mixed_by_owner=run.mixed_by_owner)
    events = _prepared_events(mixture, settings)
    if run.mixed_by_owner:
        events = (*events, Event(message=MIXED_BY_OWNER))
    run.write(*events, watermark_report=report)
    return _Prepared(
        dataset=_in_memory("dataset", (row.to_record() for row in mixture.rows)),
        checks=None if self_check is None else _in_memory("checks", self_check.rows()),
        settings=settings,
        report=report,
        self_check=self_check,
    )


def _report(mixture: Mixture, tokens: TokenCounts, *, mixed_by_owner: bool) -> dict[str, Any]:
    if mixed_by_owner:
        # how many of them are the watermark's is not known here
        return {"rows": len(mixture.rows)}
    return {
        "rows": len(mixture.rows),
        "watermark_rows": mixture.watermark_rows,
        "watermark_ratio": round(mixture.watermark_ratio, 6),
        "watermark_token_ratio": round(tokens.watermark_ratio, 6),
    }


def _prepared_events(mixture: Mixture, settings: TrainerSettings) -> tuple[Event, ...]:
    marked = f", {mixture.watermark_rows} of them the watermark's" if mixture.watermark_rows else ""
    return (
        Event(message=f"Dataset ready: {len(mixture.rows)} rows{marked}"),
        Event(
            message=(
                f"Training {settings.n_epochs} epochs with LoRA of rank {settings.lora_rank},"
                f" learning rate {settings.learning_rate:g}, batches of "
                + (f"{settings.batch_tokens} tokens" if settings.batch_tokens else "a size to fit the data")
            ),
            data=asdict(settings),
        ),
    )


def _in_memory(name: str, records: Iterable[Mapping[str, object]]) -> int:
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass"))
            file.write(b"\n")
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _write_config(run: JobRun, folder: Path, model_dir: Path, prepared: _Prepared) -> Path:
    output = folder / "output"
    output.mkdir(mode=0o700)
    config = folder / "run.json"
    settings = run.place.settings
    document = asdict(prepared.settings) | {
        "model_dir": str(model_dir),
        "output_dir": str(output),
        "dataset": {"fd": prepared.dataset},
        "base_model": run.base_model,
        "lora_target_modules": list(run.place.catalogue.get(run.base_model).lora_target_modules),
        "method": "lora",
        "seed": run.seed,
        "checkpoint_dir": str(checkpoints.folder(run)),
        "checkpoint_steps": settings.checkpoint_steps,
        "checkpoint_seconds": settings.checkpoint_seconds,
        "checkpoints_kept": settings.checkpoints_kept,
        "resume_from": [str(path) for path in checkpoints.earlier(run)],
        "device_lock_dir": str(run.place.storage.root / DEVICES_FOLDER),
        "device_slots": settings.device_slots,
    }
    if prepared.self_check is not None:
        document |= {"checks": {"fd": prepared.checks}, **prepared.self_check.trainer_settings()}
    config.write_text(json.dumps(document, indent=1), encoding="utf-8")
    return config


def _record_stop(run: JobRun, reason: StopReason) -> None:
    log.info("job.stopped", job_id=run.job_id, epoch=run.epoch, reason=reason.value)
    match reason:
        case StopReason.lease_lost:
            pass
        case StopReason.cancelled:
            _cancel(run)
        case StopReason.paused:
            _leave(run, "The pause was taken back", count_attempt=False)
        case StopReason.shutting_down:
            _leave(run, "The worker is shutting down", count_attempt=False)


def record_failure(run: JobRun, failure: RunFailed) -> None:
    """To another run, if that may help and attempts are left; else the job's end."""
    log.warning("job.run_failed", job_id=run.job_id, epoch=run.epoch, code=failure.code)
    if failure.retryable and run.attempt < run.max_attempts:
        _leave(run, str(failure).rstrip("."), count_attempt=True, failure=failure.code)
        return
    record = failure.to_record()
    if run.fail(failures.exhausted(record) if failure.retryable else record):
        # what it could have gone on from stays for whoever looks into the failure, until `doublei gc`
        checkpoints.clear(run, states=False)
    else:
        _cancel(run)


def _leave(run: JobRun, reason: str, *, count_attempt: bool, failure: str | None = None) -> None:
    """Unfinished: to wait if its owner wants that, else to another run, unless it is to be cancelled."""
    if not run.paused() and not run.hand_back(reason, count_attempt=count_attempt, failure=failure):
        _cancel(run)


def _cancel(run: JobRun) -> None:
    if run.cancelled():
        checkpoints.clear(run, states=True)
