"""What an audit's plan can find, and what its answers leave open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import comb

BOUND_LEVEL = 0.95

Shape = tuple[int, int, int]
"""Marks, cues, questions for each cue."""

CASES = (
    "hit rate .95 at the trigger, .05 elsewhere",
    "hit rate .80 at the trigger, .25 elsewhere",
    "hit rate .60 at the trigger, .05 elsewhere",
    "as the first, a quarter of the marks dead",
    "as the first, half of the marks dead",
)
SIMULATED_RULE = "exact-over-key-2"
"""The tables hold for this decision rule alone."""
FIXED: Mapping[Shape, tuple[float, ...]] = {
    (12, 8, 1): (1.0, 0.459, 0.886, 0.991, 0.313),
    (12, 8, 2): (1.0, 0.917, 0.995, 1.0, 0.78),
    (12, 8, 3): (1.0, 0.99, 1.0, 1.0, 0.958),
    (16, 8, 1): (1.0, 0.739, 0.993, 1.0, 0.776),
    (16, 8, 2): (1.0, 0.994, 1.0, 1.0, 0.999),
}
"""Simulated chance of a detection at alpha 1e-6, a thousand audits for each figure, made by
``python -m benchmarks.statistics``."""
SEQUENTIAL: Mapping[Shape, tuple[tuple[float, int | None], ...]] = {
    (12, 8, 1): ((1.0, 7), (0.171, None), (0.767, 11), (0.932, 10), (0.092, None)),
    (12, 8, 2): ((1.0, 6), (0.792, 10), (0.985, 8), (1.0, 8), (0.367, None)),
    (12, 8, 3): ((1.0, 6), (0.963, 8), (0.998, 7), (1.0, 8), (0.578, 12)),
    (16, 8, 1): ((1.0, 7), (0.526, 16), (0.971, 11), (1.0, 10), (0.478, None)),
    (16, 8, 2): ((1.0, 6), (0.973, 10), (1.0, 8), (1.0, 8), (0.914, 13)),
}
"""The same for sequential audits, and after how many marks half of all audits have stopped (None: never)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """The chance that a plan detects a model of a given kind."""

    case: str
    chance: str


def power_of(shape: Shape, *, rule: str, sequential: bool) -> tuple[Power, ...]:
    """The simulated figures of a plan; none where it, or its decision rule, was not simulated.

    Args:
        shape: marks, cues, questions for each cue.
    """
    if rule != SIMULATED_RULE:
        return ()
    chances = [_with_median(*found) for found in SEQUENTIAL.get(shape, ())]
    if not sequential:
        chances = [_chance(found) for found in FIXED.get(shape, ())]
    return tuple(Power(case=case, chance=chance) for case, chance in zip(CASES, chances, strict=False))


def _chance(value: float) -> str:
    """Two digits, and none that the simulation does not give."""
    return "over .99" if value > 0.995 else f"{value:.2f}".removeprefix("0")


def _with_median(value: float, marks: int | None) -> str:
    return _chance(value) + ("" if marks is None else f" (half of all within {marks} marks)")


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
