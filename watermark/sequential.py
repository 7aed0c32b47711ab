"""Deciding mark by mark: a test martingale over the key.

``E_m`` of a mark (`watermark.score.e_values`) has mean exactly 1 when the true choice is uniform and
independent of the answers, whatever was answered to earlier marks. The product over completed marks, in the
pre-registered order, is therefore a nonnegative martingale with start 1, and by Ville's inequality it ever
reaches 1/alpha with probability alpha at most. So one may look after every completed mark, stop at 1/alpha,
and take up an unfinished audit by multiplying on. Looking inside a mark is not allowed: there the mean over
the key's choices is 1 only once all its cues were asked equally often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from watermark.answers import Answer
from watermark.score import Choice, CueCounts, e_values


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was seen after one completed mark."""

    mark: int
    e_value: Fraction
    product: Fraction
    """of the e-values of this mark and all before it"""

    def reaches(self, alpha_i: Fraction) -> bool:
        """Whether the audit stops here."""
        return self.product * alpha_i >= 1


def looks(
    marks: Sequence[int], counts: Sequence[Sequence[CueCounts]], truth: Sequence[Choice]
) -> tuple[Look, ...]:
    """One look after each completed mark.

    Args:
        marks: the completed marks, in the order in which they were asked. Shape [M].
        counts: for each of them, for each cue, the answers. Shape [M][J].
        truth: the key's choice for each of them. Shape [M].
    """
    product, seen = Fraction(1), []
    for mark, answers, choice in zip(marks, counts, truth, strict=True):
        e_value = e_values(answers)[choice]
        product *= e_value
        seen.append(Look(mark=mark, e_value=e_value, product=product))
    return tuple(seen)


def anytime_p(seen: Sequence[Look]) -> Fraction:
    """1 / the largest product so far, at most 1: a p-value however the audit was stopped (Ville)."""
    return 1 / max([Fraction(1), *(look.product for look in seen)])


def e_ceiling(cues: int, probes_per_cue: int) -> Fraction:
    """The largest E that a mark can give: every trigger question a hit and every other one none."""
    perfect = [
        CueCounts.tally([Answer.YES if cue == 0 else Answer.NO] * probes_per_cue) for cue in range(cues)
    ]
    return max(e_values(perfect).values())
