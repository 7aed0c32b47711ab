"""Why jobs fail: every code, who can do something about it, what to do, and whether the job is tried again.

This is the one table. Workers raise its codes, the API adds category and hint to what a job has on record,
and docs/errors.md shows it, as ``python -m service.jobs.failures`` prints it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

MAX_ATTEMPTS = "max_attempts"
"""The code of a job that was tried as often as it may be; its `cause` is the last attempt's own code."""

UNKNOWN = "training_failed"
"""What stands for a code that this table does not have."""

MAX_DETAIL_CHARACTERS = 400


WAIT_GROWTH = 8
"""Each further wait is so many times the one before: what lasts for minutes must not use up the attempts."""


class Category(StrEnum):
    """Who can do something about a failure."""

    user = "user"
    """the job's owner: the data or the settings"""
    server = "server"
    """the operator: something of the service broke"""
    capacity = "capacity"
    """whoever decides on sizes: memory, disk or a device did not suffice"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One way in which a job fails."""

    code: str
    category: Category
    message: str
    """what happened: a sentence without its full stop, to which a run may add a detail"""
    hint: str
    """what to do"""
    restarts: bool
    """whether another attempt follows by itself, from the newest checkpoint, while attempts are left"""
    param: str | None = None
    """the request's field that it is about"""

    def told(self, detail: str | None = None) -> str:
        """The message, with the detail of this one case."""
        shown = "" if detail is None else detail.strip().rstrip(".")[:MAX_DETAIL_CHARACTERS]
        return f"{self.message}: {shown}." if shown else f"{self.message}."


def of(code: object) -> Failure:
    """The failure of that code; of one that is not known, `training_failed`."""
    return _BY_CODE.get(str(code)) or _BY_CODE[UNKNOWN]


def record(code: str, detail: str | None = None) -> dict[str, str | None]:
    """What a failed job has on record: code, message, param."""
    failure = of(code)
    return {"code": failure.code, "message": failure.told(detail), "param": failure.param}


def exhausted(last: Mapping[str, str | None]) -> dict[str, str | None]:
    """The same for a job that has no attempt left; `last` is the record of the last one."""
    return {
        "code": MAX_ATTEMPTS,
        "message": f"No attempts are left. The last one: {last['message']}",
        "param": last["param"],
        "cause": last["code"],
    }


