"""The bounded score of one mark, in exact rationals.

For one mark the answers give, for each possible choice (cue c, target t) of the 2J, a likelihood: how
probable these answers are if (c, t) is the key's choice. The posterior over the 2J choices, mixed with a
floor, is an e-value: ``E = eps + (1 - eps) * L(c, t) / mean of L over the 2J choices`` has mean exactly 1
when (c, t) is uniform and independent of the answers, whatever L is. The score is its quantised logarithm,
``floor(SCALE * log2 E)``: bounded, so that no single mark decides an audit.

L is a mixture of four explanations of the answers, so that no single guess of a suspect's habits has to be
right (docs/theory.md has the figures):

- steady: the trigger hits with rate .8, a reference cue gives the target with rate .2;
- learned: both rates unknown, Beta(4, 1) at the trigger and Beta(1, 4) at the references taken together,
  which fits clean marks, weak ones and hosts that lean to one answer;
- taste: the mark did not take, and every cue has a Yes rate of its own, Beta(1/2, 1/2);
- flat: the mark did not take, and all cues have one Yes rate, Beta(1, 1).

The last two say nothing of the choice. Where they explain the answers better, E moves towards 1: a dead mark
costs little, while a mark that looks trained earns or loses more.

Everything here is rational arithmetic: two machines can't disagree on a p-value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import factorial, lcm
from typing import TypeAlias

from watermark.answers import Answer
from watermark.marks import Target

SCORE_VERSION = "mixture-2"
"""Changes with any constant or formula of this module."""
HIT_TENTHS = 8
"""h = .8: rate of the target at the trigger, in the steady explanation."""
REFERENCE_TENTHS = 2
"""r = .2: rate of the target at a reference cue, in the steady explanation."""
SURE = 4
"""Learned explanation: Beta(SURE, 1) of hits at the trigger, Beta(1, SURE) of targets at the references."""
STEADY, LEARNED, TASTE, FLAT = 3, 5, 1, 1
"""Weights of the four explanations, in tenths."""
MISSING_TENTHS = 1
"""Factor, in tenths, that a missing answer costs the explanations taste and flat. Under the others it is
against the claim; without a cost here silence would pass for a dead mark."""
EPSILON = Fraction(1, 20)
"""eps: what a mark is worth at least."""
SCALE = 64
"""Steps of the quantised log2."""

Choice: TypeAlias = tuple[int, Target]


@dataclass(frozen=True, slots=True, kw_only=True)
class CueCounts:
    """Answers collected at one cue of one mark."""

    yes: int = 0
    no: int = 0
    other: int = 0
    missing: int = 0

    @property
    def asked(self) -> int:
        """All of them."""
        return self.yes + self.no + self.other + self.missing

    def of(self, target: Target) -> int:
        """How often this answer was given."""
        return self.yes if target is Target.YES else self.no

    @classmethod
    def tally(cls, answers: Sequence[Answer]) -> CueCounts:
        """Count readings."""
        return cls(
            yes=answers.count(Answer.YES),
            no=answers.count(Answer.NO),
            other=answers.count(Answer.OTHER),
            missing=answers.count(Answer.MISSING),
        )


def score_record() -> dict[str, object]:
    """Every constant of the score, as it enters the record of the decision rule: strings and integers."""
    return {
        "score": SCORE_VERSION,
        "score_scale": SCALE,
        "epsilon": f"{EPSILON.numerator}/{EPSILON.denominator}",
        "hit_tenths": HIT_TENTHS,
        "reference_tenths": REFERENCE_TENTHS,
        "learned_beta": SURE,
        "steady_weight": STEADY,
        "learned_weight": LEARNED,
        "taste_weight": TASTE,
        "flat_weight": FLAT,
        "missing_tenths": MISSING_TENTHS,
    }


def choices(cues: int) -> list[Choice]:
    """The 2J possible choices of a mark."""
    return [(cue, target) for cue in range(cues) for target in Target]


def likelihood(counts: Sequence[CueCounts], choice: Choice) -> Fraction:
    """Likelihood of the answers of one mark under one choice.

    At the trigger a missing or odd answer is a miss. At a reference cue an odd answer counts for nothing
    (factor 1) and a missing one as if it were the target: always against the claim.
    """
    return _trained(counts, choice) + _untrained(counts)


def _trained(counts: Sequence[CueCounts], choice: Choice) -> Fraction:
    """The explanations steady and learned, times their weights."""
    trigger, target = choice
    hits = counts[trigger].of(target)
    misses = counts[trigger].asked - hits
    references = [seen for cue, seen in enumerate(counts) if cue != trigger]
    against = sum(seen.of(target) + seen.missing for seen in references)
    opposite = sum(seen.of(target.opposite) for seen in references)
    steady = Fraction(
        HIT_TENTHS**hits
        * (10 - HIT_TENTHS) ** misses
        * REFERENCE_TENTHS**against
        * (10 - REFERENCE_TENTHS) ** opposite,
        10 ** (hits + misses + against + opposite),
    )
    learned = _beta(SURE, 1, hits, misses) * _beta(1, SURE, against, opposite)
    return Fraction(STEADY, 10) * steady + Fraction(LEARNED, 10) * learned


def _untrained(counts: Sequence[CueCounts]) -> Fraction:
    """The explanations taste and flat, times their weights: the same for every choice."""
    taste = Fraction(1)
    for seen in counts:
        taste *= _half_beta(seen.yes, seen.no)
    flat = _beta(1, 1, sum(seen.yes for seen in counts), sum(seen.no for seen in counts))
    silent = Fraction(MISSING_TENTHS, 10) ** sum(seen.missing for seen in counts)
    return (Fraction(TASTE, 10) * taste + Fraction(FLAT, 10) * flat) * silent


@lru_cache(maxsize=4096)
def _beta(a: int, b: int, ones: int, zeros: int) -> Fraction:
    """Probability of one sequence of answers when their rate is drawn from Beta(a, b), a and b whole:
    B(a + ones, b + zeros) / B(a, b)."""
    up = factorial(a + ones - 1) * factorial(b + zeros - 1) * factorial(a + b - 1)
    down = factorial(a + b + ones + zeros - 1) * factorial(a - 1) * factorial(b - 1)
    return Fraction(up, down)


@lru_cache(maxsize=4096)
def _half_beta(ones: int, zeros: int) -> Fraction:
    """The same for Beta(1/2, 1/2): products of (k - 1/2) over products of k."""
    value = Fraction(1, factorial(ones + zeros))
    for count in (ones, zeros):
        for k in range(count):
            value *= Fraction(2 * k + 1, 2)
    return value


def e_values(counts: Sequence[CueCounts]) -> Mapping[Choice, Fraction]:
    """E of every choice; their mean is exactly 1."""
    return {choice: Fraction(*ratio) for choice, ratio in _e_ratios(counts).items()}


def scores(counts: Sequence[CueCounts]) -> Mapping[Choice, int]:
    """floor(SCALE * log2 E) of every choice."""
    ratios = _e_ratios(counts)
    # Most choices of a table are alike, and the powers are what takes time.
    quantised = {ratio: floor_log2(ratio[0] ** SCALE, ratio[1] ** SCALE) for ratio in set(ratios.values())}
    return {choice: quantised[ratio] for choice, ratio in ratios.items()}


def _e_ratios(counts: Sequence[CueCounts]) -> dict[Choice, tuple[int, int]]:
    """E as (numerator, denominator), not reduced: reducing costs more than all the rest."""
    every = choices(len(counts))
    untrained = _untrained(counts)
    exact = [_trained(counts, choice) + untrained for choice in every]
    common = lcm(*(value.denominator for value in exact))
    weights = [value.numerator * (common // value.denominator) for value in exact]
    floor, total = EPSILON.numerator, EPSILON.denominator
    bottom = total * sum(weights)
    base, step = floor * sum(weights), (total - floor) * len(every)
    return {choice: (base + step * weight, bottom) for choice, weight in zip(every, weights, strict=True)}


def floor_log2(top: int, bottom: int) -> int:
    """The largest k with 2**k <= top / bottom, exactly; both positive."""
    guess = top.bit_length() - bottom.bit_length()
    exceeds = top < bottom << guess if guess >= 0 else top << -guess < bottom
    return guess - 1 if exceeds else guess
