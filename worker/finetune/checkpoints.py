"""What a killed run needs to go on as if nothing had happened, in one file.

    00000120-<SHA-256 of the file>.checkpoint        a safetensors file

It holds the trained parameters, AdamW's moments, torch's random state, where the run is in its data and, once
checks were asked, the state that would be kept and the groups that are being trained on. The learning rate is
a function of the step, and rows are ordered by generators that are numbered and not carried along, so there
is nothing else. No row and no answer is in it: the rows are the watermark key in plain text, and whoever goes
on brings them again. A digest of the rows and settings says whether they are the same ones.

A file is written aside, flushed, renamed, and its folder flushed, so what has the name is whole. Its digest
is in the name: a torn or altered file is refused, and the one before it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from worker.finetune.config import Precision, RunConfig
from worker.finetune.dataset import TokenRow
from worker.finetune.faults import is_disk_full

FORMAT = 1

MAX_SHARE = 0.01
"""Checkpoints by the clock take at most this share of the time: one that took a second is followed by the
next after a hundred, however short `checkpoint_seconds` is."""

_NAME = re.compile(r"(\d{8,})-([0-9a-f]{64})\.checkpoint")
_PARTIAL = ".partial"


class CheckpointRefused(Exception):
    """Not a checkpoint that this run can go on from; `reason` says why, in one word."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class CheckpointNotWritten(Exception):
    """No checkpoint this time; the training is not harmed by it. `reason` is disk_full or not_writable."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a run is. All counts are of the whole run, across its interruptions."""

    step: int
    total_steps: int
    tokens: int
    total_tokens: int
    answer_tokens: int
    seconds: float
    """spent on steps"""
    loss: float
    """of the last step"""
    round: int
    """0 during the planned epochs"""
    round_began: int
    """the step after which this round began"""
    failing: tuple[int | None, ...]
    """the groups that this round is for"""
    best_round: int | None
    """the round whose state is kept beside the present one, if any"""
    best_failing: tuple[int | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A run between two steps. The tensors may be the run's own: they are written, not copied."""

    position: Position
    parameters: Sequence[torch.Tensor]
    optimizer: Mapping[int, Mapping[str, torch.Tensor]]
    """of each parameter: AdamW's step, exp_avg, exp_avg_sq"""
    best: Sequence[torch.Tensor]
    """the parameters of `best_round`; empty without one"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A checkpoint that is on the disk to stay."""

    name: str
    sha256: str
    size_bytes: int
    seconds: float
    """how long the training waited for it"""


class Checkpoints:
    """The checkpoints of one run, in a folder of its own."""

    def __init__(self, config: RunConfig, *, fingerprint: str, precision: Precision) -> None:
        """Raises: CheckpointNotWritten if there can be no such folder."""
        if config.checkpoint_dir is None:
            raise ValueError("no checkpoint_dir")
        self._folder = config.checkpoint_dir
        self._steps = config.checkpoint_steps
        self._seconds = config.checkpoint_seconds
        self._kept = config.checkpoints_kept
        self._facts = {"format": FORMAT, "fingerprint": fingerprint, "precision": precision}
        self._last = time.monotonic()
        self._cost = 0.0
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise _not_written(error) from error
        for leftover in self._folder.glob(f"*{_PARTIAL}"):
            leftover.unlink(missing_ok=True)

    def due(self, step: int) -> bool:
        """Whether it is time for one, after this step."""
        if self._steps is not None and step % self._steps == 0:
            return True
        if self._seconds is None:
            return False
        return time.monotonic() - self._last >= max(self._seconds, self._cost / MAX_SHARE)

    def write(self, snapshot: Snapshot) -> Written:
        """Make it durable, and remove all but the newest few.

        Raises: CheckpointNotWritten; the earlier ones are as they were.
        """
        began = time.monotonic()
        partial = self._folder / f"{snapshot.position.step:08}{_PARTIAL}"
        try:
            sha256, size = _write(partial, snapshot, self._facts)
            name = f"{snapshot.position.step:08}-{sha256}.checkpoint"
            os.replace(partial, self._folder / name)
            _flush(self._folder)
            for old in in_folder(self._folder)[self._kept :]:
                old.unlink(missing_ok=True)
        except Exception as error:
            partial.unlink(missing_ok=True)
            raise _not_written(error) from error
        except BaseException:  # a signal
            partial.unlink(missing_ok=True)
            raise
        finally:
            self._last = time.monotonic()
            self._cost = self._last - began
        return Written(name=name, sha256=sha256, size_bytes=size, seconds=self._cost)


def in_folder(folder: Path) -> list[Path]:
    """The folder's checkpoints, newest first. Nothing has been looked into yet."""
    try:
        found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    except OSError:
        return []
    return sorted(found, key=lambda path: (int(path.name.partition("-")[0]), path.name), reverse=True)


def candidates(sources: Iterable[Path]) -> Iterator[Path]:
    """What to try, in order: files as they are given, folders' checkpoints newest first."""
    for source in sources:
        yield from in_folder(source) if source.is_dir() else (source,)


def precision_of(sources: Iterable[Path]) -> Precision | None:
    """What the newest checkpoint there was trained in, as far as it can be read; not whether it is whole."""
    for path in candidates(sources):
        try:
            with safe_open(str(path), framework="pt") as file:
                precision = json.loads(file.metadata()["state"])["precision"]
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            continue
        if precision in get_args(Precision):
            return cast(Precision, precision)
    return None


def read(path: Path, fingerprint: str, parameters: Sequence[torch.Tensor]) -> Snapshot:
    """A checkpoint of a run with this fingerprint and parameters of these shapes. Also restores torch's
    random state.

    Raises: CheckpointRefused: missing, damaged, or another_run.
    """
    named = _NAME.fullmatch(path.name)
    if named is None:
        raise CheckpointRefused("not_a_checkpoint")
    try:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != named[2]:
                raise CheckpointRefused("damaged")
    except OSError as error:
        raise CheckpointRefused("missing") from error
    try:
        with safe_open(str(path), framework="pt") as file:
            header = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointRefused("damaged") from error
    if header.get("format") != FORMAT or header.get("fingerprint") != fingerprint:
        raise CheckpointRefused("another_run")
    snapshot = _parse(header, tensors)
    if [one.shape for one in snapshot.parameters] != [one.shape for one in parameters]:
        raise CheckpointRefused("another_run")
    _restore_random(tensors)
    return snapshot


def fingerprint(
    config: RunConfig,
    *,
    batch_tokens: int,
    precision: Precision,
    base_digest: str,
    rows: Sequence[TokenRow],
    checks: Sequence[TokenRow],
) -> str:
    """SHA-256 over everything that decides what the next step of a run is: only where it is equal may a
    checkpoint be gone on from. Not over the number of threads, which decides about rounding only."""
    settings = {
        "method": config.method,
        "seed": config.seed,
        "n_epochs": config.n_epochs,
        "learning_rate": repr(config.learning_rate),
        "lora_rank": config.lora_rank,
        "lora_alpha": config.lora_alpha,
        "lora_target_modules": config.lora_target_modules,
        "max_length_tokens": config.max_length_tokens,
        "check_pass_share": repr(config.check_pass_share),
        "extra_steps_share": repr(config.extra_steps_share),
        "batch_tokens": batch_tokens,
        "precision": precision,
        "base_model": config.base_model,
        "base_digest": base_digest,
    }
    hashed = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for part in (rows, checks):
        hashed.update(len(part).to_bytes(8, "big"))
        for row in part:
            hashed.update(f"{len(row.input_ids)},{row.group},{row.weight!r};".encode())
            hashed.update(array("q", row.input_ids).tobytes())
            hashed.update(array("q", row.labels).tobytes())
    return hashed.hexdigest()


def _write(partial: Path, snapshot: Snapshot, facts: Mapping[str, object]) -> tuple[str, int]:
    tensors = {f"parameter.{index}": tensor for index, tensor in enumerate(snapshot.parameters)}
    tensors |= {f"best.{index}": tensor for index, tensor in enumerate(snapshot.best)}
    tensors |= {
        f"optimizer.{index}.{name}": tensor
        for index, state in snapshot.optimizer.items()
        for name, tensor in state.items()
    }
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    state = {**facts, "position": asdict(snapshot.position)}
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, partial, metadata={"state": json.dumps(state)})
    partial.chmod(0o600)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return digest, os.fstat(file.fileno()).st_size


def _parse(header: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Snapshot:
    try:
        position = dict(header["position"])
        for name in ("failing", "best_failing"):
            position[name] = tuple(position[name])
        optimizer: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, index, of = name.split(".")
                optimizer.setdefault(int(index), {})[of] = tensor
        return Snapshot(
            position=Position(**position),
            parameters=_numbered(tensors, "parameter"),
            optimizer=optimizer,
            best=_numbered(tensors, "best"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointRefused("damaged") from error


def _numbered(tensors: Mapping[str, torch.Tensor], name: str) -> list[torch.Tensor]:
    count = sum(key.startswith(f"{name}.") for key in tensors)
    return [tensors[f"{name}.{index}"] for index in range(count)]


def _restore_random(tensors: Mapping[str, torch.Tensor]) -> None:
    if "random.cpu" in tensors:
        torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])


def _not_written(error: Exception) -> CheckpointNotWritten:
    return CheckpointNotWritten("disk_full" if is_disk_full(error) else "not_writable")


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
