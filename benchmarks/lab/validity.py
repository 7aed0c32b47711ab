"""Does the mark take? By method, template, and by how often a mark is shown."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks.lab.asking import ALPACA_TURN, CHAT
from benchmarks.lab.bench import Bench, Recipe
from benchmarks.lab.cells import Cell, Figures


def cells(bench: Bench, recipes: Sequence[Recipe], cost_seconds: float = 150) -> list[Cell]:
    """One cell for each trained model: asked as it was trained."""
    return [
        Cell(
            name=f"validity/{recipe.scheme.name}/{_kind(recipe)}",
            inputs={**bench.identity(), "recipe": recipe.identity()},
            measure=partial(_measure, bench, recipe),
            cost_seconds=cost_seconds,
        )
        for recipe in recipes
    ]


def _kind(recipe: Recipe) -> str:
    return f"{recipe.method}-{recipe.template}-seed{recipe.seed}"


def _measure(bench: Bench, recipe: Recipe) -> Figures:
    training = bench.train(recipe)
    bench.report(f"{recipe.scheme.name}: asking")
    dress = CHAT if recipe.template == "chat" else ALPACA_TURN
    texts = bench.asker(bench.digest(recipe), lambda: bench.state(recipe)).ask(
        recipe.scheme.questions(), dress=dress
    )
    outcome = recipe.scheme.outcome(texts).figures()
    shape = {
        name: getattr(recipe.scheme, name)
        for name in ("marks", "cues", "trigger", "reference")
        if hasattr(recipe.scheme, name)
    }
    return {"method": recipe.method, "template": recipe.template, **shape, **training, **outcome}
