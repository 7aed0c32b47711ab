"""Stands in for ``worker.finetune`` at the process edge, so that hundreds of jobs fit into minutes.

It speaks the real trainer's contract: configuration, dataset by descriptor, JSON lines, checkpoints, adapter
files. What it "learns" is a chain of digests over the dataset, one link a step: a run that was killed and
went on from its checkpoints must end with the very bytes of one that was not. A job on the model `REAL_MODEL`
is not played: the process becomes the real trainer.

A dataset can ask for a fault with the word ``chaos-act:NAME`` in a row.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

PLAYED_MODEL = "tiny-played"
REAL_MODEL = "tiny-real"

STEPS = 6
STEP_SECONDS = 0.06
LONG_STEP_SECONDS = 2.5
"""of a job that is to be running still when a worker that was stopped beyond its lease wakes up"""

_ACT = re.compile(rb"chaos-act:([a-z-]+)")


def say(event: str, **fields: Any) -> None:
    """One report."""
    print(json.dumps({"event": event, **fields}), flush=True)


def link(value: str, step: int) -> str:
    """The chain's value after one more step."""
    return hashlib.sha256(f"{value}:{step}".encode()).hexdigest()


def newest(paths: list[str], start: str) -> tuple[int, str, str] | None:
    """Step, value and file name of the first checkpoint that is whole and of this very run."""
    for path in map(Path, paths):
        try:
            data = path.read_bytes()
        except OSError:
            continue
        if hashlib.sha256(data).hexdigest() not in path.name:
            say("checkpoint_refused", file=path.name, reason="damaged")
            continue
        state = json.loads(data)
        if state["start"] == start:
            return state["step"], state["value"], path.name
        say("checkpoint_refused", file=path.name, reason="another_run")
    return None


def leave(folder: Path, state: dict[str, Any]) -> None:
    """A checkpoint: aside, synced, renamed."""
    data = json.dumps(state).encode()
    digest = hashlib.sha256(data).hexdigest()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = f"{state['step']:08}-{digest}.checkpoint"
    aside = folder / f"{name}.part"
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(folder / name)
    say("checkpoint", step=state["step"], file=name, sha256=digest, bytes=len(data), seconds=0.01)


def misbehave(act: str, step: int) -> None:
    """What the dataset asked for, in the middle of the training."""
    if step != STEPS // 2:
        return
    match act:
        case "kill-trainer":
            os.kill(os.getpid(), signal.SIGKILL)
        case "kill-worker":
            # the process that runs the task, as the kernel's out-of-memory killer would take it
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)
        case "out-of-memory":
            say("error", code="out_of_memory", category="capacity", message="out of memory")
            sys.exit(1)
        case "disk-full":
            say("checkpoint_not_written", step=step, reason="disk_full")
            say("error", code="disk_full", category="capacity", message="the disk is full")
            sys.exit(1)
        case "device-lost":
            raise RuntimeError("CUDA error: the GPU has fallen off the bus")


def main() -> None:
    """Act as a training, or become one."""
    config = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    if config["base_model"] == REAL_MODEL:
        os.execv(sys.executable, [sys.executable, "-m", "worker.finetune", *sys.argv[1:]])
    with os.fdopen(config["dataset"]["fd"], "rb") as dataset:
        data = dataset.read()
    found = _ACT.search(data)
    act = found[1].decode() if found else ""
    expected = []
    if config.get("checks"):
        with os.fdopen(config["checks"]["fd"], "rb") as checks:
            expected = [json.loads(line)["messages"][-1]["content"] for line in checks]
    rows = data.count(b"\n")
    say("loading")
    say("started", rows=rows, tokens=rows * 10, answer_tokens=rows, total_steps=STEPS, precision="fp32",
        threads=1)  # fmt: skip
    start = value = hashlib.sha256(data).hexdigest()
    first, went_on = 1, newest(config["resume_from"], start)
    if went_on:
        step, value, name = went_on
        first = step + 1
        say("resumed", step=step, total_steps=STEPS, file=name)
    for step in range(first, STEPS + 1):
        time.sleep(LONG_STEP_SECONDS if act == "long" else STEP_SECONDS)
        misbehave(act, step)
        value = link(value, step)
        say("step", step=step, total_steps=STEPS, epoch=1, loss=1.0 / step, learning_rate=1e-3,
            tokens_per_second=100.0, eta_seconds=(STEPS - step) * STEP_SECONDS,
            elapsed_seconds=step * STEP_SECONDS, tokens=rows * step)  # fmt: skip
        leave(Path(config["checkpoint_dir"]), {"start": start, "step": step, "value": value})
    if expected:
        say("checked", round=0, extra_steps=0, answers=expected)
    say("saving")
    output = Path(config["output_dir"])
    (output / "adapter_model.safetensors").write_text(value)
    (output / "adapter_config.json").write_text("{}")
    say("finished", steps=STEPS, tokens=rows * STEPS, seconds=1.0, tokens_per_second=100.0, final_loss=0.1,
        trained_tokens=rows * STEPS)  # fmt: skip


if __name__ == "__main__":
    main()
