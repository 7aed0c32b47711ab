"""Uniqueness on real models: answer tables of innocent ones, and many keys scored on each."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks.lab.bench import Bench, Recipe
from benchmarks.lab.cells import Cell, Figures
from benchmarks.lab.uniqueness import (
    ALPHAS,
    DETECTED,
    AnswerTable,
    TableDesign,
    realised,
    rule_of_three,
    score_keys,
)
from watermark.answers import Answer


def cells(
    bench: Bench, models: Sequence[tuple[str, Recipe | None]], design: TableDesign, keys: int
) -> list[Cell]:
    """One cell a model: its table is asked once, then ``keys`` keys are scored on it. None is the base."""
    return [
        Cell(
            name=f"uniqueness/{name}/keys",
            inputs={
                **bench.identity(),
                "recipe": "base" if recipe is None else recipe.identity(),
                "table": design.identity(),
                "keys": keys,
            },
            measure=partial(_measure, bench, name, recipe, design, keys),
            cost_seconds=design.questions * design.words * design.carriers / 15,
        )
        for name, recipe in models
    ]


def _measure(bench: Bench, name: str, recipe: Recipe | None, design: TableDesign, keys: int) -> Figures:
    prompts = design.prompts()
    asker = bench.asker(bench.digest(recipe), lambda: bench.state(recipe))
    bench.report(f"{name}: {len(prompts)} questions")
    table = AnswerTable.from_texts(design, asker.ask(prompts))
    scores = score_keys(table, keys=keys)
    return {
        "model": name,
        "questions": len(prompts),
        "keys": keys,
        "yes": table.share(Answer.YES),
        "no": table.share(Answer.NO),
        "smallest_p": float(scores.p.min()),
        "detected": int((scores.p <= DETECTED).sum()),
        "sequential_detected": int((scores.product >= 1 / DETECTED).sum()),
        "pooled_fisher_detected": int((scores.pooled_p <= DETECTED).sum()),
        "rates": [realised(scores.p, alpha) for alpha in ALPHAS],
    }


def summary(figures: Sequence[Figures]) -> Figures:
    """Over all models: the largest rates, and what so many models can say of models in general."""
    claimed = sum(one["detected"] > 0 for one in figures)
    rates = [rate for one in figures for rate in one["rates"]]
    return {
        "models": len(figures),
        "keys": sum(one["keys"] for one in figures),
        "smallest_p": min(one["smallest_p"] for one in figures),
        "detected": sum(one["detected"] for one in figures),
        "pooled_fisher_detected": sum(one["pooled_fisher_detected"] for one in figures),
        "largest_rates": {
            f"{alpha:g}": max(
                rate["rate"] for one in figures for rate in one["rates"] if rate["alpha"] == alpha
            )
            for alpha in ALPHAS
        },
        "rates_hold": all(rate["holds"] for rate in rates),
        "bound_on_models": rule_of_three(len(figures)) if not claimed else None,
    }
