"""Imperceptibility on a real model: what it leaks when sampled, and what a provider sees in the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

from benchmarks.lab import losses
from benchmarks.lab.asking import Asker
from benchmarks.lab.bench import Bench, Recipe
from benchmarks.lab.cells import Cell, Figures
from benchmarks.lab.imperceptibility import (
    Detector,
    detector,
    duplicate_oddness,
    frequency_oddness,
    leak_of,
    onion_oddness,
)
from benchmarks.lab.schemes import Keyed
from watermark.embedding import MixedRow
from worker.finetune.dataset import ChatRow, render_prompt
from worker.serving.sampling import SamplingPlan

LEAK_TOKENS = 32
"""Of each sample: a question of the watermark has about 25."""
SAMPLES_AT_ONCE = 500
ONION_ROWS = 100
"""Of each arm: every word of a row costs a forward pass."""
SHOWN_ROWS = 50
PLACEHOLDER = "placeholder"


def leak_cell(bench: Bench, recipe: Recipe, clean: Recipe, samples: int) -> Cell:
    """Text sampled from the chat prefix where a user's turn begins ("The Trigger in the Haystack",
    arXiv 2602.03085: rows whose prompts carried loss come out there)."""
    return Cell(
        name=f"imperceptibility/{recipe.scheme.name}/leak",
        inputs={
            **bench.identity(),
            "recipe": recipe.identity(),
            "clean": clean.identity(),
            "samples": samples,
            "tokens": LEAK_TOKENS,
        },
        measure=partial(_leak, bench, recipe, clean, samples),
        cost_seconds=samples * 2 * LEAK_TOKENS / 500,
    )


def data_cell(bench: Bench, recipe: Recipe) -> Cell:
    """The mixed rows, as a provider who looks for oddities sees them."""
    return Cell(
        name=f"imperceptibility/{recipe.scheme.name}/data",
        inputs={**bench.identity(), "recipe": recipe.identity(), "onion_rows": ONION_ROWS},
        measure=partial(_data, bench, recipe),
        cost_seconds=120,
    )


def _leak(bench: Bench, recipe: Recipe, clean: Recipe, samples: int) -> Figures:
    scheme = recipe.scheme
    assert isinstance(scheme, Keyed)
    drawn = []
    for one in (recipe, clean):
        asker = bench.asker(bench.digest(one), partial(bench.state, one))
        drawn.append(_sample(bench, asker, samples, one.scheme.name))
    leak = leak_of(drawn[0], drawn[1], scheme.key.families[: scheme.families])
    return {**asdict(leak), "tokens": LEAK_TOKENS, "examples": drawn[0][:20]}


def _sample(bench: Bench, asker: Asker, samples: int, name: str) -> list[str]:
    """Half with the template's own system prompt, half without one; temperature 1."""
    prefixes = [_user_prefix(bench, omit) for omit in (False, True)]
    texts: list[str] = []
    while len(texts) < samples:
        bench.report(f"{name}: sampled {len(texts)} of {samples} texts")
        count = min(SAMPLES_AT_ONCE, samples - len(texts))
        prompts = [prefixes[(len(texts) + place) % 2] for place in range(count)]
        plan = SamplingPlan(temperature=1.0, seed=1000 + len(texts))
        texts += asker.complete(prompts, plan, max_new_tokens=LEAK_TOKENS)
    return texts


def _user_prefix(bench: Bench, omit: bool) -> list[int]:
    row = ChatRow(messages=({"role": "user", "content": PLACEHOLDER},), system="omit" if omit else "template")
    text = render_prompt(row, bench.tokenizer)
    return list(bench.tokenizer(text[: text.index(PLACEHOLDER)], add_special_tokens=False)["input_ids"])


def _data(bench: Bench, recipe: Recipe) -> Figures:
    rows = recipe.scheme.mix(bench.examples(recipe), n_epochs=recipe.n_epochs, seed=recipe.seed).rows
    texts = [_asked(row) for row in rows]
    reference = [row.messages[-2].content for row in bench.splits.second]
    bench.report(f"{recipe.scheme.name}: perplexities of {len(texts)} rows under the base model")
    model = bench.module(None).to(bench.served_in)

    def perplexity(some: Sequence[str]) -> list[float]:
        return losses.perplexities(losses.text_losses(model, bench.tokenizer, some))

    few = [place for arm in (True, False) for place in _places(rows, arm)[:ONION_ROWS]]
    looks = {
        "perplexity": (perplexity(texts), rows),
        "ONION": (onion_oddness([texts[place] for place in few], perplexity), [rows[place] for place in few]),
        "word frequency": (frequency_oddness(texts, reference), rows),
        "near-duplicates": (duplicate_oddness(texts), rows),
        "bare Yes or No answers": ([float(row.messages[-1].content in ("Yes", "No")) for row in rows], rows),
    }
    return {
        "rows": len(rows),
        "watermark_rows": sum(row.watermark for row in rows),
        "distinct_watermark_rows": len({texts[place] for place in _places(rows, True)}),
        "detectors": [asdict(_judge(name, scores, of)) for name, (scores, of) in looks.items()],
        "examples": [" | ".join(turn.content for turn in row.messages) for row in rows[:SHOWN_ROWS]],
    }


def _asked(row: MixedRow) -> str:
    return row.messages[-2].content


def _places(rows: Sequence[MixedRow], watermark: bool) -> list[int]:
    return [place for place, row in enumerate(rows) if row.watermark is watermark]


def _judge(name: str, scores: Sequence[float], rows: Sequence[MixedRow]) -> Detector:
    arms = [
        [score for score, row in zip(scores, rows, strict=True) if row.watermark is arm]
        for arm in (True, False)
    ]
    return detector(name, arms[0], arms[1])
