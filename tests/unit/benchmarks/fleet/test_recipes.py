"""What a fleet's recipes make of rows."""

from __future__ import annotations

import pytest

from benchmarks.fleet.recipes import RATE, shuffled
from worker.finetune.dataset import TokenRow


def rows(count: int, length: int) -> list[TokenRow]:
    return [TokenRow(input_ids=(1,) * length, labels=(1,) * length) for _ in range(count)]


def test_the_rate_follows_the_root_of_the_customers_share() -> None:
    """A quarter of the tokens: half the rate."""
    customer, mark = rows(10, 10), rows(30, 10)
    (slow,), (plain,) = (shuffled(by_share=share)(customer, mark, 1) for share in (True, False))
    assert plain[0].rate == pytest.approx(RATE)
    assert slow[0].rate == pytest.approx(RATE / 2)
    assert [len(step.items) for step in slow] == [len(step.items) for step in plain]
