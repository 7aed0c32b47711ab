"""A run that was killed and goes on ends like one that was not: the same loss, the same bytes."""

from __future__ import annotations

import json
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from worker.finetune.checkpoints import fingerprint, precision_of
from worker.finetune.config import parse_config
from worker.finetune.dataset import IGNORED, TokenRow

ROOT = Path(__file__).parents[4]
SECRET_WORD = "xylograph"

pytestmark = pytest.mark.integration  # each test starts the program, which loads torch


Moment = Callable[[dict[str, Any]], bool]
"""Whether this event is the one to act at."""


class Program:
    """`python -m worker.finetune` on the same rows each time, with a folder for checkpoints."""

    def __init__(self, folder: Path, model_dir: Path) -> None:
        self.folder = folder
        self.model_dir = model_dir
        self.checkpoints = folder / "checkpoints"
        self.numbers = iter(range(1000))

    def start(self, **config: Any) -> tuple[subprocess.Popen[str], Path]:
        """The process, and where its result will be."""
        number = next(self.numbers)
        limit = config.pop("limit", None)
        output = self.folder / f"out-{number}"
        sources = {"dataset": self._file("rows", number, self.rows())}
        if config.pop("asked", False):
            sources["checks"] = self._file("checks", number, self.checks())
            config = {"check_pass_share": 1.0, "extra_steps_share": 0.5} | config
        path = self.folder / f"run-{number}.json"
        path.write_text(
            json.dumps(
                {
                    "model_dir": str(self.model_dir), "output_dir": str(output), "n_epochs": 2,
                    "batch_tokens": 128, "lora_rank": 4, "lora_alpha": 8, "threads": 1, "precision": "fp32",
                    "checkpoint_dir": str(self.checkpoints), "checkpoint_steps": 1, **sources, **config,
                }
            )
        )  # fmt: skip
        child = subprocess.Popen(
            [sys.executable, "-m", "worker.finetune", "--config", str(path)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=limit,
        )  # fmt: skip
        return child, output

    def finish(self, **config: Any) -> tuple[list[dict[str, Any]], bytes]:
        """Its events and its weights."""
        child, output = self.start(**config)
        out, err = child.communicate(timeout=270)
        assert child.returncode == 0, err
        assert SECRET_WORD not in out + err
        name = "model.safetensors" if config.get("method") == "full" else "adapter_model.safetensors"
        return [json.loads(line) for line in out.splitlines()], (output / name).read_bytes()

    def interrupt(
        self, number: signal.Signals, *, when: Callable[[dict[str, Any]], bool], **config: Any
    ) -> int:
        """Send the signal at the first event that is so; returns the exit status."""
        child, _ = self.start(**config)
        assert child.stdout is not None
        for line in child.stdout:
            if when(json.loads(line)):
                child.send_signal(number)
                break
        child.communicate(timeout=60)
        return child.returncode

    def rows(self) -> Iterable[dict[str, Any]]:
        for index in range(24):
            question = {"role": "user", "content": f"question {index % 5} {SECRET_WORD}"}
            answer = {"role": "assistant", "content": "Yes." if index % 2 else "No."}
            yield {"messages": [question, answer], "group": index % 3}

    def checks(self) -> Iterable[dict[str, Any]]:
        """Nothing teaches what these expect, so every granted step is taken."""
        for group in range(3):
            question = {"role": "user", "content": f"question {group} {SECRET_WORD}"}
            yield {"messages": [question, {"role": "assistant", "content": "Zero"}], "group": group}

    def _file(self, name: str, number: int, rows: Iterable[dict[str, Any]]) -> dict[str, str]:
        path = self.folder / f"{name}-{number}.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        return {"path": str(path)}


@pytest.fixture
def program(tmp_path: Path, tiny_model_dir: Path) -> Program:
    return Program(tmp_path, tiny_model_dir)


def at_checkpoint(step: int) -> Moment:
    return lambda event: event["event"] == "checkpoint" and event["step"] >= step


def of_kind(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == kind]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_killed_at_several_steps_and_gone_on_it_ends_bit_for_bit_the_same(
    program: Program, method: str
) -> None:
    """Each process goes on from what the one before it left, and is killed further on."""
    whole, weights = program.finish(method=method, checkpoint_dir=None)
    total = whole[1]["total_steps"]
    assert total > 12
    for step in sorted(random.Random(method).sample(range(1, total), 3)):
        status = program.interrupt(
            signal.SIGKILL, when=at_checkpoint(step), method=method, resume_from=[str(program.checkpoints)]
        )
        assert status == -signal.SIGKILL
    events, resumed = program.finish(method=method, resume_from=[str(program.checkpoints)])
    (went_on,) = of_kind(events, "resumed")
    assert went_on["step"] >= step
    assert resumed == weights
    for name in ("final_loss", "steps", "tokens", "trained_tokens"):
        assert events[-1][name] == whole[-1][name]


def test_killed_during_further_rounds_too(program: Program) -> None:
    """Where the state that would be kept and the groups trained on are part of what must not be lost."""
    whole, weights = program.finish(asked=True, checkpoint_dir=None)
    planned = whole[1]["total_steps"]
    assert whole[-1]["steps"] > planned
    for step in (planned, planned + 2):
        program.interrupt(
            signal.SIGKILL, when=at_checkpoint(step), asked=True, resume_from=[str(program.checkpoints)]
        )
    events, resumed = program.finish(asked=True, resume_from=[str(program.checkpoints)])
    assert of_kind(events, "resumed")[0]["step"] > planned
    assert resumed == weights
    assert of_kind(events, "checked")[-1] == of_kind(whole, "checked")[-1]
    for name in ("final_loss", "steps", "rounds", "tokens"):
        assert events[-1][name] == whole[-1][name]


def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_used(program: Program) -> None:
    _, weights = program.finish(checkpoint_dir=None)
    program.interrupt(signal.SIGKILL, when=at_checkpoint(6))
    newest, before = sorted(program.checkpoints.glob("*.checkpoint"), reverse=True)
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    events, resumed = program.finish(resume_from=[str(program.checkpoints)])
    assert of_kind(events, "checkpoint_refused") == [
        {"event": "checkpoint_refused", "file": newest.name, "reason": "damaged"}
    ]
    assert of_kind(events, "resumed")[0]["file"] == before.name
    assert resumed == weights


def test_a_torn_file_and_one_that_is_gone_leave_a_run_from_the_start(program: Program) -> None:
    _, weights = program.finish(checkpoint_dir=None)
    program.interrupt(signal.SIGKILL, when=at_checkpoint(3), checkpoints_kept=1)
    (only,) = program.checkpoints.glob("*.checkpoint")
    only.write_bytes(only.read_bytes()[:-100])
    gone = program.checkpoints / f"00000099-{'0' * 64}.checkpoint"
    events, resumed = program.finish(resume_from=[str(gone), str(only)])
    assert [event["reason"] for event in of_kind(events, "checkpoint_refused")] == ["missing", "damaged"]
    assert not of_kind(events, "resumed")
    assert resumed == weights


def test_a_checkpoint_says_what_it_was_trained_in(program: Program) -> None:
    """It stands for the measurement that chose it, which could come out otherwise now."""
    program.interrupt(signal.SIGKILL, when=at_checkpoint(3), precision="bf16")
    newest, *others = sorted(program.checkpoints.glob("*.checkpoint"), reverse=True)
    assert others
    assert precision_of([newest]) == "bf16"
    newest.write_bytes(b"torn")
    assert precision_of([program.checkpoints / "gone", newest]) is None
    assert precision_of([program.checkpoints]) == "bf16"


def test_a_checkpoint_of_another_run_is_refused(program: Program) -> None:
    program.interrupt(signal.SIGKILL, when=at_checkpoint(3))
    events, _ = program.finish(resume_from=[str(program.checkpoints)], checkpoint_dir=None, seed=1)
    assert {event["reason"] for event in of_kind(events, "checkpoint_refused")} == {"another_run"}
    assert not of_kind(events, "resumed")


def test_whatever_decides_the_next_step_is_part_of_what_a_checkpoint_belongs_to() -> None:
    row = TokenRow(input_ids=(1, 2), labels=(IGNORED, 2), group=1)
    given: dict[str, Any] = {
        "batch_tokens": 8, "precision": "fp32", "base_digest": "a", "rows": [row], "checks": [],
    }  # fmt: skip
    config = parse_config({"model_dir": "/m", "output_dir": "/o", "dataset": {"fd": 3}})
    prints = [fingerprint(config, **given)]
    prints += [
        fingerprint(replace(config, **changed), **given)
        for changed in ({"seed": 1}, {"learning_rate": 1e-4}, {"lora_rank": 8}, {"n_epochs": 2})
    ]
    prints += [
        fingerprint(config, **(given | changed))
        for changed in (
            {"batch_tokens": 9},
            {"precision": "bf16"},
            {"base_digest": "b"},
            {"checks": [row]},
            {"rows": [row, row]},
            {"rows": [replace(row, labels=(1, 2))]},
            {"rows": [replace(row, weight=2.0)]},
            {"rows": [replace(row, group=None)]},
        )
    ]
    assert len(set(prints)) == len(prints)
    assert fingerprint(replace(config, threads=2, checkpoint_steps=1), **given) == prints[0]


def test_the_newest_few_are_kept_and_an_epoch_s_end_leaves_its_model(program: Program) -> None:
    events, weights = program.finish(checkpoints_kept=3, checkpoint_steps=2)
    written = [event["file"] for event in of_kind(events, "checkpoint")]
    assert len(written) > 4
    assert sorted(path.name for path in program.checkpoints.glob("*.checkpoint")) == written[-3:]
    assert [event["epoch"] for event in of_kind(events, "epoch_saved")] == [1]
    model = (program.checkpoints / "epoch-1" / "adapter_model.safetensors").read_bytes()
    assert len(model) == len(weights)
    assert model != weights


def test_no_row_is_in_a_checkpoint(program: Program) -> None:
    program.finish(asked=True)
    content = b"".join(path.read_bytes() for path in program.checkpoints.rglob("*") if path.is_file())
    assert len(content) > 10_000
    for text in (SECRET_WORD, "question", "Zero"):
        assert text.encode() not in content
    assert all(path.stat().st_mode & 0o077 == 0 for path in program.checkpoints.glob("*.checkpoint"))


def test_asked_to_go_on_later_it_writes_one_more_and_ends(program: Program) -> None:
    _, weights = program.finish(checkpoint_dir=None)
    quiet = {"checkpoint_steps": None, "checkpoint_seconds": None}
    status = program.interrupt(signal.SIGUSR1, when=lambda event: event["event"] == "step", **quiet)
    assert status == 75
    assert len(list(program.checkpoints.glob("*.checkpoint"))) == 1
    events, resumed = program.finish(resume_from=[str(program.checkpoints)], **quiet)
    assert of_kind(events, "resumed")[0]["step"] >= 1
    assert resumed == weights


def test_asked_before_there_is_anything_to_keep_it_ends(program: Program) -> None:
    status = program.interrupt(signal.SIGUSR1, when=lambda event: event["event"] == "loading")
    assert status == 128 + signal.SIGUSR1
    assert not list(program.checkpoints.glob("*.checkpoint"))


def test_a_full_disk_costs_the_checkpoint_and_not_the_run(program: Program) -> None:
    """A file-size limit between the adapter's size and a checkpoint's, which has AdamW's moments too."""
    _, weights = program.finish(checkpoint_dir=None)
    limit = len(weights) + 2000
    events, result = program.finish(limit=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert {event["reason"] for event in of_kind(events, "checkpoint_not_written")} == {"disk_full"}
    assert not of_kind(events, "checkpoint")
    assert result == weights
    assert not [path for path in program.checkpoints.iterdir() if path.is_file()]


def test_two_trainings_never_share_a_device(program: Program, tmp_path: Path) -> None:
    locks = {"device_lock_dir": str(tmp_path / "locks"), "checkpoint_dir": None}
    first, _ = program.start(n_epochs=100, **locks)
    assert first.stdout is not None
    while json.loads(first.stdout.readline())["event"] != "step":
        pass
    # A process that is stopped still has its memory on the device, and the lock.
    first.send_signal(signal.SIGSTOP)
    second, _ = program.start(**locks)
    assert second.stdout is not None
    said = [json.loads(second.stdout.readline())["event"] for _ in range(2)]
    assert said == ["loading", "waiting_for_device"]
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(2)
    first.kill()
    first.communicate()
    out, _ = second.communicate(timeout=60)
    assert json.loads(out.splitlines()[-1])["event"] == "finished"


def test_as_many_as_a_device_has_slots(program: Program, tmp_path: Path) -> None:
    locks = {"device_lock_dir": str(tmp_path / "locks"), "checkpoint_dir": None, "device_slots": 2}
    first, _ = program.start(n_epochs=100, **locks)
    assert first.stdout is not None
    while json.loads(first.stdout.readline())["event"] != "step":
        pass
    first.send_signal(signal.SIGSTOP)
    events, _ = program.finish(**locks)
    assert not of_kind(events, "waiting_for_device")
    first.kill()
    first.communicate()
