"""The bounded score of one mark, in exact integers.

For one mark the answers give, for each possible choice (cue c, target t) of the 2J, a likelihood under
"the trigger hits with rate h, a reference cue gives the target with rate r". The posterior over the 2J
choices, mixed with a floor, is an e-value: ``E = eps + (1 - eps) * 2J * posterior(c, t)`` has mean
exactly 1 when (c, t) is uniform and independent of the answers. The score is its quantised logarithm,
``floor(SCALE * log2 E)``: bounded, so that no single mark decides an audit.

Everything here is integer or rational arithmetic: two machines can't disagree on a p-value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from watermark.answers import Answer
from watermark.marks import Target

HIT_TENTHS = 9
"""h = .9: assumed rate of the target at the trigger (protocol, starting value)."""
REFERENCE_TENTHS = 1
"""r = .1: assumed rate of the target at a reference cue."""
EPSILON = Fraction(3, 10)
"""eps: what a mark is worth at least; a dead mark costs a factor of 0.3, not everything."""
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


def choices(cues: int) -> list[Choice]:
    """The 2J possible choices of a mark."""
    return [(cue, target) for cue in range(cues) for target in Target]


def likelihood(counts: Sequence[CueCounts], choice: Choice) -> int:
    """Likelihood of the answers under one choice, times 10 to the number of questions.

    At the trigger a missing or odd answer is a miss. At a reference cue an odd answer counts for nothing
    (factor 1) and a missing one as if it were the target: always against the claim.
    """
    trigger, target = choice
    value = 1
    for cue, seen in enumerate(counts):
        if cue == trigger:
            hits = seen.of(target)
            value *= HIT_TENTHS**hits * (10 - HIT_TENTHS) ** (seen.asked - hits)
        else:
            against = seen.of(target) + seen.missing
            value *= REFERENCE_TENTHS**against * (10 - REFERENCE_TENTHS) ** seen.of(target.opposite)
            value *= 10**seen.other
    return value


def e_values(counts: Sequence[CueCounts]) -> Mapping[Choice, Fraction]:
    """E of every choice; their mean is exactly 1."""
    return {choice: Fraction(*ratio) for choice, ratio in _e_ratios(counts).items()}


def scores(counts: Sequence[CueCounts]) -> Mapping[Choice, int]:
    """floor(SCALE * log2 E) of every choice."""
    return {
        choice: floor_log2(top**SCALE, bottom**SCALE) for choice, (top, bottom) in _e_ratios(counts).items()
    }


def _e_ratios(counts: Sequence[CueCounts]) -> dict[Choice, tuple[int, int]]:
    """E as (numerator, denominator), not reduced: reducing costs more than all the rest."""
    every = choices(len(counts))
    weights = [likelihood(counts, choice) for choice in every]
    floor, total = EPSILON.numerator, EPSILON.denominator
    bottom = total * sum(weights)
    base, step = floor * sum(weights), (total - floor) * len(every)
    return {choice: (base + step * weight, bottom) for choice, weight in zip(every, weights, strict=True)}


def floor_log2(top: int, bottom: int) -> int:
    """The largest k with 2**k <= top / bottom, exactly; both positive."""
    guess = top.bit_length() - bottom.bit_length()
    exceeds = top < bottom << guess if guess >= 0 else top << -guess < bottom
    return guess - 1 if exceeds else guess
