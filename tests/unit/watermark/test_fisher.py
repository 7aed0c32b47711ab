"""Fisher's tests against their definitions."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations, product
from math import comb

import pytest
from scipy.stats import fisher_exact

from watermark.fisher import Table, one_sided, stratified, two_sided


def test_one_sided_is_the_share_of_relabellings_at_least_as_extreme() -> None:
    """For all tables with at most 8 observations: enumerate which of them could have been the triggers."""
    for n, m in product(range(1, 5), repeat=2):
        for hits in range(n + m + 1):
            outcomes = [1] * hits + [0] * (n + m - hits)
            sums = [sum(outcomes[i] for i in arm) for arm in combinations(range(n + m), n)]
            for a in range(max(0, hits - m), min(n, hits) + 1):
                expected = Fraction(sum(value >= a for value in sums), len(sums))
                assert one_sided(Table(a=a, n=n, b=hits - a, m=m)) == expected


@pytest.mark.parametrize(
    "table", [(12, 12, 0, 12), (20, 100, 0, 100), (3, 10, 5, 12), (0, 5, 5, 5), (41, 100, 10, 100)]
)
def test_both_agree_with_scipy(table: tuple[int, int, int, int]) -> None:
    a, n, b, m = table
    grid = [[a, n - a], [b, m - b]]
    ours = Table(a=a, n=n, b=b, m=m)
    assert float(two_sided(ours)) == pytest.approx(fisher_exact(grid)[1], rel=1e-9)
    assert float(one_sided(ours)) == pytest.approx(fisher_exact(grid, alternative="greater")[1], rel=1e-9)


def test_stratified_is_the_convolution_of_its_strata() -> None:
    tables = [Table(a=2, n=2, b=1, m=4), Table(a=1, n=2, b=0, m=4)]
    ways: dict[int, Fraction] = {}
    for x, y in product(range(3), repeat=2):
        weight = Fraction(comb(2, x) * comb(4, 3 - x), comb(6, 3)) * Fraction(
            comb(2, y) * comb(4, 1 - y) if y <= 1 else 0, comb(6, 1)
        )
        ways[x + y] = ways.get(x + y, Fraction(0)) + weight
    assert stratified(tables) == sum(value for total, value in ways.items() if total >= 3)


def test_twelve_perfect_pairs_are_the_fewest_for_one_in_a_million() -> None:
    assert (
        two_sided(Table(a=12, n=12, b=0, m=12)) < Fraction(1, 10**6) < two_sided(Table(a=11, n=11, b=0, m=11))
    )
