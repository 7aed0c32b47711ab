"""How many jobs a second go through API, queue, claim and finish when the training itself costs nothing?

    python -m benchmarks.throughput --json throughput.json    # the ramp, and twice five minutes
    python -m benchmarks.throughput --rate 200 --minutes 5    # the bar's own rate
    python -m benchmarks.throughput --child --minutes 1       # with a child process for each job

Embedded Postgres (durable as the product's) and Valkey, one API process, and workers of one job each. A job
is created by POST with an API key and an Idempotency-Key, rung for, claimed under a lease, entered into the
log, given a no-op training, and its model published: only the trainer is replaced, by reports made inside the
worker or, with --child, by a real child process (starting Python is then most of it).

The generator is an open loop. The ramp raises the rate until the service falls behind: has more than a
second's worth of jobs unfinished when the sending ends, or refuses one. The knee is the highest rate it kept
up with; it is then held, and so is half of it.

Bar: 200 jobs/s for five minutes on two cores, or this machine's knee and what limits it; at half the knee
the 95th percentile of the pickup (created to claimed, by the database's clock) under 500 ms; no accepted job
lost. Exit status 1: a job was lost, or the pickup was slower.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.throughput import noop
from benchmarks.throughput.service import Service, running
from benchmarks.throughput.steps import Step, offer

PICKUP_P95_MS = 500.0
GROWTH = 1.3
HALVINGS = 2
FULL = 0.9
"""A share of the cores, or of one core for the API's one process, from which on it is the limit."""


def main() -> int:
    """0 when nothing was lost and the pickup was fast enough."""
    options = _options()
    mode = noop.CHILD if options.child else noop.INSIDE
    console = Console(stderr=True)
    knee: float | None = None
    ramp: list[Step] = []
    with running(workers=options.workers, mode=mode) as service:
        bench = _Bench(service, console)
        if bench.step("warming up", options.start, 5).lost:
            print("throughput: jobs fail even one by one; nothing to measure", file=sys.stderr)
            return 2
        if options.rate is not None:
            half = held = bench.step("holding", options.rate, 60 * options.minutes)
        else:
            knee, ramp = _ramp(bench, options.start, options.step_seconds)
            held, half = _hold(bench, knee, 60 * options.minutes)
            knee = held.rate
    lost = sum(step.lost for step in (*ramp, held, half))
    ok = not lost and half.pickup_p95_ms < PICKUP_P95_MS
    record: dict[str, Any] = {
        "mode": mode,
        "workers": options.workers,
        "cores": os.cpu_count(),
        "knee_jobs_per_second": knee,
        "held": _record(held),
        "half": _record(half),
        "limit": _limit(held),
        "ramp": [_record(step) for step in ramp],
        "lost": lost,
        "ok": ok,
    }
    print(json.dumps(record, indent=2))
    if options.json:
        options.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0 if ok else 1


class _Bench:
    """Steps on one service, each with a bar and a line."""

    def __init__(self, service: Service, console: Console) -> None:
        self._service = service
        self._console = console

    def step(self, name: str, rate: float, seconds: float) -> Step:
        with self._bar(f"{name}: {rate:.1f} jobs/s", seconds) as tick:
            done = offer(self._service, rate=rate, seconds=seconds, tick=tick)
        busy = ", ".join(f"{kind} {share:.0%}" for kind, share in done.processor_share.items())
        self._console.print(
            f"{name}: {rate:.1f}/s offered, {done.finished_per_second:.1f}/s finished, "
            f"{'kept up' if done.kept_up else f'{done.unfinished} behind'}; pickup p95 "
            f"{done.pickup_p95_ms:.0f} ms, request p95 {done.request_p95_ms:.0f} ms; {busy}"
        )
        return done

    @contextmanager
    def _bar(self, name: str, seconds: float) -> Iterator[Any]:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._console, transient=True) as progress:
            task = progress.add_task(name, total=seconds)
            yield lambda: progress.advance(task)


def _ramp(bench: _Bench, start: float, seconds: float) -> tuple[float, list[Step]]:
    """The highest rate that was kept up with, and every step."""
    steps, good, bad = [], 0.0, None
    rate = start
    while bad is None:
        steps.append(bench.step("ramp", rate, seconds))
        if steps[-1].kept_up:
            good, rate = rate, rate * GROWTH
        else:
            bad = rate
    for _ in range(HALVINGS):
        rate = (good + bad) / 2
        steps.append(bench.step("ramp", rate, seconds))
        good, bad = (rate, bad) if steps[-1].kept_up else (good, rate)
    return good, steps


def _hold(bench: _Bench, knee: float, seconds: float) -> tuple[Step, Step]:
    """At the knee, which is lower where it can't be held so long; and at half of it."""
    held = bench.step("holding", knee, seconds)
    while not held.kept_up:
        held = bench.step("holding", 0.9 * held.rate, seconds)
    return held, bench.step("half the knee", held.rate / 2, seconds)


def _limit(step: Step) -> str:
    """What there is no more of, in words."""
    cores = os.cpu_count() or 1
    share = step.processor_share
    ours = sum(used for kind, used in share.items() if kind != "others")
    most = max((kind for kind in share if kind != "others"), key=lambda kind: share[kind])
    if share["api"] * cores >= FULL:
        return f"the API's one process: it has {share['api'] * cores:.2f} of a core"
    if ours + share["others"] >= FULL:
        return (
            f"the processor: {ours:.0%} ours, {share['others']:.0%} others'; most of ours the {most} "
            f"({share[most]:.0%})"
        )
    idle = 1 - ours - share["others"]
    return f"waiting: {idle:.0%} of the processor is idle (round trips, disk, too few workers)"


def _record(step: Step) -> dict[str, Any]:
    return asdict(step) | {"kept_up": step.kept_up}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rate", type=float, help="jobs a second; without it the knee is looked for")
    parser.add_argument("--minutes", type=float, default=5.0, help="how long a rate is held")
    parser.add_argument("--workers", type=int, default=2, help="worker processes, one job each")
    parser.add_argument("--child", action="store_true", help="a child process for each job, as in production")
    parser.add_argument("--start", type=float, default=4.0, help="the ramp's first rate")
    parser.add_argument("--step-seconds", type=float, default=20.0, help="of one rate of the ramp")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
