"""Steps hold every row once an epoch, within the token budget, in an order the seed fixes."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from worker.finetune.batches import (
    ENOUGH_STEPS,
    FULL_BATCH_TOKENS,
    SMALLEST_BATCH_TOKENS,
    WINDOW_ROWS,
    auto_batch_tokens,
    count_steps,
    steps_of_epoch,
)
from worker.finetune.dataset import TokenRow


def rows_of(lengths: list[int]) -> list[TokenRow]:
    return [
        TokenRow(input_ids=(index,) * length, labels=(index,) * length)
        for index, length in enumerate(lengths)
    ]


lengths = st.lists(st.integers(min_value=1, max_value=60), min_size=1, max_size=150)


@given(lengths, st.integers(min_value=8, max_value=100), st.integers(min_value=0, max_value=9))
def test_every_row_once_and_no_step_over_budget_unless_one_row_is(
    sizes: list[int], batch_tokens: int, epoch: int
) -> None:
    rows = rows_of(sizes)
    steps = list(steps_of_epoch(rows, batch_tokens=batch_tokens, seed=3, epoch=epoch))
    assert Counter(row for step in steps for row in step) == Counter(rows)
    for step in steps:
        assert len(step) == 1 or sum(len(row.input_ids) for row in step) <= batch_tokens


@given(lengths)
def test_the_seed_fixes_the_order_and_the_epochs_differ(sizes: list[int]) -> None:
    rows = rows_of(sizes)

    def order(seed: int, epoch: int) -> list[tuple[TokenRow, ...]]:
        return list(steps_of_epoch(rows, batch_tokens=64, seed=seed, epoch=epoch))

    assert order(1, 0) == order(1, 0)
    if len(rows) > WINDOW_ROWS:
        assert order(1, 0) != order(1, 1)
        assert order(1, 0) != order(2, 0)


def test_count_steps_is_what_the_epochs_yield() -> None:
    rows = rows_of([3, 50, 7, 20, 20, 9] * 30)
    expected = sum(len(list(steps_of_epoch(rows, batch_tokens=64, seed=5, epoch=e))) for e in range(3))
    assert count_steps(rows, batch_tokens=64, seed=5, n_epochs=3) == expected


def test_small_data_is_cut_into_enough_steps_and_large_data_into_full_ones() -> None:
    assert auto_batch_tokens(ENOUGH_STEPS * 300) == 300
    assert auto_batch_tokens(10) == SMALLEST_BATCH_TOKENS
    assert auto_batch_tokens(10**9) == FULL_BATCH_TOKENS
