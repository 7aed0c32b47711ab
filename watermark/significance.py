"""How much of alpha one audit may spend, and whether its plan could ever be significant."""

from __future__ import annotations

from fractions import Fraction

from watermark.errors import PlanError, RecordError
from watermark.hypothesis import floor_of
from watermark.numerals import decimal_text
from watermark.sequential import e_ceiling

DEFAULT_ALPHA = Fraction(1, 10**6)
SELF_GENERATED = "self-generated"
"""The grade of a key without a salt that provably came after its commitment."""
OWNER_ORIGIN = "owner"
"""The origin of a key that its owner keeps in a file: nobody else saw when it was drawn and salted."""
SELF_GENERATED_TRIES = 2**20
"""What an owner without an outside salt is assumed to have tried: alpha is divided by it."""
PI_SQUARED_UPPER = Fraction(98696045, 10**7)
"""A rational just above pi**2 (9.8696044...), so that the spent alphas sum to less than alpha."""


def alpha_for_audit(
    alpha: Fraction, audit_index: int, grade: str = "committed", campaign_size: int = 1
) -> Fraction:
    """alpha_i = 6 alpha / (pi^2 i^2): the i-th audit of a key spends this much, so that all audits of the
    key together stay under alpha. A self-generated key has used up 2**20 tries beforehand. The suspects of
    a campaign share one i and divide its alpha_i (Bonferroni; Holm's step-down comes on top, see
    `watermark.campaign`).

    Raises:
        RecordError: alpha outside (0, 1), audit_index < 1 or campaign_size < 1.
    """
    if not 0 < alpha < 1:
        raise RecordError("alpha must lie between 0 and 1")
    if audit_index < 1:
        raise RecordError("audits count from 1")
    if campaign_size < 1:
        raise RecordError("a campaign has a suspect at least")
    spent = 6 * alpha / (PI_SQUARED_UPPER * audit_index**2 * campaign_size)
    return spent / SELF_GENERATED_TRIES if grade == SELF_GENERATED else spent


def plan_floor(marks: int, cues: int, probes_per_cue: int, *, sequential: bool) -> Fraction:
    """The smallest p that a plan can give: (2J)**-M, or sequentially one over the largest product."""
    if sequential:
        return 1 / e_ceiling(cues, probes_per_cue) ** marks
    return floor_of(marks, cues)


def check_plan(
    marks: int,
    cues: int,
    alpha_i: Fraction,
    available_marks: int,
    *,
    probes_per_cue: int = 1,
    sequential: bool = False,
) -> None:
    """Refuse a plan that can't succeed.

    Raises:
        PlanError: its floor is above alpha_i; names the smallest number of marks that reaches it.
    """

    def floor(count: int) -> Fraction:
        return plan_floor(count, cues, probes_per_cue, sequential=sequential)

    if floor(marks) <= alpha_i:
        return
    needed = marks
    while floor(needed) > alpha_i:
        needed += 1
    planned = (
        f"{marks} marks of {cues} cues can't give a p-value below {decimal_text(floor(marks))}, "
        f"and this audit needs {decimal_text(alpha_i)}"
    )
    if needed <= available_marks:
        raise PlanError(f"{planned}: ask at least {needed} marks", needed)
    raise PlanError(f"{planned}: it would take {needed} marks and the family has {available_marks}", None)