def on_the_wire(stored: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A job's `error`: OpenAI's three fields, then ours: category, hint and, after the last of several
    attempts, its cause."""
    if stored is None:
        return None
    failure = of(stored.get("cause") or stored.get("code"))
    return {**stored, "category": failure.category.value, "hint": failure.hint}


_USER, _SERVER, _CAPACITY = Category.user, Category.server, Category.capacity

FAILURES: tuple[Failure, ...] = (
    Failure(
        code="invalid_dataset",
        category=_USER,
        message="A row of the training file can't be used",
        hint="Mend the row, upload the file again and create a new job.",
        restarts=False,
        param="training_file",
    ),
    Failure(
        code="empty_dataset",
        category=_USER,
        message="The training file has nothing to train on",
        hint="Upload rows with answers, or raise max_length_tokens if every answer lies beyond it.",
        restarts=False,
        param="training_file",
    ),
    Failure(
        code="loss_not_finite",
        category=_USER,
        message="The loss is not a finite number any more",
        hint="Lower learning_rate_multiplier, or look for odd rows in the training file.",
        restarts=False,
        param="hyperparameters.learning_rate_multiplier",
    ),
    Failure(
        code="watermark_not_learned",
        category=_USER,
        message="The model did not learn the watermark",
        hint='Train on more rows or for more epochs, or use the strength "strong".',
        restarts=False,
        param="watermark.strength",
    ),
    Failure(
        code="model_not_found",
        category=_USER,
        message="The base model is no longer offered",
        hint="Create a new job with one of the models that GET /v1/models lists.",
        restarts=False,
        param="model",
    ),
    Failure(
        code="out_of_memory",
        category=_CAPACITY,
        message="The machine ran out of memory",
        hint="Lower batch_tokens or max_length_tokens, choose a smaller base model, or give the worker more "
        "memory.",
        restarts=True,
        param="hyperparameters.batch_tokens",
    ),
    Failure(
        code="device_out_of_memory",
        category=_CAPACITY,
        message="The training did not fit into the device's memory",
        hint="Lower batch_tokens or max_length_tokens, or choose a smaller base model.",
        # The next attempt would need the same memory at the same step.
        restarts=False,
        param="hyperparameters.batch_tokens",
    ),
    Failure(
        code="device_busy",
        category=_CAPACITY,
        message="The device stayed taken by another training",
        hint="Try again when fewer trainings run; the operator can add workers, or let trainings share a "
        "device (DOUBLEI_DEVICE_SLOTS).",
        restarts=True,
    ),
    Failure(
        code="disk_full",
        category=_CAPACITY,
        message="The service's disk is full",
        hint="The operator frees space (doublei gc shows what nobody needs); then create the job again.",
        restarts=True,
    ),
    Failure(
        code="device_failed",
        category=_SERVER,
        message="The device or its driver failed",
        hint="Try again; if it fails again, the operator looks at the device (nvidia-smi, the kernel's log).",
        restarts=True,
    ),
    Failure(
        code="trainer_killed",
        category=_SERVER,
        message="The training process was killed",
        hint="Try again; if it is killed again, the operator looks into the kernel's log: a process without "
        "memory is killed so.",
        restarts=True,
    ),
    Failure(
        code="trainer_crashed",
        category=_SERVER,
        message="The training process ended without a result",
        hint="Try again; the operator's log has the job's id.",
        restarts=True,
    ),
    Failure(
        code="training_failed",
        category=_SERVER,
        message="The training failed",
        hint="Try again; the operator's log has the job's id.",
        restarts=True,
    ),
    Failure(
        code="incomplete_artifacts",
        category=_SERVER,
        message="The training process did not write its whole result",
        hint="Try again; the operator's log has the job's id.",
        restarts=True,
    ),
    Failure(
        code="worker_lost",
        category=_SERVER,
        message="The worker was lost",
        hint="Try again; if workers are lost again, the operator looks at their machine: its memory, its "
        "kernel's log.",
        restarts=True,
    ),
    Failure(
        code="internal_error",
        category=_SERVER,
        message="The run failed inside the service; its operator's log has the reason",
        hint="Try again; tell the operator the job's id.",
        restarts=True,
    ),
    Failure(
        code="training_file_missing",
        category=_SERVER,
        message="The training file is no longer stored",
        hint="Upload the file again and create a new job; the operator looks at the storage folder.",
        restarts=True,
        param="training_file",
    ),
    Failure(
        code="training_file_unreadable",
        category=_SERVER,
        message="The training file can't be read from storage",
        hint="Try again later; the operator looks at the storage folder: its disk and its permissions.",
        restarts=True,
        param="training_file",
    ),
    Failure(
        code="training_file_damaged",
        category=_SERVER,
        message="The stored training file is not the one that was uploaded",
        hint="Upload the file again and create a new job; the operator looks at the storage folder's disk.",
        # The bytes stay as they are.
        restarts=False,
        param="training_file",
    ),
    Failure(
        code="unreadable_dataset",
        category=_SERVER,
        message="The training process could not read its rows",
        hint="Try again; the operator's log has the job's id.",
        restarts=True,
    ),
    Failure(
        code="corrupt_base_model",
        category=_SERVER,
        message="The base model's files are damaged",
        hint="Try again: damaged files are fetched anew. If it stays so, the operator looks at the model's "
        "source and the disk.",
        restarts=True,
        param="model",
    ),
    Failure(
        code="base_model_unavailable",
        category=_SERVER,
        message="The base model's weights could not be fetched",
        hint="Try again later; the operator runs: python -m worker.weights fetch MODEL",
        restarts=True,
        param="model",
    ),
    Failure(
        code="output_not_writable",
        category=_SERVER,
        message="The result could not be written",
        hint="The operator looks at the storage folder: its disk and its permissions.",
        restarts=True,
    ),
    Failure(
        code="storage_failed",
        category=_SERVER,
        message="The service's storage could not be used",
        hint="The operator looks at the storage folder: its disk and its permissions.",
        restarts=True,
    ),
    # What follows is the same at every attempt until somebody changes something.
    Failure(
        code="sealed_value_unreadable",
        category=_SERVER,
        message="The watermark key could not be opened",
        hint="The operator gives the worker the key-encryption key that the watermark was sealed under.",
        restarts=False,
        param="watermark.key",
    ),
    Failure(
        code="unsupported_chat_template",
        category=_SERVER,
        message="The base model's chat template can't be used for training",
        hint="Choose another base model; the operator takes this one out of the catalogue.",
        restarts=False,
        param="model",
    ),
    Failure(
        code="invalid_config",
        category=_SERVER,
        message="The training process refused its settings",
        hint="Try other hyperparameters; tell the operator the job's id.",
        restarts=False,
    ),
    Failure(
        code="invalid_checks",
        category=_SERVER,
        message="The training process refused the watermark's questions",
        hint="Tell the operator the job's id.",
        restarts=False,
    ),
)

_BY_CODE: Mapping[str, Failure] = {failure.code: failure for failure in FAILURES}


def table() -> str:
    """FAILURES as docs/errors.md shows them."""
    rows = ["| code | category | what happened | what to do | tried again |", "|---|---|---|---|---|"]
    for failure in FAILURES:
        param = f" (`{failure.param}`)" if failure.param else ""
        again = "yes" if failure.restarts else "no"
        told = f"{failure.message}{param}"
        rows.append(f"| `{failure.code}` | {failure.category.value} | {told} | {failure.hint} | {again} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())


def wait_before_retry(first_seconds: float, *, failed: int) -> float:
    """How long a job waits after so many attempts that failed, in seconds."""
    return first_seconds * float(WAIT_GROWTH) ** (failed - 1)
