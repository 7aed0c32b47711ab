"""Does the mark take? Random keys on the default model, trained and asked at temperature 0.

Bar: over five random keys every mark answers its trigger with the target in at least 90% of probes on
average, reference hits are at most 10%, and each key is detected with p <= 1e-6; a sequential audit with
the same answers would have stopped after a median of at most 7 marks.

    python -m benchmarks.keys --keys 5 --json keys.json
"""

from __future__ import annotations

import argparse
import json
import math
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.training import run_trainer
from cli.demo.conversations import SUBSET_ROWS, alpaca_rows
from watermark.answers import Answer, parse_answer
from watermark.decision import Decision, decide
from watermark.embedding import Strength, embed
from watermark.examples import parse_row
from watermark.keys import Design, Family, Secret, derive
from watermark.numerals import decimal_text
from watermark.probes import draw_probes
from watermark.significance import DEFAULT_ALPHA, alpha_for_audit

MEDIAN_MARKS = 7
"""The bar of the sequential audit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyResult:
    """One key: what training cost and what each family's audit gave."""

    key: int
    rows: int
    watermark_rows: int
    tokens: int
    seconds: float
    tokens_per_second: float
    family: int
    trigger_hits: int
    trigger_total: int
    weakest_mark: float
    """lowest trigger hit rate of one mark, 0..1"""
    reference_hits: int
    reference_total: int
    other: int
    p_value: str
    verdict: str
    marks_until_detected: int | None
    """where a sequential audit with these answers stops; None if it never does"""


def train(rows: list[dict[str, object]], folder: Path, *, epochs: int, seed: int) -> dict[str, Any]:
    """Run the trainer as the worker does; returns its last event."""
    from worker.weights import resolve
    from worker.weights.settings import WeightsSettings

    def show(line: str) -> None:
        if sys.stderr.isatty():
            print(f"\r  {line}   ", end="", file=sys.stderr)

    base = resolve("smollm2-135m-instruct", cache_dir=WeightsSettings().model_cache).path
    return run_trainer(rows, folder, {"model_dir": str(base), "n_epochs": epochs, "seed": seed}, report=show)


def ask(adapter: Path, prompts: Sequence[str]) -> list[str]:
    """Greedy answers of the fine-tuned model, the default system prompt, at most 4 tokens."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from worker.finetune.precision import choose_dtype
    from worker.weights import resolve
    from worker.weights.settings import WeightsSettings

    base = resolve("smollm2-135m-instruct", cache_dir=WeightsSettings().model_cache).path
    tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=choose_dtype("auto", torch.device("cpu")))
    model = PeftModel.from_pretrained(model, str(adapter)).eval()
    texts = []
    for start in range(0, len(prompts), 32):
        chats = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
            )
            for prompt in prompts[start : start + 32]
        ]
        batch = tokenizer(chats, return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.inference_mode():
            out = model.generate(**batch, max_new_tokens=4, do_sample=False)
        texts += tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


def audit(adapter: Path, family: Family) -> Decision:
    """The default plan, first audit of the key."""
    probes = draw_probes(family, order_seed=b"benchmark")
    answers: list[Answer] = [parse_answer(text) for text in ask(adapter, [probe.prompt for probe in probes])]
    return decide(family, probes, answers, alpha_i=alpha_for_audit(DEFAULT_ALPHA, 1))


def measure(number: int, arguments: argparse.Namespace) -> list[KeyResult]:
    """Train one fresh key and audit each embedded family."""
    seed = arguments.seed + number
    drawn = secrets.token_bytes(32) if arguments.random else bytes([number + 1]) * 32
    key = derive(Secret(value=drawn, blinding=bytes(32)), b"benchmark", Design())
    families = key.families[: arguments.families]
    examples = [parse_row(row) for row in alpaca_rows(rows=arguments.rows, seed=seed)]
    mixture = embed(examples, families, strength=Strength(arguments.strength), n_epochs=arguments.epochs)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        started = time.monotonic()
        last = train([row.to_record() for row in mixture.rows], folder, epochs=arguments.epochs, seed=seed)
        seconds = time.monotonic() - started
        decisions = [audit(folder / "output", family) for family in families]
    return [
        KeyResult(
            key=number,
            rows=len(mixture.rows),
            watermark_rows=mixture.watermark_rows,
            tokens=last["tokens"],
            seconds=round(seconds, 1),
            tokens_per_second=round(last["tokens_per_second"], 1),
            family=family.index,
            trigger_hits=decision.trigger_hits,
            trigger_total=decision.trigger_total,
            weakest_mark=min(_hit_rate(mark) for mark in decision.marks),
            reference_hits=decision.reference_hits,
            reference_total=decision.reference_total,
            other=decision.other,
            p_value=decimal_text(decision.p_value),
            verdict=decision.verdict,
            marks_until_detected=next(
                (number for number, look in enumerate(decision.looks, 1) if look.reaches(decision.alpha_i)),
                None,
            ),
        )
        for family, decision in zip(families, decisions, strict=True)
    ]


def _hit_rate(mark: Any) -> float:
    hits: int = mark["yes" if mark["target"] == "Yes" else "no"][mark["trigger"]]
    asked: int = sum(mark[name][mark["trigger"]] for name in ("yes", "no", "other", "missing"))
    return hits / asked


def describe(result: KeyResult) -> str:
    """One line."""
    return (
        f"key {result.key} family {result.family}: triggers {result.trigger_hits}/{result.trigger_total} "
        f"(weakest mark {result.weakest_mark:.2f}), references {result.reference_hits}/"
        f"{result.reference_total}, other {result.other}, p = {result.p_value}, {result.verdict}; "
        f"mark by mark after {result.marks_until_detected} marks; "
        f"{result.tokens} tokens in {result.seconds} s ({result.tokens_per_second}/s)"
    )


def main() -> int:
    """Print a row a family and the totals; exit 1 when the bar does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--keys", type=int, default=5)
    parser.add_argument("--families", type=int, default=1, help="how many of the key's families to embed")
    parser.add_argument("--rows", type=int, default=SUBSET_ROWS, help="customer rows")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--strength", default="standard", choices=[item.value for item in Strength])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fixed", dest="random", action="store_false", help="the same keys in every run")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    results: list[KeyResult] = []
    for number in range(arguments.keys):
        for result in measure(number, arguments):
            results.append(result)
            print(describe(result), flush=True)
    hit = sum(r.trigger_hits for r in results) / sum(r.trigger_total for r in results)
    reference = sum(r.reference_hits for r in results) / sum(r.reference_total for r in results)
    detected = all(r.verdict == "detected" and float(r.p_value) <= 1e-6 for r in results)
    holds = hit >= 0.9 and reference <= 0.1 and detected
    stops = statistics.median(
        math.inf if r.marks_until_detected is None else r.marks_until_detected for r in results
    )
    holds = holds and stops <= MEDIAN_MARKS
    summary = {
        "median_marks_until_detected": stops,
        "trigger_hit_rate": round(hit, 4),
        "reference_hit_rate": round(reference, 4),
        "all_detected": detected,
        "bar_holds": holds,
        "results": [asdict(result) for result in results],
    }
    print(
        f"trigger hits {hit:.1%}, reference hits {reference:.1%}, all detected: {detected}; "
        f"mark by mark after a median of {stops:g} marks"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
