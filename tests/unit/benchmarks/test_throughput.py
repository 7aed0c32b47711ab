"""The stand-in for a trainer's process has what the worker asks of one."""

from __future__ import annotations

import inspect

from benchmarks.throughput.noop import InsideChild
from worker.child import Child


def test_no_part_of_a_child_is_missing() -> None:
    parts = {name for name, _ in inspect.getmembers(Child) if not name.startswith("_")}
    missing = parts - {name for name, _ in inspect.getmembers(InsideChild) if not name.startswith("_")}
    assert not missing
