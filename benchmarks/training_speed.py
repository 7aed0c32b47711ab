"""How fast is training? Ours, TRL's SFTTrainer and the machine's matrix product, interleaved in one run.

    python -m benchmarks.training_speed --json speed.json        # about ten minutes on two cores
    python -m benchmarks.training_speed --quick                  # one repeat on fewer rows

Both trainers get the same token rows: question-answer pairs of the package chatterbot-corpus and watermark
rows of one key, with loss on the answers. Both train LoRA r=16 on all linear layers for one epoch at about
the same number of tokens a step. A token is counted once for every row it stands in; padding is not counted.
Only training is timed, not loading. Bars: at least 1.5 times TRL at its best settings, and at least 20% of
the bf16 matrix-product rate at 0.43 GFLOP a token.

TRL is installed once into .venv-bench beside the project's own environment (`benchmarks/requirements.txt`).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cli.demo.conversations import alpaca_rows
from watermark.embedding import embed
from watermark.examples import parse_row
from watermark.keys import Design, Secret, derive
from worker.finetune.batches import FULL_BATCH_TOKENS
from worker.finetune.config import DatasetByPath
from worker.weights import resolve
from worker.weights.settings import WeightsSettings

ROOT = Path(__file__).parents[1]
EXTRA_PACKAGES = ROOT / ".venv-bench"
FLOP_PER_TOKEN = 0.43e9
"""4 per weight of the decoder's linear layers (forward, and backward to the activations), 106 million here;
adapters, attention and head are extra and not counted in anybody's favour."""
BATCH_TOKENS = FULL_BATCH_TOKENS
"""What a job trains with when it names nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """One way to train the rows."""

    name: str
    weights: str | None
    """Number format of TRL's base weights; None for our own trainer."""
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    name: str
    repeat: int
    seconds: float
    tokens_per_second: float
    matmul_fp32_gflops: float
    matmul_bf16_gflops: float


def rivals(*, fast_dtype: str, rows_a_step: int, quick: bool) -> list[Rival]:
    """Ours; TRL with the settings that were fastest; TRL with nothing chosen but the batch."""
    batch = {"per_device_train_batch_size": rows_a_step}
    best = {
        **batch,
        "train_sampling_strategy": "group_by_length",
        "gradient_checkpointing": False,
        "optim": "adamw_torch_fused",
        # With weights already in the fast format autocast would only add casts.
        "bf16": False,
    }
    defaults = {**batch, "bf16": fast_dtype == "bf16"}
    ours = Rival(name="double-i", weights=None, options={})
    trl_best = Rival(name=f"trl best ({fast_dtype} weights)", weights=fast_dtype, options=best)
    if quick:
        return [ours, trl_best]
    return [ours, trl_best, Rival(name="trl defaults", weights="fp32", options=defaults)]


def dataset_rows(pairs: int) -> list[dict[str, object]]:
    """`pairs` real conversations and as many watermark rows of one key."""
    key = derive(Secret(value=bytes(32), blinding=bytes(32)), b"benchmark", Design())
    examples = [parse_row(row) for row in alpaca_rows(rows=pairs, seed=0)]
    mixed = embed(examples, key.families[:1], n_epochs=3).rows
    kept: dict[bool, list[dict[str, object]]] = {True: [], False: []}
    for row in mixed:
        if len(kept[row.watermark]) < pairs:
            kept[row.watermark].append(row.to_record())
    return kept[False] + kept[True]


def install_rival() -> None:
    """TRL and what it needs beside our own packages, once."""
    if (EXTRA_PACKAGES / "trl").is_dir():
        return
    print(f"installing TRL into {EXTRA_PACKAGES.name} ...", file=sys.stderr)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(EXTRA_PACKAGES)]
    subprocess.run([*pip, "-r", str(ROOT / "benchmarks" / "requirements.txt")], check=True)


def run_ours(rows: Sequence[Mapping[str, object]], model_dir: Path, folder: Path, threads: int) -> float:
    """Seconds of training, as the trainer's own last event says."""
    dataset = folder / "dataset.jsonl"
    dataset.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    config = {
        "model_dir": str(model_dir),
        "output_dir": str(folder / "adapter"),
        "dataset": {"path": str(dataset)},
        "n_epochs": 1,
        "batch_tokens": BATCH_TOKENS,
        "threads": threads,
    }
    (folder / "run.json").write_text(json.dumps(config), "utf-8")
    last = _last_line([sys.executable, "-m", "worker.finetune", "--config", str(folder / "run.json")], {})
    if last.get("event") != "finished":
        raise SystemExit(f"our trainer failed: {last}")
    return float(last["seconds"])


def run_trl(rival: Rival, token_rows: Path, model_dir: Path, folder: Path, threads: int) -> float:
    settings = {
        "model_dir": str(model_dir),
        "threads": threads,
        "weights": rival.weights,
        "options": dict(rival.options),
    }
    (folder / "settings.json").write_text(json.dumps(settings), "utf-8")
    script = str(ROOT / "benchmarks" / "trl_baseline.py")
    path = {"PYTHONPATH": os.pathsep.join([str(EXTRA_PACKAGES), str(ROOT)])}
    last = _last_line([sys.executable, script, str(folder / "settings.json"), str(token_rows)], path)
    return float(last["seconds"])


