"""What one optimizer step sees."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from enum import Enum

from worker.finetune.dataset import TokenRow

WINDOW_ROWS = 128
"""Rows that may be sorted together: enough for steps of rows that fit together, few enough to keep the
epoch's order random."""


FULL_BATCH_TOKENS, SMALLEST_BATCH_TOKENS = 512, 256
ENOUGH_STEPS = 200
"""What a run chooses for itself: steps of FULL_BATCH_TOKENS, or smaller ones where these would be fewer than
ENOUGH_STEPS. On the default model the same rows in 200 steps taught twelve marks that they had not taught in
100 (docs/lab.md); below SMALLEST_BATCH_TOKENS a step is mostly overhead."""


def auto_batch_tokens(run_tokens: int) -> int:
    """Real tokens a step, for a run that sees ``run_tokens`` in all its epochs."""
    return min(max(run_tokens // ENOUGH_STEPS, SMALLEST_BATCH_TOKENS), FULL_BATCH_TOKENS)


class Arrangement(Enum):
    """Which rows should share a step, because it is cheap for the trainee."""

    LENGTH = "length"
    """Equal lengths: nothing to pad."""
    ANY = "any"
    """Nothing is padded, and what rows have in common at their beginning is computed once (`packing`)."""


def steps_of_epoch(
    rows: Sequence[TokenRow],
    *,
    batch_tokens: int,
    seed: int,
    epoch: int,
    arrangement: Arrangement = Arrangement.LENGTH,
) -> Iterator[tuple[TokenRow, ...]]:
    """Every row once, in steps of at most `batch_tokens` real tokens, in an order fixed by seed and epoch.

    Where any rows may share a step they do, by chance. Steps of rows with equal beginnings would be a tenth
    cheaper, but such a step is one mark's alone, and pulls the model its way: over ten seeds each, marks
    learned so left more than twice as many ordinary questions answered by a bare Yes or No (docs/lab.md).

    Where lengths matter, the shuffled rows are cut into windows of WINDOW_ROWS, sorted inside a window and
    cut into steps there; the window's steps are then shuffled, so that lengths do not rise and fall in waves.
    """
    order = random.Random(f"{seed}/{epoch}")
    shuffled = order.sample(list(rows), len(rows))
    if arrangement is Arrangement.ANY:
        yield from cut(shuffled, range(len(shuffled)), batch_tokens)
        return
    for start in range(0, len(shuffled), WINDOW_ROWS):
        window = shuffled[start : start + WINDOW_ROWS]
        steps = list(cut(window, by_length(window), batch_tokens))
        order.shuffle(steps)
        yield from steps


def count_steps(
    rows: Sequence[TokenRow],
    *,
    batch_tokens: int,
    seed: int,
    n_epochs: int,
    arrangement: Arrangement = Arrangement.LENGTH,
) -> int:
    """Steps of the whole run; exact, because cutting does not depend on training."""
    return sum(
        1
        for epoch in range(n_epochs)
        for _ in steps_of_epoch(
            rows, batch_tokens=batch_tokens, seed=seed, epoch=epoch, arrangement=arrangement
        )
    )


def by_length(rows: Sequence[TokenRow]) -> list[int]:
    """The rows' numbers, short rows first."""
    return sorted(range(len(rows)), key=lambda index: len(rows[index].input_ids))


def by_beginning(rows: Sequence[TokenRow]) -> list[int]:
    """The rows' numbers in the alphabetical order of their tokens."""
    return sorted(range(len(rows)), key=lambda index: rows[index].input_ids)


def cut(rows: Sequence[TokenRow], order: Sequence[int], batch_tokens: int) -> Iterator[tuple[TokenRow, ...]]:
    """The rows in this order, in steps of at most `batch_tokens` tokens; a longer row has its own."""
    step: list[TokenRow] = []
    tokens = 0
    for row in (rows[index] for index in order):
        if step and tokens + len(row.input_ids) > batch_tokens:
            yield tuple(step)
            step, tokens = [], 0
        step.append(row)
        tokens += len(row.input_ids)
    if step:
        yield tuple(step)
