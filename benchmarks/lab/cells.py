"""Cells: one measurement each, kept as a JSON file named by everything that decides its result."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CELL_FORMAT = 1
"""Changes when the figures of a cell change their meaning: older files are then measured again."""

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One measurement. ``inputs`` must name all that its figures depend on."""

    name: str
    """property/subject/what, as in ``robustness/keyed-standard/int8``"""
    inputs: Mapping[str, object]
    measure: Callable[[], Figures] = field(repr=False)
    cost_seconds: float = 10.0
    """A guess on two small cores, for the first estimate of the time left."""

    @property
    def digest(self) -> str:
        """Identity of the measurement, hex."""
        return inputs_digest({"name": self.name, **self.inputs})


def inputs_digest(inputs: Mapping[str, object]) -> str:
    """First 16 hex digits of SHA-256 over the sorted inputs and the format."""
    text = json.dumps({"format": CELL_FORMAT, **inputs}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Store:
    """A folder of finished cells."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "cells"
        self._folder.mkdir(parents=True, exist_ok=True)

    def path(self, cell: Cell) -> Path:
        return self._folder / f"{cell.name.replace('/', '--')}-{cell.digest[:8]}.json"

    def load(self, cell: Cell) -> dict[str, Any] | None:
        """The finished cell, None if it was never finished with these inputs."""
        try:
            record: dict[str, Any] = json.loads(self.path(cell).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return record if record.get("digest") == cell.digest else None

    def run(self, cell: Cell) -> dict[str, Any]:
        """Measure and keep; the file appears whole or not at all."""
        started = time.monotonic()
        figures = cell.measure()
        record: dict[str, Any] = {
            "cell": cell.name,
            "digest": cell.digest,
            "inputs": dict(cell.inputs),
            "command": shlex.join(["python", "-m", "benchmarks.lab", *sys.argv[1:]]),
            "seconds": round(time.monotonic() - started, 1),
            "machine": machine(),
            "figures": figures,
        }
        path = self.path(cell)
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")
        os.replace(part, path)
        return record


def machine() -> dict[str, object]:
    """In general terms: what a reader needs to judge a time."""
    import torch

    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
    return {"cores": len(os.sched_getaffinity(0)), "architecture": platform.machine(), "device": device}