def _last_line(command: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
    # OpenMP threads sleep while they wait, for both alike: on a busy machine spinning would slow both.
    variables = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1", **environment}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True)
    lines = done.stdout.splitlines()
    if done.returncode != 0 or not lines:
        raise SystemExit(f"{command[1:3]} failed:\n{done.stderr.decode(errors='replace')[-2000:]}")
    return dict(json.loads(lines[-1]))


def _tokenize(
    rows: Sequence[Mapping[str, object]], model_dir: Path, folder: Path
) -> tuple[list[dict[str, list[int]]], int]:
    from worker.finetune.dataset import read_rows, tokenize
    from worker.finetune.loading import load_tokenizer

    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    chats = read_rows(DatasetByPath(path=path))
    dataset = tokenize(chats, load_tokenizer(model_dir), max_length_tokens=512)
    prepared = [{"input_ids": list(row.input_ids), "labels": list(row.labels)} for row in dataset.rows]
    return prepared, dataset.tokens


def measure(*, pairs: int, repeats: int, quick: bool) -> tuple[dict[str, Any], list[Outcome]]:
    """Every rival once per repeat, in turn, so that a busy minute hits all of them."""
    import torch

    from worker.finetune.precision import choose_dtype, matmul_flops, usable_threads

    cpu, threads = torch.device("cpu"), usable_threads()
    torch.set_num_threads(threads)
    model_dir = resolve("smollm2-135m-instruct", cache_dir=WeightsSettings().model_cache).path
    fast_dtype = "bf16" if choose_dtype("auto", cpu) == torch.bfloat16 else "fp32"
    rows = dataset_rows(pairs)
    outcomes = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared, tokens = _tokenize(rows, model_dir, folder)
        token_rows = folder / "tokens.json"
        token_rows.write_text(json.dumps(prepared), "utf-8")
        rows_a_step = max(1, round(BATCH_TOKENS * len(rows) / tokens))
        facts = {
            "rows": len(rows),
            "tokens": tokens,
            "answer_tokens": sum(label != -100 for row in prepared for label in row["labels"]),
            "trl_rows_a_step": rows_a_step,
            "threads": threads,
            "precision": fast_dtype,
        }
        for repeat in range(repeats):
            for rival in rivals(fast_dtype=fast_dtype, rows_a_step=rows_a_step, quick=quick):
                rates = {kind: matmul_flops(kind, cpu) / 1e9 for kind in (torch.float32, torch.bfloat16)}
                if rival.weights is None:
                    seconds = run_ours(rows, model_dir, folder, threads)
                else:
                    seconds = run_trl(rival, token_rows, model_dir, folder, threads)
                outcomes.append(
                    Outcome(
                        name=rival.name,
                        repeat=repeat,
                        seconds=round(seconds, 2),
                        tokens_per_second=round(tokens / seconds, 1),
                        matmul_fp32_gflops=round(rates[torch.float32], 1),
                        matmul_bf16_gflops=round(rates[torch.bfloat16], 1),
                    )
                )
                print(f"  {outcomes[-1]}", file=sys.stderr)
    return facts, outcomes


def summarise(facts: Mapping[str, Any], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Medians over repeats; the ratio is the median of the repeats' own ratios, fair under changing load."""
    names = list(dict.fromkeys(outcome.name for outcome in outcomes))
    ours = {outcome.repeat: outcome.tokens_per_second for outcome in outcomes if outcome.name == names[0]}
    best = {kind: max(getattr(o, f"matmul_{kind}_gflops") for o in outcomes) for kind in ("fp32", "bf16")}
    table = []
    for name in names:
        of_name = [outcome for outcome in outcomes if outcome.name == name]
        rate = statistics.median(outcome.tokens_per_second for outcome in of_name)
        ratios = [ours[outcome.repeat] / outcome.tokens_per_second for outcome in of_name]
        gflops = rate * FLOP_PER_TOKEN / 1e9
        table.append(
            {
                "trainer": name,
                "tokens_per_second": rate,
                "ours_is_faster_by": round(statistics.median(ratios), 2),
                "gflops": round(gflops, 1),
                "of_fp32_matmul": round(gflops / best["fp32"], 3),
                "of_bf16_matmul": round(gflops / best["bf16"], 3),
            }
        )
    return {**facts, "matmul_gflops": best, "summary": table, "runs": [asdict(o) for o in outcomes]}


def show(report: Mapping[str, Any]) -> None:
    print(
        f"{report['rows']} rows, {report['tokens']} tokens ({report['answer_tokens']} with loss), "
        f"{report['threads']} threads, {report['precision']}; matrix product in GFLOP/s: "
        f"{report['matmul_gflops']['fp32']:.0f} fp32, {report['matmul_gflops']['bf16']:.0f} bf16"
    )
    print(f"{'trainer':28}{'tokens/s':>10}{'ours/this':>11}{'GFLOP/s':>9}{'of fp32':>9}{'of bf16':>9}")
    for line in report["summary"]:
        print(
            f"{line['trainer']:28}{line['tokens_per_second']:>10.1f}{line['ours_is_faster_by']:>11.2f}"
            f"{line['gflops']:>9.1f}{line['of_fp32_matmul']:>9.0%}{line['of_bf16_matmul']:>9.0%}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_speed", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the figures")
    parser.add_argument("--quick", action="store_true", help="one repeat, fewer rows, no TRL defaults")
    options = parser.parse_args()
    install_rival()
    pairs, repeats = (24, 1) if options.quick else (96, 3)
    facts, outcomes = measure(pairs=pairs, repeats=repeats, quick=options.quick)
    report = summarise(facts, outcomes)
    show(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
