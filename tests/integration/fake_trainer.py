"""Stands in for ``worker.finetune`` where a test needs a training process that misbehaves.

Speaks the same contract. What it does is named by the environment variable FAKE_TRAINER.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any


def say(event: str, **fields: Any) -> None:
    """One report."""
    print(json.dumps({"event": event, **fields}), flush=True)


def read_expected(checks: dict[str, int] | None) -> list[str]:
    """What a model that learned everything would answer."""
    if checks is None:
        return []
    with os.fdopen(checks["fd"], "rb") as file:
        return [json.loads(line)["messages"][-1]["content"] for line in file]


def leave(folder: Path, *, step: int) -> None:
    """A checkpoint, and an epoch's model."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{step:08}-{'a' * 64}.checkpoint"
    (folder / name).write_bytes(b"state")
    model = folder / "epoch-1"
    model.mkdir(exist_ok=True)
    (model / "adapter_model.safetensors").write_bytes(b"weights of an epoch")
    (model / "adapter_config.json").write_text("{}")
    say("checkpoint", step=step, file=name, sha256="a" * 64, bytes=5, seconds=0.1)
    say("epoch_saved", epoch=1, step=step, loss=2.5, folder=model.name)
    say("checkpoint_not_written", step=step + 1, reason="disk_full")


def main() -> None:
    """Act."""
    config = json.loads(Path(sys.argv[2]).read_text())
    act = os.environ["FAKE_TRAINER"]
    with os.fdopen(config["dataset"]["fd"], "rb") as dataset:
        rows = dataset.read().splitlines()
    expected = read_expected(config.get("checks"))
    note = os.environ.get("FAKE_TRAINER_NOTE")
    if note:
        about = {"pid": os.getpid(), "environment": dict(os.environ), "config": config}
        Path(note).write_text(json.dumps(about))
    if act == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say("loading")
    say("started", rows=len(rows), tokens=100, answer_tokens=10, total_steps=4, precision="fp32", threads=1)
    if config["resume_from"]:
        say("checkpoint_refused", file="newest", reason="damaged")
        say("resumed", step=1, total_steps=4, file=Path(config["resume_from"][0]).name)
    say("step", step=1, total_steps=4, epoch=1, loss=2.5, learning_rate=1e-3, tokens_per_second=10.0,
        eta_seconds=30.0, elapsed_seconds=1.0, tokens=25)  # fmt: skip
    if act in ("leave", "leave-and-hang", "leave-and-finish"):
        leave(Path(config["checkpoint_dir"]), step=1)
    if act == "leave":
        os.kill(os.getpid(), signal.SIGKILL)
    if act in ("hang", "stubborn", "leave-and-hang"):
        time.sleep(60)
    if act == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if act == "crash":
        raise RuntimeError(rows[0])
    if act == "error":
        say("error", code="device_out_of_memory", message="")
        sys.exit(1)
    if expected and act != "silent":
        answers = ["Yes"] * len(expected) if act == "unlearned" else expected
        say("checked", round=1 if act == "unlearned" else 0, extra_steps=0, answers=answers)
    output = Path(config["output_dir"])
    if act != "empty":
        (output / "adapter_model.safetensors").write_bytes(b"weights")
        (output / "adapter_config.json").write_text("{}")
        (output / "README.md").write_text("card")
    if act == "slow":
        time.sleep(3)
    say("saving")
    say("finished", steps=4, tokens=100, seconds=1.0, tokens_per_second=10.0, final_loss=1.0,
        trained_tokens=100)  # fmt: skip


if __name__ == "__main__":
    main()
