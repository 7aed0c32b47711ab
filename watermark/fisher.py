"""Fisher's exact test: secondary figures, each printed with the assumption it makes.

The primary test (`watermark.decision`) assumes nothing of the model. These assume that answers are
independent given the cue word, which an innocent model with a taste for one word violates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import comb


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Two arms, hits and the rest: ``a`` of ``n`` at the trigger, ``b`` of ``m`` at the references."""

    a: int
    n: int
    b: int
    m: int


def one_sided(table: Table) -> Fraction:
    """P(A >= a) given the margins: the hypergeometric upper tail."""
    return stratified([table])


def two_sided(table: Table) -> Fraction:
    """Total probability of all tables with these margins that are no likelier than the observed one:
    the paper's test (Fisher exact, two-sided, claimed at 1e-6; arXiv 2402.14883, appendix A.1.4)."""
    hits = table.a + table.b
    low, high = max(0, hits - table.m), min(table.n, hits)
    weight = {x: comb(table.n, x) * comb(table.m, hits - x) for x in range(low, high + 1)}
    observed = weight[table.a]
    return Fraction(sum(w for w in weight.values() if w <= observed), comb(table.n + table.m, hits))


def stratified(tables: Sequence[Table]) -> Fraction:
    """P(sum of A >= sum of a) when each stratum's A is hypergeometric given its own margins (exact
    conditional test of a common odds ratio of one; strata are the marks)."""
    counts, total = {0: 1}, 1
    for table in tables:
        hits = table.a + table.b
        low, high = max(0, hits - table.m), min(table.n, hits)
        weights = {x: comb(table.n, x) * comb(table.m, hits - x) for x in range(low, high + 1)}
        merged: dict[int, int] = {}
        for have, ways in counts.items():
            for x, weight in weights.items():
                merged[have + x] = merged.get(have + x, 0) + ways * weight
        counts, total = merged, total * comb(table.n + table.m, hits)
    observed = sum(table.a for table in tables)
    return Fraction(sum(ways for have, ways in counts.items() if have >= observed), total)
