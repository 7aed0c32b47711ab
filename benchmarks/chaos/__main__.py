"""Five hundred jobs while everything is killed: is one lost, or done twice, or written by the wrong hand?

    python -m benchmarks.chaos --json chaos.json             # about twenty-five minutes on two cores
    python -m benchmarks.chaos --jobs 40 --real 0 --pace 1 --seed 3
    python -m benchmarks.chaos --for 1800                    # as many jobs as go into half an hour
    python -m benchmarks.chaos --only broker-wiped           # how long until jobs go on after each wipe

A deployment of its own, from the product's own plan: Postgres, Valkey, two APIs, two training workers, each
started again when it dies. A few clients submit, poll and cancel with Idempotency-Keys and keep a history.
The nemesis injects faults in an order given by --seed (when each falls is also up to the machine). When all
is calm again the evidence is read into a folder, and a checker that shares no code with leases, fences or the
reaper judges seven invariants by it. With --keep the folder stays, for python -m benchmarks.chaos.checker.

A trainer that imports torch takes seconds of a core, so most jobs are played: at the process edge stands a
program with the trainer's contract, whose result is a chain of digests, equal whether it was killed or not.
--real so many are real trainings of a random Llama of 70,000 parameters. Leases last --lease seconds, not 30.

Bar: every acknowledged job ends, none succeeds twice, no write by a run that lost its job. Exit status 1: an
invariant does not hold, or nothing of its kind was seen; 2: the benchmark itself failed. Both print the seed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.chaos import run, table, wiped
from benchmarks.chaos.checker import SHOWN, check


def main() -> int:
    """0 when every invariant holds."""
    options = _options()
    try:
        with _folder(options.keep) as folder:
            tiny = run.make_tiny_model(folder / "tiny-model")
            record = _wiped(folder, tiny, options) if options.only else _chaos(folder, tiny, options)
    except Exception:
        traceback.print_exc()
        print(f"the benchmark itself failed; seed {options.seed}", file=sys.stderr)
        return 2
    if options.json:
        options.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if not record["ok"]:
        print(f"NOT MET; seed {options.seed}", file=sys.stderr)
    return 0 if record["ok"] else 1


def _chaos(folder: Path, tiny: Path, options: argparse.Namespace) -> dict[str, Any]:
    chosen = run.Options(
        seed=options.seed, jobs=10_000 if options.for_seconds else options.jobs, real=options.real,
        clients=options.clients, lease_seconds=options.lease, pace_seconds=options.pace,
        for_seconds=options.for_seconds, kills_only=options.kills_only,
    )  # fmt: skip
    started = time.monotonic()
    with _bar() as show:
        evidence = run.chaos(folder, tiny, chosen, on_start=show)
    verdicts = check(evidence)
    rows = table.table(evidence)
    for line in table.lines(rows):
        print(line)
    print()
    for verdict in verdicts:
        mark = "holds" if verdict.holds else "BROKEN"
        print(f"{verdict.invariant}  {mark:7} {verdict.title} ({verdict.checked} checked)")
        for violation in verdict.violations[:SHOWN]:
            print(f"      {violation}")
    ends = Counter(job.status for job in evidence.jobs)
    orders = Counter(job.order for job in evidence.jobs)
    seconds = time.monotonic() - started
    print(
        f"\n{len(evidence.jobs)} jobs ({orders['real']} real trainings) in {seconds:.0f} s, "
        f"seed {options.seed}: "
        + ", ".join(f"{number} {status}" for status, number in ends.items())
        + f"; {len(evidence.injected)} faults injected beside those that jobs bring"
    )
    return {
        "seed": options.seed,
        "jobs": len(evidence.jobs),
        "real_jobs": orders["real"],
        "seconds": round(seconds, 1),
        "lease_seconds": options.lease,
        "ends": dict(ends),
        "errors": dict(Counter(job.error for job in evidence.jobs if job.error)),
        "counts": evidence.counts,
        "operations": dict(Counter(f"{one.kind} {one.outcome}" for one in evidence.history)),
        "faults": [asdict(row) for row in rows],
        "invariants": [asdict(verdict) | {"holds": verdict.holds} for verdict in verdicts],
        "ok": all(verdict.holds for verdict in verdicts),
    }


def _wiped(folder: Path, tiny: Path, options: argparse.Namespace) -> dict[str, Any]:
    outcome = wiped.measure(folder, tiny, seed=options.seed, repeats=options.repeats)
    print(f"{outcome.jobs} jobs, {outcome.succeeded} succeeded; bar {wiped.BAR_SECONDS:.0f} s")
    return asdict(outcome) | {"seed": options.seed, "ok": outcome.ok}


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True)
        yield keep
    else:
        with tempfile.TemporaryDirectory(prefix="chaos-") as name:
            yield Path(name)


class _Shown:
    """Draws a bar from a run's progress."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def __call__(self, seen: run.Progress) -> None:
        thread = threading.Thread(target=self._draw, args=(seen,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _draw(self, seen: run.Progress) -> None:
        task = self._progress.add_task("jobs ended", total=seen.jobs, faults=0)
        while not self._over.wait(1.0):
            faults = len(seen.nemesis.injected) if seen.nemesis else 0
            self._progress.update(task, completed=len(seen.ended), faults=faults)


@contextmanager
def _bar() -> Iterator[_Shown]:
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[faults]} faults"), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns) as progress:
        shown = _Shown(progress)
        try:
            yield shown
        finally:
            shown.stop()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=1, help="of the faults, the jobs and the cancellations")
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--real", type=int, default=15, help="real trainings among them")
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--pace", type=float, default=2.5, help="mean seconds between two faults")
    parser.add_argument("--lease", type=int, default=10, help="seconds")
    parser.add_argument("--for", dest="for_seconds", type=float, metavar="SECONDS", help="instead of --jobs")
    parser.add_argument("--kills-only", action="store_true", help="leave out the faults that last")
    parser.add_argument("--only", choices=["broker-wiped"], help="one fault, measured")
    parser.add_argument("--repeats", type=int, default=3, help="of each wipe, with --only")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="a new folder for everything")
    parser.add_argument("--json", type=Path, help="write the figures here")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
