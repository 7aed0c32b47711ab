"""What an audit's plan can find, and what its answers leave open."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

BOUND_LEVEL = 0.95

CASES = (
    "hit rate .95 at the trigger, .05 elsewhere",
    "hit rate .80 at the trigger, .25 elsewhere",
    "hit rate .60 at the trigger, .05 elsewhere",
    "as the first, a quarter of the marks dead",
    "as the first, half of the marks dead",
)
FIXED_POWER = {
    (12, 8, 2): ("1.00", ".90", "1.00", "1.00", ".23"),
    (16, 8, 2): ("1.00", ".99", "1.00", "1.00", ".82"),
    (16, 8, 1): ("1.00", ".74", "1.00", "1.00", ".60"),
}
"""Simulated chance of a detection at alpha 1e-6, by (marks, cues, questions per cue); see docs/theory.md."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """The chance that a plan detects a model of a given kind."""

    case: str
    chance: str


def power_of(*, marks: int, cues: int, probes_per_cue: int, sequential: bool) -> tuple[Power, ...]:
    """The simulated figures of a plan; none where it was not simulated."""
    figures = None if sequential else FIXED_POWER.get((marks, cues, probes_per_cue))
    if figures is None:
        return ()
    return tuple(Power(case=case, chance=chance) for case, chance in zip(CASES, figures, strict=True))


def upper_bound(hits: int, total: int, level: float = BOUND_LEVEL) -> float:
    """The one-sided upper limit of Clopper and Pearson (1934): the largest rate under which ``hits`` or fewer
    of ``total`` independent trials have a probability of at least 1 - level."""
    if hits >= total:
        return 1.0
    low, high = hits / total, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        tail = sum(comb(total, k) * middle**k * (1 - middle) ** (total - k) for k in range(hits + 1))
        low, high = (middle, high) if tail > 1 - level else (low, middle)
    return high
