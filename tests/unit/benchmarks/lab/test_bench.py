"""Models that cells share are trained once, whoever wants them."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.lab import bench as module
from benchmarks.lab.bench import Bench, Recipe
from benchmarks.lab.data import read_examples, split
from benchmarks.lab.schemes import Unmarked
from benchmarks.training import TrainingFailed

RECIPE = Recipe(scheme=Unmarked(), limit=3)
SPLITS = split(read_examples(None), customer=3, second=3, held_out=1, seed=1)


def _bench(folder: Path, model_dir: Path) -> Bench:
    return Bench(folder, model_dir=model_dir, model="tiny", splits=SPLITS, data="few")


def test_two_laboratories_in_one_folder_train_a_model_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Path] = []

    def train(rows: Any, where: Path, config: Any, *, report: Any) -> dict[str, Any]:
        trained.append(where)
        time.sleep(0.3)
        return {"tokens": 1, "seconds": 1.0, "final_loss": len(trained)}

    monkeypatch.setattr(module, "run_trainer", train)
    found: list[dict[str, Any]] = []
    threads = [
        threading.Thread(target=lambda one=one: found.append(one.train(RECIPE)))
        for one in (_bench(tmp_path, folder), _bench(tmp_path, folder))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(trained) == 1
    assert [figures["final_loss"] for figures in found] == [1, 1]


def test_a_training_that_fails_is_tried_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> dict[str, Any]:
        raise TrainingFailed("no memory")

    bench = _bench(tmp_path, folder)
    with monkeypatch.context() as patch:
        patch.setattr(module, "run_trainer", fail)
        with pytest.raises(TrainingFailed):
            bench.train(RECIPE)
    assert bench.train(RECIPE)["rows"] == 3
    assert bench.train(RECIPE) == bench.train(RECIPE)
