"""Run the laboratory: `python -m benchmarks.statistics --json FILE [--quick] [--plots DIR]`.

Exit status 1 when a check differs, a guaranteed test errs more often than alpha, power falls short of the
protocol's table, or a sequential audit of a clean default model takes more than 7 marks in the median.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from benchmarks.statistics import agreement, errors, plots, power, terminal
from benchmarks.statistics.errors import Rate
from benchmarks.statistics.power import Power
from benchmarks.statistics.suspects import INNOCENT, MARKED
from watermark.score import score_record

MEDIAN_MARKS = 7
Work = Callable[[], list[Any]]


def plan(seed: int, *, quick: bool) -> list[Work]:
    """Independent pieces of work, each with a seed of its own."""
    tables, keys = (100, 25) if quick else (2500, 50)
    worlds = dict.fromkeys(errors.REPEATED, (4, 50) if quick else (50, 400))
    worlds["the same answers again"] = (100, 25) if quick else (4000, 50)
    work: list[Work] = []
    for how in errors.REPEATED:
        work.append(partial(errors.repeated_audits, how, seed + len(work), *worlds[how]))
    for suspect in INNOCENT:
        work.append(partial(errors.one_audit, suspect, seed + len(work), tables, keys))
    for suspect in errors.PAPER_SUSPECTS:
        work.append(partial(errors.papers_design, suspect, seed + len(work), 300 if quick else 4000))
    names = [one.name for one in MARKED]
    for design in power.SIZES:
        audits = 60 if quick else 1000 if design in power.PROTOCOL else 400
        work.append(partial(power.measure, design, names, seed + len(work), audits))
    for design in () if quick else power.MORE_MARKS:
        work.append(partial(power.measure, design, power.RECOMMENDED_FOR, seed + len(work), 300))
    return work


def run(work: list[Work], jobs: int, console: Console) -> list[list[Any]]:
    """All pieces, in their order, with a bar."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    results: list[list[Any]] = [[] for _ in work]
    with (
        Progress(*columns, TextColumn("left:"), TimeRemainingColumn(), console=console) as progress,
        ProcessPoolExecutor(jobs) as pool,
    ):
        bar = progress.add_task("simulating", total=len(work))
        running = {pool.submit(piece): place for place, piece in enumerate(work)}
        for done in as_completed(running):
            results[running[done]] = done.result()
            progress.advance(bar)
    return results


def faults(checks: list[dict[str, object]], rates: list[Rate], found: list[Power]) -> list[str]:
    """Every bar that does not hold, in words."""
    said = [f"{check['name']}: {check['different']} differ" for check in checks if check["different"]]
    said += [f"{r.test} against {r.suspect} at {r.alpha:g}: {r.rate:.3g}" for r in rates if r.holds is False]
    said += [
        f"power of {one.marks}x{one.cues}x{one.probes} for {one.suspect}: {one.fixed:.2f}, not {one.protocol}"
        for one in found
        if one.holds is False
    ]
    default = next(one for one in found if one.suspect == ".95/.05" and one.design == (12, 8, 2))
    median = default.marks_until(0.5)
    if median is None or median > MEDIAN_MARKS:
        said.append(f"sequential takes {median} marks in the median")
    return said


def main() -> int:
    """Simulate, show, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="write statistics-*.svg there")
    parser.add_argument("--quick", action="store_true", help="fewer audits, wider error bars, under a minute")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 200)
    started = time.monotonic()
    checks = agreement.check(arguments.seed, quick=arguments.quick)
    results = run(plan(arguments.seed * 1000, quick=arguments.quick), arguments.jobs, console)
    flat = [one for result in results for one in result]
    rates = [one for one in flat if isinstance(one, Rate)]
    found = [one for one in flat if isinstance(one, Power)]
    tabled = [one for one in found if one.design in power.SIZES]
    recommended = power.recommend(found)
    terminal.show_checks(console, checks)
    terminal.show_rates(console, rates)
    terminal.show_power(console, tabled)
    terminal.show_recommended(console, recommended)
    said = faults(checks, rates, found)
    for fault in said:
        console.print(f"[red]does not hold:[/red] {fault}")
    summary = {
        "score": score_record(),
        "seed": arguments.seed,
        "quick": arguments.quick,
        "seconds": round(time.monotonic() - started, 1),
        "checks": checks,
        "false_positives": [rate.to_record() for rate in rates],
        "power": [one.to_record() for one in found],
        "recommended": recommended,
        "does_not_hold": said,
        "bars_hold": not said,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    if arguments.plots:
        arguments.plots.mkdir(parents=True, exist_ok=True)
        drawn = [rate for rate in rates if rate.test in plots.TEST_COLOURS]
        plots.plot_rates(drawn, arguments.plots / "statistics-false-positives.svg")
        seen = [one for one in tabled if one.suspect != "inverted"]  # never found: a line along the axis
        plots.plot_power(seen, arguments.plots / "statistics-power.svg")
        plots.plot_stopping(seen, arguments.plots / "statistics-stopping.svg")
    console.print(f"{summary['seconds']} s; " + ("all bars hold" if not said else f"{len(said)} do not hold"))
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
