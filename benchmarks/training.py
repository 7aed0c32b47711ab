"""The product's trainer as a program, run the way a worker runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


class TrainingFailed(Exception):
    """The trainer's own words."""


def run_trainer(
    rows: Sequence[Mapping[str, object]],
    folder: Path,
    config: Mapping[str, Any],
    *,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Train on ``rows`` and leave the result in ``folder/output``; returns the last event.

    Args:
        config: fields of `worker.finetune.config.RunConfig` but the dataset and the output folder.
        report: gets a line about every step.

    Raises:
        TrainingFailed: anything but a finished training.
    """
    dataset, path = folder / "dataset.jsonl", folder / "run.json"
    dataset.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sources = {"dataset": {"path": str(dataset)}, "output_dir": str(folder / "output")}
    path.write_text(json.dumps({**config, **sources}), encoding="utf-8")
    last: dict[str, Any] = {}
    command = [sys.executable, "-m", "worker.finetune", "--config", str(path)]
    with (
        (folder / "stderr").open("wb") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as child,
    ):
        assert child.stdout is not None
        try:
            for line in child.stdout:
                last = json.loads(line)
                if last["event"] == "step":
                    report(
                        f"step {last['step']}/{last['total_steps']} loss {last['loss']:.3f} "
                        f"{last['tokens_per_second']:.0f} tokens/s, {last['eta_seconds']:.0f} s left"
                    )
        except BaseException:
            child.terminate()
            raise
    if last.get("event") != "finished":
        raise TrainingFailed(str(last.get("message") or "the trainer ended without a report"))
    return last
