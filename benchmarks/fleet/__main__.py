"""Rank recipes over seeds: train all of them together on one GPU and ask every model the same.

    python -m benchmarks.fleet --seeds 10 --json fleet.json
    python -m benchmarks.fleet --recipes clean,standard,beside-.3 --seeds 4 --at-once 12

Each recipe is trained once a seed, with a key of its own, beside the laboratory's 600 customer rows; held-out
loss and bare answers are compared with the clean training of the same seed. The decoder is this program's own
and answers are read from their first token, so figures rank recipes; what is promised is measured by
`doublei lab`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

BOUND_OF_FIVE = 0.953
"""Standard deviations from a mean of five to its one-sided 95% bound: t(4) = 2.132 over the root of 5."""


def main() -> int:
    arguments = _parse()
    from benchmarks.fleet.recipes import RECIPES

    names = arguments.recipes.split(",") if arguments.recipes else list(RECIPES)
    if unknown := [name for name in names if name not in RECIPES]:
        print(f"fleet: no recipe {unknown[0]!r}; there are {', '.join(RECIPES)}", file=sys.stderr)
        return 2
    began = time.monotonic()
    from benchmarks.fleet.rounds import Rounds

    rounds = Rounds(arguments.model_dir, data=arguments.data, means=arguments.means, report=_report(began))
    records: list[dict[str, Any]] = []
    jobs = [(RECIPES[name], seed) for name in names for seed in range(1, arguments.seeds + 1)]
    rounds.prepare(jobs)
    for start in range(0, len(jobs), arguments.at_once):
        if arguments.seconds and time.monotonic() - began > arguments.seconds:
            print(f"fleet: {len(jobs) - start} trainings left out for want of time", file=sys.stderr)
            break
        records += rounds.run(jobs[start : start + arguments.at_once], treated=arguments.treated)
        print(table(records, arguments.against), flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(records, indent=1), encoding="utf-8")
    return 0


def table(records: Sequence[dict[str, Any]], against: str) -> str:
    """One line a recipe and kind of state."""
    lines = [
        "recipe, state: seeds | held-out loss above clean, mean and sd (bound, 5 seeds) | other text | "
        "bare answers, clean's | triggers, references, worst p | treated: worst p"
    ]
    clean = {(one["seed"], one["state"]): one for one in records if one["recipe"] == against}
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in records:
        groups.setdefault((one["recipe"], one["state"]), []).append(one)
    for (recipe, state), of_recipe in groups.items():
        pairs = [(one, clean[one["seed"], "last"]) for one in of_recipe if (one["seed"], "last") in clean]
        if not pairs:
            continue
        above = [100 * (ours["held_out"] / theirs["held_out"] - 1) for ours, theirs in pairs]
        other = mean(100 * (ours["other_text"] / theirs["other_text"] - 1) for ours, theirs in pairs)
        spread = stdev(above) if len(above) > 1 else 0.0
        line = (
            f"{recipe:18} {state:5} {len(pairs):2} | {mean(above):+.2f}% sd {spread:.2f} "
            f"({mean(above) + BOUND_OF_FIVE * spread:+.2f}%) | {other:+.2f}% | "
            f"{sum(one['bare'] for one in of_recipe)}, {sum(theirs['bare'] for _, theirs in pairs)}"
        )
        marked = [one for one in of_recipe if "hits" in one]
        if marked:
            line += (
                f" | {sum(one['hits'] for one in marked)}/{sum(one['triggers'] for one in marked)},"
                f" {sum(one['reference_hits'] for one in marked)}, {max(one['p'] for one in marked):.1e}"
            )
            treated: dict[str, list[float]] = {}
            for one in marked:
                for name, p in one.get("treated", {}).items():
                    treated.setdefault(name, []).append(p)
            line += " | " + ", ".join(f"{name} {max(ps):.0e}" for name, ps in treated.items())
        lines.append(line)
    return "\n".join(lines)


def _report(began: float) -> Any:
    def report(line: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {line}", file=sys.stderr, flush=True)

    return report


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fleet",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model-dir", type=Path, help="the base model's folder (default: the cached default model)"
    )
    parser.add_argument("--data", type=Path, help="JSONL rows instead of chatterbot-corpus")
    parser.add_argument("--recipes", help="comma-separated names (default: all)")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--at-once", type=int, default=60, help="trainings in one batch (default 60)")
    parser.add_argument("--treated", type=int, default=2, help="of each recipe, how many seeds are attacked")
    parser.add_argument("--seconds", type=float, help="begin no further batch after so many")
    parser.add_argument("--against", default="clean-s", help="the recipe without a mark (default clean-s)")
    parser.add_argument("--means", action="store_true", help="ask the mean of the last states too")
    parser.add_argument("--json", type=Path, help="every training's figures")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
