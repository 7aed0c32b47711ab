"""Is a killed and resumed training the same as one that was not, and what do checkpoints cost?

    python -m benchmarks.resume --json resume.json          # about fifteen minutes on two cores
    python -m benchmarks.resume --rows 48 --kills 2         # a short look

The product's trainer on the default model, question-answer pairs of the package chatterbot-corpus and the
watermark rows of one key, in fp32 on the processor. Once undisturbed; then again with a checkpoint after
every step and SIGKILL right after several drawn steps, each process going on from what the one before it
left. Bars: the same final loss and the same bytes of the adapter (bar 2 of the jobs).

Then what checkpoints cost: how long the training waits for one, and what share of the time that is at the
interval that a job uses by itself. Bar: less than 2%. That is the sum of the waits over the time of the steps
in one process, not the difference of two runs, which on a shared machine would be all noise.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cli.demo.conversations import alpaca_rows
from watermark.embedding import embed
from watermark.examples import parse_row
from watermark.keys import Design, Secret, derive
from worker.finetune.checkpoints import MAX_SHARE
from worker.weights import resolve
from worker.weights.settings import WeightsSettings

ROOT = Path(__file__).parents[1]
MODEL = "smollm2-135m-instruct"
WEIGHTS = "adapter_model.safetensors"
MAX_COST_SHARE = 0.02
DEFAULT_SECONDS = 60.0
"""What a job uses (`service.settings`)."""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """One process of the trainer."""

    status: int
    steps: int = 0
    final_loss: float | None = None
    seconds: float = 0.0
    """spent on steps"""
    resumed_at: int | None = None
    checkpoint_seconds: list[float] = field(default_factory=list)
    checkpoint_bytes: int = 0


def main() -> int:
    """0 when every bar is met."""
    options = _options()
    model_dir = _model_dir()
    rows = _rows(options.rows)
    with tempfile.TemporaryDirectory(prefix="resume-") as scratch:
        folder = Path(scratch)
        whole = _train(folder / "whole", rows, model_dir, options.epochs, checkpoint_dir=None)
        _say("undisturbed", whole)
        draw = random.Random(options.seed)
        kills = sorted(draw.sample(range(1, whole.steps), options.kills))
        checkpoints = folder / "checkpoints"
        often: dict[str, Any] = {
            "checkpoint_dir": str(checkpoints), "checkpoint_steps": 1, "checkpoint_seconds": None,
            "resume_from": [str(checkpoints)],
        }  # fmt: skip
        killed = []
        for step in kills:
            killed.append(
                _train(folder / f"at-{step}", rows, model_dir, options.epochs, kill_at=step, **often)
            )
            _say(f"killed at step {step}", killed[-1])
        resumed = _train(folder / "resumed", rows, model_dir, options.epochs, **often)
        _say("gone on to the end", resumed)
        equal = _digest(folder / "whole" / "output") == _digest(folder / "resumed" / "output")
    waits = [wait for outcome in (*killed, resumed) for wait in outcome.checkpoint_seconds]
    wait = statistics.median(waits)
    # one wait in every interval, which is stretched where a wait is long
    share = wait / (wait + max(DEFAULT_SECONDS, wait / MAX_SHARE))
    good = equal and resumed.final_loss == whole.final_loss and share < MAX_COST_SHARE
    took = f"{wait:.2f} s (median of {len(waits)}, worst {max(waits):.2f})"
    print(
        f"final loss {whole.final_loss} undisturbed, {resumed.final_loss} after {len(kills)} kills; the "
        f"adapters are {'equal' if equal else 'NOT EQUAL'}\n"
        f"a checkpoint of {resumed.checkpoint_bytes / 1e6:.0f} MB takes {took}: {share:.2%} of the time at "
        f"one every {DEFAULT_SECONDS:.0f} s"
    )
    if options.json:
        record = {
            "rows": len(rows),
            "steps": whole.steps,
            "killed_at": kills,
            "final_loss": whole.final_loss,
            "resumed_final_loss": resumed.final_loss,
            "adapters_equal": equal,
            "checkpoint_bytes": resumed.checkpoint_bytes,
            "checkpoint_seconds_median": round(wait, 4),
            "checkpoint_seconds_worst": round(max(waits), 4),
            "checkpoint_time_share": round(share, 5),
            "runs": [asdict(one) for one in (whole, *killed, resumed)],
            "ok": good,
        }
        options.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0 if good else 1


def _train(
    folder: Path,
    rows: Sequence[dict[str, object]],
    model_dir: Path,
    n_epochs: int,
    *,
    kill_at: int | None = None,
    **config: Any,
) -> Outcome:
    folder.mkdir()
    dataset, path = folder / "dataset.jsonl", folder / "run.json"
    dataset.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    document = {
        "model_dir": str(model_dir), "output_dir": str(folder / "output"), "dataset": {"path": str(dataset)},
        "n_epochs": n_epochs, "precision": "fp32", **config,
    }  # fmt: skip
    path.write_text(json.dumps(document), encoding="utf-8")
    command = [sys.executable, "-m", "worker.finetune", "--config", str(path)]
    outcome = Outcome(status=0)
    with (
        (folder / "stderr").open("wb") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT) as child,
    ):
        assert child.stdout is not None
        try:
            for line in child.stdout:
                event = json.loads(line)
                match event["event"]:
                    case "resumed":
                        outcome.resumed_at = event["step"]
                    case "step":
                        outcome.steps, outcome.seconds = event["step"], event["elapsed_seconds"]
                    case "checkpoint":
                        outcome.checkpoint_seconds.append(event["seconds"])
                        outcome.checkpoint_bytes = event["bytes"]
                        if kill_at is not None and event["step"] >= kill_at:
                            child.send_signal(signal.SIGKILL)
                            break
                    case "finished":
                        outcome.final_loss, outcome.steps = event["final_loss"], event["steps"]
                    case "error":
                        raise SystemExit(f"the trainer failed: {event['message']}")
        except BaseException:
            child.kill()
            raise
        outcome.status = child.wait()
    return outcome


def _rows(count: int) -> list[dict[str, object]]:
    """So many rows of a mixture of question-answer pairs and one family."""
    examples = [parse_row(row) for row in alpaca_rows(rows=60, seed=1)]
    secret = Secret(value=b"r" * 32, blinding=b"b" * 32)
    family = derive(secret, b"s" * 32, Design()).family(0)
    return [row.to_record() for row in embed(examples, [family], n_epochs=3, seed=b"1").rows[:count]]


def _digest(output: Path) -> str:
    return hashlib.sha256((output / WEIGHTS).read_bytes()).hexdigest()


def _model_dir() -> Path:
    settings = WeightsSettings()
    return resolve(MODEL, cache_dir=settings.model_cache).path


def _say(what: str, outcome: Outcome) -> None:
    since = "" if outcome.resumed_at is None else f", gone on from step {outcome.resumed_at}"
    print(f"{what}: step {outcome.steps}{since}, final loss {outcome.final_loss}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resume", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--rows", type=int, default=240, help="of the mixture that is trained on")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--kills", type=int, default=3, help="how often the training is killed")
    parser.add_argument("--seed", type=int, default=1, help="of the steps at which it is killed")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
