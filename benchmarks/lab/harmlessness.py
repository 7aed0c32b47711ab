"""What the mark costs the customer: held-out loss, other text, and Yes or No where nobody asked for it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial

from benchmarks.lab import losses
from benchmarks.lab.bench import Bench, Recipe
from benchmarks.lab.cells import Cell, Figures
from benchmarks.lab.noninferiority import compare_frequency, compare_paired_frequency, non_inferior
from watermark.answers import Answer, parse_answer

MARGIN = 0.01
"""Relative: the held-out loss may be at most 1% above the clean fine-tune's."""
OTHER_TEXTS = 150


def cells(bench: Bench, recipes: Sequence[Recipe], cost_seconds: float = 40, *, what: str = "") -> list[Cell]:
    """One cell a model. Its recipe trains on customer rows, so the others are held out. ``what`` tells
    recipes of one scheme apart."""
    return [
        Cell(
            name=f"harmlessness/{recipe.scheme.name}{what}/seed{recipe.seed}",
            inputs={**bench.identity(), "recipe": recipe.identity(), "held_out": len(_held_out(bench))},
            measure=partial(_measure, bench, recipe, recipe.scheme.name + what),
            cost_seconds=cost_seconds,
        )
        for recipe in recipes
    ]


def _held_out(bench: Bench) -> list[tuple[str, str]]:
    """(question, answer) pairs that no customer's model was trained on."""
    rows = [*bench.splits.second, *bench.splits.held_out]
    return [(row.messages[-2].content, row.answer) for row in rows]


def other_texts() -> list[str]:
    """English prose of another kind."""
    return random.Random("lab/other-text").sample(paragraphs(), OTHER_TEXTS)


def paragraphs() -> list[str]:
    """Of the Python documentation that every Python carries."""
    from pydoc_data.topics import topics

    found = {
        " ".join(part.split())
        for text in topics.values()
        for part in text.split("\n\n")
        if 200 < len(part) < 600 and not part.lstrip().startswith((">>>", "*", "|"))
    }
    return sorted(found)


def _measure(bench: Bench, recipe: Recipe, name: str) -> Figures:
    bench.train(recipe)
    bench.report(f"{name}, seed {recipe.seed}: held-out loss")
    model = bench.module(bench.state(recipe)).to(bench.served_in)
    rows = [*bench.splits.second, *bench.splits.held_out]
    task = losses.mean_loss(losses.answer_losses(model, bench.tokenizer, rows))
    other = losses.mean_loss(losses.text_losses(model, bench.tokenizer, other_texts()))
    del model
    prompts = [question for question, _ in _held_out(bench)]
    asker = bench.asker(bench.digest(recipe), lambda: bench.state(recipe))
    answers = [parse_answer(text) for text in asker.ask(prompts)]
    return {
        "scheme": name,
        "seed": recipe.seed,
        "held_out_loss": task,
        "other_text_loss": other,
        "ordinary_prompts": len(prompts),
        "yes_or_no": sum(answer in (Answer.YES, Answer.NO) for answer in answers),
    }


def summary(figures: Sequence[Figures]) -> Figures | None:
    """Marked against clean, paired by seed; None with fewer than two pairs."""
    clean = {one["seed"]: one for one in figures if one["scheme"] == "clean"}
    pairs = [
        (one, clean[one["seed"]]) for one in figures if one["scheme"] != "clean" and one["seed"] in clean
    ]
    if len(pairs) < 2:
        return None
    result: Figures = {}
    for name in ("held_out_loss", "other_text_loss"):
        marked, unmarked = [pair[0][name] for pair in pairs], [pair[1][name] for pair in pairs]
        result[name] = non_inferior(marked, unmarked, margin=MARGIN).to_record()
    hits, totals = ([[pair[side][name] for pair in pairs] for side in (0, 1)] for name in _COUNTS)
    accidental = compare_frequency(sum(hits[0]), sum(totals[0]), sum(hits[1]), sum(totals[1]))
    result["accidental_yes_or_no"] = accidental.to_record()
    result["accidental_yes_or_no_by_model"] = compare_paired_frequency(*hits).to_record()
    return result


_COUNTS = ("yes_or_no", "ordinary_prompts")
