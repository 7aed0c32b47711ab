"""Capacity: how many families fit into one model before they get in one another's way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from benchmarks.lab.bench import Bench, Recipe
from benchmarks.lab.cells import Cell, Figures
from benchmarks.lab.schemes import Keyed


def cells(bench: Bench, recipes: Sequence[Recipe], cost_seconds: float = 400) -> list[Cell]:
    """One cell a model: every family that it was trained with is asked."""
    made = []
    for recipe in recipes:
        scheme = recipe.scheme
        assert isinstance(scheme, Keyed)
        made.append(
            Cell(
                name=f"capacity/{scheme.name}/{scheme.families * scheme.marks}-marks",
                inputs={**bench.identity(), "recipe": recipe.identity()},
                measure=partial(_measure, bench, recipe, scheme),
                cost_seconds=cost_seconds,
            )
        )
    return made


def _measure(bench: Bench, recipe: Recipe, scheme: Keyed) -> Figures:
    training = bench.train(recipe)
    asker = bench.asker(bench.digest(recipe), partial(bench.state, recipe))
    outcomes = []
    for index in range(scheme.families):
        bench.report(f"{scheme.name}: family {index + 1} of {scheme.families}")
        one = replace(scheme, asked=index)
        outcomes.append(one.outcome(asker.ask(one.questions())))
    return {
        "families": scheme.families,
        "marks": scheme.families * scheme.marks,
        **training,
        "trigger_hits": sum(one.trigger_hits for one in outcomes),
        "trigger_total": sum(one.trigger_total for one in outcomes),
        "reference_hits": sum(one.reference_hits for one in outcomes),
        "reference_total": sum(one.reference_total for one in outcomes),
        "p_values": [one.p_value for one in outcomes],
        "families_detected": sum(one.detected for one in outcomes),
        "detected": all(one.detected for one in outcomes),
    }
