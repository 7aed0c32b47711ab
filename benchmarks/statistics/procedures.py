"""The tests of `watermark`, in numpy, for many tables of answers at a time.

Floating point is for speed alone; `agreement` compares it with the exact integers in every run.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft
from scipy.special import betaln, gammaln

from benchmarks.statistics.suspects import MISSING, NO, OTHER, YES, Floats, Ints
from watermark.fisher import Table, two_sided
from watermark.score import (
    EPSILON,
    FLAT,
    HIT_TENTHS,
    LEARNED,
    MISSING_TENTHS,
    REFERENCE_TENTHS,
    SCALE,
    STEADY,
    SURE,
    TASTE,
)

CHUNK = 50
"""Tables whose null distributions are held at a time: 50 x 12 rows of 6,400 doubles are 31 MB."""


def counts(answers: Ints) -> Ints:
    """[tables, marks, cues, 4]: yes, no, other, missing."""
    return np.stack([(answers == kind).sum(-1) for kind in (YES, NO, OTHER, MISSING)], -1)


def _log_beta(a: float, b: float, ones: Floats | Ints, zeros: Floats | Ints) -> Floats:
    ratio: Floats = betaln(a + ones, b + zeros) - betaln(a, b)
    return ratio


def e_values(seen: Ints) -> Floats:
    """E of every choice, [tables, marks, cues, target]; target 0 is Yes (`watermark.score.e_values`)."""
    yes, no, _, missing = np.moveaxis(seen, -1, 0)
    asked = seen.sum(-1)
    trained = []
    for hits, opposite in ((yes, no), (no, yes)):
        against = hits + missing
        others_against = against.sum(-1, keepdims=True) - against
        others_opposite = opposite.sum(-1, keepdims=True) - opposite
        steady = (
            hits * np.log(HIT_TENTHS / 10)
            + (asked - hits) * np.log(1 - HIT_TENTHS / 10)
            + others_against * np.log(REFERENCE_TENTHS / 10)
            + others_opposite * np.log(1 - REFERENCE_TENTHS / 10)
        )
        learned = _log_beta(SURE, 1, hits, asked - hits) + _log_beta(1, SURE, others_against, others_opposite)
        trained.append(np.logaddexp(np.log(STEADY / 10) + steady, np.log(LEARNED / 10) + learned))
    taste = _log_beta(0.5, 0.5, yes, no).sum(-1)
    flat = _log_beta(1, 1, yes.sum(-1), no.sum(-1))
    untrained = np.logaddexp(np.log(TASTE / 10) + taste, np.log(FLAT / 10) + flat)
    untrained += missing.sum(-1) * np.log(MISSING_TENTHS / 10)
    logs = np.logaddexp(np.stack(trained, -1), untrained[..., None, None])
    weights = np.exp(logs - logs.max((-1, -2), keepdims=True))
    floor = float(EPSILON)
    e: Floats = floor + (1 - floor) * weights / weights.mean((-1, -2), keepdims=True)
    return e


def first_score_e_values(seen: Ints) -> Floats:
    """E of the score before `mixture-2`, to compare with: one likelihood, h = .9, r = .1, eps = .3."""
    yes, no, _, missing = np.moveaxis(seen, -1, 0)
    by_target = []
    for hits, opposite in ((yes, no), (no, yes)):
        at_reference = (hits + missing) * np.log(0.1) + opposite * np.log(0.9)
        at_trigger = hits * np.log(0.9) + (seen.sum(-1) - hits) * np.log(0.1)
        by_target.append(at_reference.sum(-1, keepdims=True) - at_reference + at_trigger)
    logs = np.stack(by_target, -1)
    weights = np.exp(logs - logs.max((-1, -2), keepdims=True))
    e: Floats = 0.3 + 0.7 * weights / weights.mean((-1, -2), keepdims=True)
    return e


def scores(e: Floats) -> Ints:
    """floor(SCALE * log2 E). E is a power of two exactly or not near one: the nudge is for E = 1."""
    return np.floor(SCALE * np.log2(e) + 1e-9).astype(np.int64)


def null_tails(score: Ints) -> Iterator[tuple[slice, Ints, Floats]]:
    """For a few tables at a time: which, their scores shifted to start at 0, and P(S_null >= s) for
    s = 0, 1, ... of the shifted sums. Convolution over marks by FFT; absolute error about 1e-15."""
    tables, marks = score.shape[:2]
    shifted = score - score.min()
    width = int(shifted.max()) + 1
    size = next_fast_len(width * marks, real=True)
    for start in range(0, tables, CHUNK):
        part = slice(start, start + CHUNK)
        flat = shifted[part].reshape(-1, score.shape[2] * 2)
        cells = (np.arange(len(flat))[:, None] * width + flat).ravel()
        ways = np.bincount(cells, minlength=len(flat) * width).reshape(-1, marks, width)
        spectrum = rfft(ways / flat.shape[1], size, axis=-1).prod(1)
        chances = irfft(spectrum, size, axis=-1)
        yield part, shifted[part], chances[:, ::-1].cumsum(1)[:, ::-1]


def at_keys(values: Floats | Ints, cue: Ints, target: Ints) -> Floats:
    """The values at the keys' choices. values [tables, marks, cues, 2], cue and target
    [tables, keys, marks] -> [tables, keys, marks]."""
    tables, marks = values.shape[:2]
    where = (np.arange(tables)[:, None, None], np.arange(marks)[None, None, :], cue, target)
    return np.asarray(values[where], dtype=np.float64)


def fixed_p(score: Ints, cue: Ints, target: Ints) -> Floats:
    """The exact test's p, [tables, keys]."""
    result = np.empty(cue.shape[:2])
    for part, shifted, tail in null_tails(score):
        sums = at_keys(shifted, cue[part], target[part]).sum(-1)
        result[part] = np.take_along_axis(tail, sums.astype(np.int64), -1)
    return result


