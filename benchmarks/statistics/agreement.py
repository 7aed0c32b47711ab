"""Checks that can fail: numpy against the exact integers, and the exact test against all keys."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import numpy as np

from benchmarks.statistics import procedures
from benchmarks.statistics.suspects import Ints
from watermark import fisher, hypothesis, score
from watermark.marks import Target

TARGETS = (Target.YES, Target.NO)


def _exact_counts(table: Ints) -> list[list[score.CueCounts]]:
    """[marks, cues, 4] as the exact code wants it."""
    return [
        [score.CueCounts(yes=int(y), no=int(n), other=int(o), missing=int(x)) for y, n, o, x in mark]
        for mark in table
    ]


def enumeration(rng: np.random.Generator, tables: int) -> dict[str, object]:
    """2 marks of 3 cues: the p-value of every key against counting over all 36 keys, one by one."""
    compared = different = 0
    for _ in range(tables):
        answers = rng.choice(4, p=(0.4, 0.4, 0.1, 0.1), size=(1, 2, 3, 2))
        exact = _exact_counts(procedures.counts(answers)[0])
        lists = [score.scores(mark) for mark in exact]
        keys = list(product(*[score.choices(3)] * 2))
        sums = {key: lists[0][key[0]] + lists[1][key[1]] for key in keys}
        for key in keys:
            counted = Fraction(sum(other >= sums[key] for other in sums.values()), len(keys))
            compared += 1
            different += hypothesis.p_value(exact, key) != counted
    return {
        "name": "p equals enumeration over all keys (2 marks x 3 cues)",
        "compared": compared,
        "different": different,
    }


def fast_scores(rng: np.random.Generator, tables: int) -> dict[str, object]:
    """Every score of random tables with odd and missing answers, numpy against exact."""
    compared = different = 0
    for shape in ((tables, 4, 8, 2), (tables, 4, 4, 3), (tables, 4, 8, 1)):
        seen = procedures.counts(rng.choice(4, p=(0.45, 0.45, 0.05, 0.05), size=shape))
        fast = procedures.scores(procedures.e_values(seen))
        for table, quick in zip(seen, fast, strict=True):
            for mark, row in zip(_exact_counts(table), quick, strict=True):
                for (cue, target), value in score.scores(mark).items():
                    compared += 1
                    different += int(row[cue, TARGETS.index(target)]) != value
    return {"name": "numpy scores equal the exact integers", "compared": compared, "different": different}


def fast_p(rng: np.random.Generator, tables: int) -> dict[str, object]:
    """p-values of primary and secondary tests, numpy against exact, within 1e-9 and 1e-14."""
    shape = (tables, 12, 8, 2)
    seen = procedures.counts(rng.choice(3, p=(0.3, 0.6, 0.1), size=shape))
    cue, target = rng.integers(0, 8, (tables, 1, 12)), rng.integers(0, 2, (tables, 1, 12))
    fast = np.stack(
        [
            procedures.fixed_p(procedures.scores(procedures.e_values(seen)), cue, target)[:, 0],
            procedures.stratified_p(seen, cue, target, 2)[:, 0],
            procedures.pooled_p(seen, cue, target, 2)[:, 0],
        ],
        -1,
    )
    different = 0
    for place, table in enumerate(seen):
        exact = _exact_counts(table)
        truth = [(int(c), TARGETS[t]) for c, t in zip(cue[place, 0], target[place, 0], strict=True)]
        strata = [_stratum(mark, *choice) for mark, choice in zip(exact, truth, strict=True)]
        pooled = fisher.Table(a=sum(s.a for s in strata), n=24, b=sum(s.b for s in strata), m=168)
        wanted = (hypothesis.p_value(exact, truth), fisher.stratified(strata), fisher.two_sided(pooled))
        for found, value in zip(fast[place], wanted, strict=True):
            different += not np.isclose(found, float(value), rtol=1e-9, atol=1e-14)
    return {"name": "numpy p-values equal the exact fractions", "compared": fast.size, "different": different}


def _stratum(mark: list[score.CueCounts], trigger: int, target: Target) -> fisher.Table:
    others = [seen for cue, seen in enumerate(mark) if cue != trigger]
    return fisher.Table(
        a=mark[trigger].of(target),
        n=mark[trigger].asked,
        b=sum(seen.of(target) for seen in others),
        m=sum(seen.asked for seen in others),
    )


def check(seed: int, *, quick: bool) -> list[dict[str, object]]:
    """All of them; each must have no difference."""
    rng = np.random.default_rng(seed)
    scale = 1 if quick else 4
    return [enumeration(rng, 10 * scale), fast_scores(rng, 25 * scale), fast_p(rng, 10 * scale)]
