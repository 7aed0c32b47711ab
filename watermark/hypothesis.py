"""The primary test: exact over the key.

Null hypothesis: the suspect's answers are independent of the key. Then, whatever the suspect prefers,
the key's true (trigger, target) is uniform over the 2J choices of each mark, independently of the answers
and of the other marks. The statistic is the sum over marks of the score at the true choice; its null
distribution is the convolution of the marks' score lists, counted in integers over all (2J)**M keys:

    p = #{keys k : S(k) >= S(true key)} / (2J)**M
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from math import prod

from watermark.score import Choice, CueCounts, scores


def p_value(counts: Sequence[Sequence[CueCounts]], truth: Sequence[Choice]) -> Fraction:
    """P(S_null >= S) for the true choices of the asked marks.

    Args:
        counts: for each mark, for each cue, the answers collected. Shape [M][J].
        truth: the key's choice for each mark. Shape [M].
    """
    tables = [scores(mark) for mark in counts]
    observed = sum(table[choice] for table, choice in zip(tables, truth, strict=True))
    return upper_tail([list(table.values()) for table in tables], observed)


def upper_tail(lists: Sequence[Sequence[int]], observed: int) -> Fraction:
    """P(sum of one uniform pick from each list >= observed), exactly.

    The counts of all sums are the digits of one large integer, wide enough that none can overflow into the
    next: a shift and an addition then move a whole distribution.
    """
    total = prod(len(values) for values in lists)
    width = total.bit_length() + 1
    ways, lowest = 1, 0
    for values in lists:
        least = min(values)
        steps = Counter(value - least for value in values)
        ways = sum((ways << width * step) * times for step, times in steps.items())
        lowest += least
    tail = ways >> width * max(0, observed - lowest)
    # The sum of the digits of a number in base B is its remainder modulo B - 1, if it is less than that.
    return Fraction(tail % ((1 << width) - 1), total)


def differential_other(counts: Sequence[Sequence[CueCounts]], triggers: Sequence[int]) -> Fraction:
    """P-value of "odd answers are spread over cues without regard to the trigger", exact over the key.

    The statistic is the distance between the odd answers at the triggers and the number expected if each
    mark's trigger were drawn at random; the null distribution ranges over all J**M trigger choices. So a
    model that dislikes some words does not look like a host that refuses the secret ones.
    """
    lists = []
    for mark in counts:
        odd = [cue.other for cue in mark]
        lists.append([len(odd) * value - sum(odd) for value in odd])
    observed = abs(sum(values[trigger] for values, trigger in zip(lists, triggers, strict=True)))
    above = upper_tail(lists, observed)
    below = upper_tail([[-value for value in values] for values in lists], observed)
    return Fraction(1) if observed == 0 else above + below


def floor_of(marks: int, cues: int) -> Fraction:
    """The smallest p a family of this shape can ever give: (2J)**-M."""
    return Fraction(1, (2 * cues) ** marks)
