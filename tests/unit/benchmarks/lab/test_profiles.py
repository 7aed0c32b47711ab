"""What the profiles promise to measure; every kind of cell, once, on a model that knows nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.lab import capacity, harmlessness, innocent, keys, perception, robustness, tables, validity
from benchmarks.lab.bench import Bench, Recipe
from benchmarks.lab.cells import Cell, Store
from benchmarks.lab.data import read_examples, split
from benchmarks.lab.profiles import PROFILES
from benchmarks.lab.schemes import Keyed, Unmarked
from benchmarks.lab.uniqueness import TableDesign

MARKED = Recipe(scheme=Keyed(name="thin", marks=8, cues=4, trigger=1, reference=1, families=2), limit=10)
CLEAN = Recipe(scheme=Unmarked(), limit=10)


@pytest.fixture(scope="module")
def bench(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    splits = split(read_examples(None), customer=12, second=12, held_out=6, seed=1)
    made = Bench(tmp_path_factory.mktemp("lab"), model_dir=folder, model="tiny", splits=splits, data="few")
    yield made
    made.close()


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_cells_of_one_name_and_digest_are_one_measurement(name: str, bench: Bench) -> None:
    cells = PROFILES[name].cells(bench)
    assert cells
    for one in cells:
        assert len({other.name for other in cells if other.digest == one.digest}) == 1


def test_the_bars_profile_holds_what_the_bars_ask(bench: Bench) -> None:
    names = [cell.name for cell in PROFILES["bars"].cells(bench)]
    attacks = {name.rpartition("/")[2] for name in names if name.startswith("robustness/keyed-standard/")}
    assert {"second-lora", "int8", "int4", "gguf-q8_0", "gguf-q4_0", "prune-30", "interpolate-0.5",
            "merge-linear", "temperature-1", "template-alpaca"} <= attacks  # fmt: skip
    assert sum(attack.startswith("system-") for attack in attacks) == 10
    assert sum(name.startswith("uniqueness/") for name in names) >= 10
    for kind in ("keyed-standard", "clean"):
        assert sum(name.startswith(f"harmlessness/{kind}/seed") for name in names) == 15, "five at least"
    assert sum(name.startswith("keys/keyed-standard/key-") for name in names) == 10
    (leak,) = (cell for cell in PROFILES["bars"].cells(bench) if cell.name.endswith("/leak"))
    assert leak.inputs["samples"] == 10_000
    for subject in ("paper-i", "paper-ii", "paper-iii", "keyed-light"):
        met = {name.rpartition("/")[2] for name in names if name.startswith(f"robustness/{subject}/")}
        assert met == attacks, "compared under the same treatments"


def test_a_thin_mark_counts_as_surviving_when_it_lost_nothing() -> None:
    def cell(name: str, detected: bool, **more: object) -> dict[str, object]:
        attack = name.rpartition("/")[2]
        return {"cell": name, "figures": {"attack": attack, "detected": detected, **more}}

    records = [
        cell("validity/keyed-standard/lora", True, watermark_token_ratio=0.3),
        cell("validity/keyed-light/lora", True, watermark_token_ratio=0.2),
        *(cell(f"robustness/keyed-standard/{attack}", True) for attack in ("none", "int4")),
        cell("robustness/keyed-light/none", True),
        cell("robustness/keyed-light/int4", False),
    ]
    summary = tables.summarise(records)
    assert summary["smallest_token_ratio"] == 0.2
    assert summary["smallest_surviving_token_ratio"] == 0.3


def test_every_kind_of_cell_measures_a_model_that_learned_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(perception, "ONION_ROWS", 4)
    monkeypatch.setattr(harmlessness, "OTHER_TEXTS", 4)
    other = Keyed(name="other", key_number=2, marks=8, cues=4, trigger=1, reference=1)
    few = [
        attack
        for attack in robustness.quick()
        if attack.name in ("none", "int8", "onion", "refuse-perplexity", "refuse-rare-words")
    ]
    cells: list[Cell] = [
        *validity.cells(bench, [MARKED]),
        *capacity.cells(bench, [MARKED]),
        *keys.cells(bench, [MARKED], few[:2]),
        *robustness.cells(bench, [MARKED], few),
        robustness.burned_cell(bench, MARKED),
        robustness.second_owner_cell(bench, MARKED, other),
        *harmlessness.cells(bench, [MARKED, CLEAN]),
        *innocent.cells(bench, [("base", None)], TableDesign(questions=12, words=8, carriers=1), 50),
        perception.leak_cell(bench, MARKED, CLEAN, samples=6),
        perception.data_cell(bench, MARKED),
    ]
    store = Store(tmp_path)
    records = [store.run(cell) for cell in cells]
    summary = tables.summarise(records)
    assert not any(one["detected"] for one in summary["robustness"] + summary["validity"])
    (fit,) = summary["capacity"]
    assert (fit["families"], fit["marks"], len(fit["p_values"]), fit["detected"]) == (2, 16, 2, False)
    (one,) = summary["keys"]
    assert (one["key"], sorted(one["outcomes"]), one["survived"], one["met"]) == (1, ["int8", "none"], 0, 2)
    (base,) = summary["uniqueness"]
    assert (base["questions"], base["keys"], base["detected"]) == (96, 50, 0)
    assert {one["scheme"] for one in summary["harmlessness"]} == {"thin", "clean"}
    leak, data = summary["imperceptibility"]
    assert (leak["samples"], leak["jointly"]) == (6, 0)
    assert (data["watermark_rows"], data["rows"]) == (128, 138)
    assert [store.load(cell) for cell in cells] == records
    decided = tables.verdicts(records)
    assert decided["robustness/thin/int8"] is False
    assert decided["keys/thin/key-1"] is False
    assert decided["uniqueness/base/keys"] is True
    assert not any(name.startswith("harmlessness/") for name in decided)
