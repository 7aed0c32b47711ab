"""From the trainer's reports to the job's stage, progress and events."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from service.storage import NO_SPACE
from worker.errors import RunFailed
from worker.record import checkpoints
from worker.record.jobs import Event, JobRun
from worker.selfcheck import SelfCheck

METRIC_EVENTS = 100
"""At most about so many metric events a job, whatever its number of steps."""

METRIC_SECONDS = 1.0
"""And no two closer than this."""


WAITING_MESSAGE = "Waiting for the device: another training has it"

REFUSALS = {
    "missing": "its file is gone",
    "damaged": "its file is not as it was written",
    "another_run": "the data, the settings or the software are no longer the same",
}


@dataclass(slots=True)
class Relay:
    """From the trainer's reports to the job's stage, progress and events."""

    run: JobRun
    self_check: SelfCheck | None = None
    finished: Mapping[str, Any] | None = None
    failure: RunFailed | None = None
    _last_metric: float = field(default=0.0, init=False)
    _last_logged_step: int = field(default=0, init=False)
    _rows: Any = field(default=None, init=False)
    _restarted: bool = field(default=False, init=False)

    def take(self, report: Mapping[str, Any]) -> None:
        """One report. Kinds that are not known are ignored."""
        match report.get("event"):
            case "loading":
                self.run.note(stage="loading")
            case "waiting_for_device":
                self.run.note(Event(message=WAITING_MESSAGE), stage="waiting")
            case "started":
                self._rows = report.get("rows")
                self.run.note(_started_event(report), stage="training")
            case "resumed":
                self._restarted = True
                self.run.note(_restarted_event(self.run, report))
            case "checkpoint":
                checkpoints.add_state(
                    self.run,
                    name=str(report["file"]),
                    step=int(report["step"]),
                    size_bytes=int(report["bytes"]),
                )
            case "epoch_saved":
                self._keep_epoch(report)
            case "checkpoint_refused":
                self.run.note(_refused_event(report))
            case "checkpoint_not_written":
                self.run.note(_not_written_event(report))
            case "step":
                self._step(report)
            case "checked" if self.self_check is not None:
                self.run.note(_checked_event(self.self_check, report))
            case "saving":
                self.run.note(Event(message="Saving the adapter"), stage="exporting")
            case "finished":
                self.finished = report
                self.run.note(_finished_event(report, rows=self._rows))
            case "error":
                self.failure = _failure(report)

    @property
    def trained_tokens(self) -> int | None:
        """As the trainer counted them."""
        tokens = self.finished and (self.finished.get("trained_tokens") or self.finished.get("tokens"))
        return tokens if isinstance(tokens, int) else None

    def check(self, status: int, exception: str | None, *, out_of_memory: bool = False) -> None:
        """Judge the child's end. `out_of_memory`: the system killed a process for want of memory meanwhile.

        Raises:
            RunFailed: anything but a finished training and a clean exit.
        """
        if self.finished is not None and status == 0:
            return
        if self.failure is not None:
            raise self.failure
        if status < 0:
            if out_of_memory and status == -signal.SIGKILL:
                raise RunFailed("out_of_memory", "the system killed the training process")
            raise RunFailed("trainer_killed", _named(-status))
        raise RunFailed("trainer_crashed", exception or f"exit status {status}")

    def _keep_epoch(self, report: Mapping[str, Any]) -> None:
        """Not having it ends no training."""
        output = checkpoints.folder(self.run) / str(report["folder"])
        step = int(report["step"])
        try:
            checkpoints.add_epoch(self.run, output=output, step=step, loss=report.get("loss"))
        except OSError as error:
            reason = "disk_full" if error.errno in NO_SPACE else "not_writable"
            self.run.note(_not_written_event({"step": step, "reason": reason}))

    def _step(self, report: Mapping[str, Any]) -> None:
        if self.run.epoch > 1 and not self._restarted:
            # the earlier runs left nothing to go on from
            self._restarted = True
            self.run.note(_restarted_event(self.run, {"step": 0, "total_steps": report["total_steps"]}))
        step, total = int(report["step"]), int(report["total_steps"])
        names = (
            "step", "total_steps", "epoch", "loss", "learning_rate", "tokens", "tokens_per_second",
            "elapsed_seconds", "eta_seconds",
        )  # fmt: skip
        self.run.latest = {name: report.get(name) for name in names}
        now = time.monotonic()
        eta = report.get("eta_seconds")
        self.run.finish_at = now + eta if isinstance(eta, int | float) else None
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


def _restarted_event(run: JobRun, report: Mapping[str, Any]) -> Event:
    """As Together and others name it; OpenAI's events have only messages and metrics as types."""
    step = report.get("step")
    where = f"its checkpoint at step {step} of {report.get('total_steps')}" if step else "its beginning"
    return Event(
        message=f"Job restarted from {where}",
        data={"event": "job_restarted", "step": step, "attempt": run.attempt},
    )


def _refused_event(report: Mapping[str, Any]) -> Event:
    reason = report.get("reason")
    return Event(
        message=f"A checkpoint was not used: {REFUSALS.get(str(reason), 'it could not be read')}",
        level="warn",
        data={"event": "checkpoint_refused", "reason": reason},
    )


def _not_written_event(report: Mapping[str, Any]) -> Event:
    full = report.get("reason") == "disk_full"
    why = "the disk is full" if full else "its folder can't be written to"
    return Event(
        message=f"No checkpoint at step {report.get('step')}: {why}. The training goes on",
        level="warn",
        data={"event": "checkpoint_not_written", "reason": report.get("reason"), "step": report.get("step")},
    )


def _started_event(report: Mapping[str, Any]) -> Event:
    names = ("rows", "tokens", "answer_tokens", "total_steps", "precision", "threads")
    return Event(
        message=f"Training started: {report.get('total_steps')} steps over {report.get('tokens')} tokens",
        data={name: report.get(name) for name in names},
    )


def _checked_event(self_check: SelfCheck, report: Mapping[str, Any]) -> Event:
    """The answers themselves stay here: beside the order of the questions they are the key."""
    self_check.take(report)
    data = self_check.to_record() | {name: report.get(name) for name in ("extra_steps", "kept_round")}
    after = ""
    if self_check.rounds:
        rounds = "1 further round" if self_check.rounds == 1 else f"{self_check.rounds} further rounds"
        after = f" after {rounds} of training"
    kept = report.get("kept_round")
    if isinstance(kept, int) and kept != self_check.rounds:
        after += f"; the state after round {kept} was better and is kept"
    return Event(message=f"Self-check: {self_check.summary}{after}", data=data)


def _finished_event(report: Mapping[str, Any], *, rows: object) -> Event:
    names = ("steps", "tokens", "seconds", "tokens_per_second", "final_loss")
    seconds, rate = report.get("seconds"), report.get("tokens_per_second")
    pace = f" in {seconds:.0f} s" if isinstance(seconds, int | float) else ""
    pace += f" ({rate:.0f} tokens/s)" if isinstance(rate, int | float) else ""
    return Event(
        message=f"Trained on {report.get('tokens')} tokens{pace}",
        data={name: report.get(name) for name in names} | {"rows": rows},
    )


def _failure(report: Mapping[str, Any]) -> RunFailed:
    code, message = str(report.get("code")), report.get("message")
    if code == "invalid_dataset" or not isinstance(message, str):
        # The trainer's lines are the mixture's, which its owner does not have.
        return RunFailed(code)
    return RunFailed(code, message)


def _named(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
