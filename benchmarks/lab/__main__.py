"""Measure whether a mark takes and what it survives: `doublei lab --profile quick`.

Every finished cell is kept under --out; a second run goes on where the first was stopped, and measures again
only what changed. Tables are printed at the end, plots go to --plots.

    doublei lab --profile quick
    doublei lab --profile standard --only 'robustness/keyed-standard/*' --json robustness.json
    doublei lab --profile quick --list
    doublei lab --profile quick --data my-rows.jsonl --plots docs/images
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)


def main() -> int:
    """Run what is missing, print tables, write plots. Exit 1 when a cell failed or a verdict changed, 2 for
    unusable data."""
    arguments = _parse()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # peft asks transformers by a name that transformers has renamed; who measures can do nothing about it.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
    # Only now: the heavy imports take seconds, and --help must not wait for them.
    from benchmarks.lab.cells import Store
    from benchmarks.lab.data import DataError, read_examples, split
    from benchmarks.lab.profiles import PROFILES

    console = Console(width=None if sys.stdout.isatty() else 160, stderr=False)
    profile = PROFILES[arguments.profile]
    try:
        splits = split(
            read_examples(arguments.data),
            customer=profile.customer,
            second=profile.second,
            held_out=profile.held_out,
            seed=arguments.seed,
        )
    except DataError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 2
    bench = _bench(arguments, profile.name, splits)
    matching = [cell for cell in profile.cells(bench) if fnmatch(cell.name, arguments.only)]
    wanted = list({cell.digest: cell for cell in matching}.values())
    store = Store(arguments.out)
    if arguments.list:
        for cell in wanted:
            print(f"{'done' if store.load(cell) else 'open'}  {cell.cost_seconds:6.0f} s  {cell.name}")
        return 0
    if not wanted:
        print(f"lab: no cell of {profile.name} matches {arguments.only!r}; see --list", file=sys.stderr)
        return 2
    started = time.monotonic()
    try:
        records, failed = _run(wanted, store, bench, console)
    except KeyboardInterrupt:
        print("lab: stopped; what was finished is kept, the same command goes on", file=sys.stderr)
        return 130
    finally:
        bench.close()
    _show(records, arguments, profile.name, console)
    seconds = time.monotonic() - started
    console.print(f"{len(records)} cells, {len(failed)} failed, {seconds:.0f} s")
    for name, reason in failed:
        console.print(f"[red]failed:[/red] {name}: {reason}")
    changed = arguments.against is not None and _changed(records, arguments.against, console)
    return 1 if failed or changed else 0


def _changed(records: list[dict[str, Any]], earlier: list[dict[str, Any]], console: Console) -> bool:
    """Whether a verdict differs from an earlier run's, each said."""
    from benchmarks.lab.tables import verdicts

    before, now = verdicts(earlier), verdicts(records)
    both = [name for name in now if name in before]
    differing = [name for name in both if now[name] != before[name]]
    console.print(f"{len(both) - len(differing)} of {len(both)} verdicts as before")
    for name in differing:
        console.print(f"[red]changed:[/red] {name}: {before[name]} before, {now[name]} now")
    return bool(differing)


def _bench(arguments: argparse.Namespace, profile: str, splits: Any) -> Any:
    from benchmarks.lab.bench import Bench
    from catalogue import load_catalogue
    from worker.weights import resolve
    from worker.weights.settings import WeightsSettings

    where = WeightsSettings()
    files = resolve(
        arguments.model, cache_dir=where.model_cache, catalogue=load_catalogue(where.catalogue_file)
    )
    data = arguments.data.name if arguments.data else "chatterbot"
    sizes = f"{len(splits.customer)}+{len(splits.second)}+{len(splits.held_out)}"
    return Bench(
        arguments.out,
        model_dir=files.path,
        model=arguments.model,
        splits=splits,
        data=f"{data}/{sizes}/seed{arguments.seed}",
    )


def _run(
    wanted: list[Any], store: Any, bench: Any, console: Console
) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Every cell, the kept ones first into the estimate. A cell that fails does not end the others."""
    records: list[dict[str, Any]] = []
    failed: list[tuple[str, str]] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[left]}"), console=console) as progress:
        bar = progress.add_task("cells", total=len(wanted), left="")
        news = progress.add_task("", total=1, left="")
        bench.report = lambda line: progress.update(news, description=line[:100])
        guessed = spent = 0.0
        left = sum(cell.cost_seconds for cell in wanted if store.load(cell) is None)
        for cell in wanted:
            kept = store.load(cell)
            if kept is None:
                begun = time.monotonic()
                try:
                    kept = store.run(cell)
                except KeyboardInterrupt:
                    raise
                except Exception as error:  # one attack that breaks must not cost the night's other cells
                    failed.append((cell.name, f"{type(error).__name__}: {error}"))
                guessed, spent = guessed + cell.cost_seconds, spent + time.monotonic() - begun
                left -= cell.cost_seconds
                if not sys.stdout.isatty():
                    state = "failed" if kept is None else _line(kept)
                    console.print(f"{time.monotonic() - begun:6.0f} s  {cell.name}  {state}")
            if kept is not None:
                records.append(kept)
            pace = spent / guessed if guessed else 1.0
            progress.update(bar, advance=1, left=f"about {left * pace / 60:.0f} min left")
        progress.update(news, visible=False)
    return records, failed


def _line(record: dict[str, Any]) -> str:
    from benchmarks.lab.tables import in_words

    return in_words(record["figures"])


def _show(
    records: list[dict[str, Any]], arguments: argparse.Namespace, profile: str, console: Console
) -> None:
    from benchmarks.lab import plots, tables

    summary = tables.summarise(records)
    tables.show(summary, console)
    if arguments.json:
        document = {"profile": profile, "seed": arguments.seed, "summary": summary, "cells": records}
        arguments.json.write_text(json.dumps(document, indent=1, default=str) + "\n", encoding="utf-8")
    if arguments.plots:
        arguments.plots.mkdir(parents=True, exist_ok=True)
        for path in plots.draw(records, arguments.plots):
            console.print(f"wrote {path}")


def _cells_of(name: str) -> list[dict[str, Any]]:
    """The cells of an earlier run's JSON; read at once, not after an hour of measuring."""
    try:
        cells: list[dict[str, Any]] = json.loads(Path(name).read_text(encoding="utf-8"))["cells"]
        return cells
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise argparse.ArgumentTypeError(f"{name} is not what --json writes ({error})") from error


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="doublei lab", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--profile", choices=("quick", "bars", "standard", "ideas", "other", "full"), default="quick"
    )
    parser.add_argument("--out", type=Path, default=Path("lab-out"), metavar="DIR", help="default: lab-out")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="id in the model catalogue")
    parser.add_argument("--data", type=Path, metavar="FILE", help="JSONL rows instead of chatterbot-corpus")
    parser.add_argument(
        "--only", default="*", metavar="PATTERN", help="cells whose name matches, as a shell would"
    )
    parser.add_argument("--list", action="store_true", help="show the cells and which are done")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument(
        "--against", type=_cells_of, metavar="FILE", help="an earlier --json: exit 1 where a verdict changed"
    )
    parser.add_argument("--plots", type=Path, metavar="DIR", help="write lab-*.svg there")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
