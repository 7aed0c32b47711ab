"""Several suspects under one number of a key: Holm's step-down procedure (Holm 1979)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class HolmStep:
    """One suspect of a campaign. ``threshold`` is what its p-value was compared with."""

    member: int
    p_value: Fraction
    threshold: Fraction
    detected: bool


def holm(p_values: Sequence[Fraction], alpha: Fraction) -> tuple[HolmStep, ...]:
    """Which of m hypotheses fall while the chance that any true one falls stays at most alpha.

    From the smallest p-value on, the k-th (from 1) is compared with alpha / (m - k + 1); the first that
    exceeds it ends the procedure, and it and all larger ones stand. No assumption on how they depend.

    Args:
        p_values: one for each suspect; 1 for one that was inconclusive or gave none.
        alpha: of the whole campaign.

    Returns:
        One step for each suspect, in the order given.
    """
    order = sorted(range(len(p_values)), key=lambda member: (p_values[member], member))
    steps: dict[int, HolmStep] = {}
    standing = False
    for rank, member in enumerate(order):
        threshold = alpha / (len(p_values) - rank)
        standing = standing or p_values[member] > threshold
        steps[member] = HolmStep(
            member=member, p_value=p_values[member], threshold=threshold, detected=not standing
        )
    return tuple(steps[member] for member in range(len(p_values)))
