"""The treatments that thin marks die of, over many keys: one key that survives says little of the next."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks.lab.bench import Bench, Recipe
from benchmarks.lab.cells import Cell, Figures
from benchmarks.lab.robustness import Attack
from benchmarks.lab.schemes import Keyed


def cells(
    bench: Bench, recipes: Sequence[Recipe], attacks: Sequence[Attack], cost_seconds: float = 80
) -> list[Cell]:
    """One cell a model, each with a key of its own."""
    made = []
    for recipe in recipes:
        scheme = recipe.scheme
        assert isinstance(scheme, Keyed)
        made.append(
            Cell(
                name=f"keys/{scheme.name}/key-{scheme.key_number}",
                inputs={**bench.identity(), "recipe": recipe.identity()}
                | {"attacks": [attack.name for attack in attacks]},
                measure=partial(_measure, bench, recipe, scheme, attacks),
                cost_seconds=cost_seconds,
            )
        )
    return made


def _measure(bench: Bench, recipe: Recipe, scheme: Keyed, attacks: Sequence[Attack]) -> Figures:
    found = {}
    for attack in attacks:
        bench.report(f"{scheme.name}, key {scheme.key_number}, under {attack.name}")
        found[attack.name] = scheme.outcome(attack.answer(bench, recipe, scheme.questions()))
    return {
        "key": scheme.key_number,
        "outcomes": {name: outcome.figures() for name, outcome in found.items()},
        "survived": sum(outcome.detected for outcome in found.values()),
        "met": len(found),
        "holds": all(outcome.detected for outcome in found.values()),
    }
