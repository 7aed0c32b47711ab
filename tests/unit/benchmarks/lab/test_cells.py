"""A measurement is kept once, whole, under everything it depends on."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.lab.cells import Cell, Figures, Store


class Counter:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Figures:
        self.calls += 1
        return {"value": self.calls}


def cell(measure: Counter, **inputs: object) -> Cell:
    return Cell(name="robustness/keyed/int8", inputs=inputs, measure=measure)


def test_a_finished_cell_is_found_again_and_says_what_it_was_made_from(tmp_path: Path) -> None:
    measure = Counter()
    Store(tmp_path).run(cell(measure, seed=1))
    kept = Store(tmp_path).load(cell(measure, seed=1))
    assert kept is not None
    assert measure.calls == 1
    assert kept["figures"] == {"value": 1}
    assert kept["inputs"] == {"seed": 1}
    assert kept["command"].startswith("python -m benchmarks.lab")


def test_other_inputs_are_another_measurement(tmp_path: Path) -> None:
    store, measure = Store(tmp_path), Counter()
    store.run(cell(measure, seed=1))
    assert store.load(cell(measure, seed=2)) is None


def test_a_cell_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail() -> Figures:
        raise RuntimeError("the model is gone")

    store = Store(tmp_path)
    broken = Cell(name="validity/keyed/lora", inputs={}, measure=fail)
    with pytest.raises(RuntimeError):
        store.run(broken)
    assert store.load(broken) is None
    assert not list((tmp_path / "cells").iterdir())