def fixed_levels(score: Ints, cue: Ints, target: Ints, alphas: Floats) -> tuple[Ints, Floats]:
    """Whether p <= alpha for each key, [tables, keys, alphas], and the level that the test attains given the
    table, [tables, alphas]: P(p <= alpha) over all keys, without simulation."""
    rejected = np.empty((*cue.shape[:2], len(alphas)), dtype=np.int64)
    attained = np.empty((len(score), len(alphas)))
    for part, shifted, tail in null_tails(score):
        sums = at_keys(shifted, cue[part], target[part]).sum(-1)
        for place, alpha in enumerate(alphas):
            critical = (tail > alpha).sum(1)
            rejected[part, :, place] = sums >= critical[:, None]
            last = np.minimum(critical, tail.shape[1] - 1)[:, None]
            attained[part, place] = np.maximum(np.take_along_axis(tail, last, 1)[:, 0], 0)
    return rejected, attained


def products(e: Floats, cue: Ints, target: Ints) -> Floats:
    """The product of e-values after each mark, [tables, keys, marks]."""
    product: Floats = at_keys(e, cue, target).cumprod(-1)
    return product


def _key_tables(seen: Ints, cue: Ints, target: Ints) -> tuple[Ints, Ints]:
    """Target answers at the trigger and in the whole mark, both [tables, keys, marks]."""
    given = seen[..., :2]
    everywhere = np.broadcast_to(given.sum(2, keepdims=True), given.shape)
    return (
        at_keys(given, cue, target).astype(np.int64),
        at_keys(everywhere, cue, target).astype(np.int64),
    )


def stratified_p(seen: Ints, cue: Ints, target: Ints, probes: int) -> Floats:
    """Stratified one-sided Fisher (`watermark.fisher.stratified`), [tables, keys]."""
    trigger, everywhere = _key_tables(seen, cue, target)
    marks, cues = seen.shape[1:3]
    n, m = probes, probes * (cues - 1)
    hits, x = np.arange(n + m + 1)[:, None], np.arange(n + 1)[None, :]

    def choose(top: Ints | int, bottom: Ints) -> Floats:
        inside = (bottom >= 0) & (bottom <= top)
        safe = np.where(inside, bottom, 0)
        logs = gammaln(np.asarray(top) + 1.0) - gammaln(safe + 1.0) - gammaln(np.asarray(top) - safe + 1.0)
        return np.where(inside, np.exp(logs), 0.0)

    chances = choose(n, x) * choose(m, hits - x)
    chances /= chances.sum(1, keepdims=True)
    sums = np.zeros((*trigger.shape[:2], marks * n + 1))
    sums[..., 0] = 1
    for mark in range(marks):
        pmf = chances[everywhere[..., mark]]
        merged = np.zeros_like(sums)
        for step in range(n + 1):
            merged[..., step:] += sums[..., : sums.shape[-1] - step] * pmf[..., step : step + 1]
        sums = merged
    tail = sums[..., ::-1].cumsum(-1)[..., ::-1]
    return np.take_along_axis(tail, trigger.sum(-1)[..., None], -1)[..., 0]


def pooled_p(seen: Ints, cue: Ints, target: Ints, probes: int) -> Floats:
    """The paper's pooled two-sided Fisher (`watermark.fisher.two_sided`), [tables, keys]."""
    trigger, everywhere = _key_tables(seen, cue, target)
    marks, cues = seen.shape[1:3]
    n, m = marks * probes, marks * probes * (cues - 1)
    a, b = trigger.sum(-1), (everywhere - trigger).sum(-1)
    pairs, where = np.unique(a * (m + 1) + b, return_inverse=True)
    found = [float(two_sided(Table(a=int(c // (m + 1)), n=n, b=int(c % (m + 1)), m=m))) for c in pairs]
    return np.array(found)[where].reshape(a.shape)
