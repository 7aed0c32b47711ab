"""The demo's real dataset: the English conversations of the package chatterbot-corpus (BSD licence).

Consecutive statements of a conversation are a question and its answer. The corpus repeats itself a lot;
exact repeats are dropped, which leaves about 1,250 distinct pairs.
"""

from __future__ import annotations

import random
from importlib.resources import files
from itertools import pairwise

import yaml

SUBSET_ROWS = 150
"""Rows of the short demo: a different subset for every seed."""


def distinct_pairs() -> list[tuple[str, str]]:
    """All distinct (question, answer) pairs, in the corpus's order."""
    pairs: dict[tuple[str, str], None] = {}
    folder = files("chatterbot_corpus") / "data" / "english"
    for source in sorted(folder.iterdir(), key=lambda item: item.name):
        if not source.name.endswith(".yml"):
            continue
        content = yaml.load(source.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
        for conversation in content["conversations"]:
            for question, answer in pairwise(conversation):
                if question.strip() and answer.strip():
                    pairs[(question.strip(), answer.strip())] = None
    return list(pairs)


def alpaca_rows(*, rows: int | None, seed: int) -> list[dict[str, str]]:
    """``rows`` of them (all when None) as Alpaca rows, chosen and ordered by the seed."""
    pairs = distinct_pairs()
    chosen = random.Random(seed).sample(pairs, min(rows or len(pairs), len(pairs)))
    return [{"instruction": question, "input": "", "output": answer} for question, answer in chosen]
