"""The primary test: exact over the key.

Null hypothesis: the suspect's answers are independent of the key. Then, whatever the suspect prefers,
the key's true (trigger, target) is uniform over the 2J choices of each mark, independently of the answers
and of the other marks. The statistic is the sum over marks of the score at the true choice; its null
distribution is the convolution of the marks' score lists, counted in integers over all (2J)**M keys:

    p = #{keys k : S(k) >= S(true key)} / (2J)**M
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction

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
    """P(sum of one uniform pick from each list >= observed), exactly."""
    ways: Mapping[int, int] = {0: 1}
    total = 1
    for values in lists:
        steps = Counter(values)
        merged: Counter[int] = Counter()
        for have, count in ways.items():
            for value, times in steps.items():
                merged[have + value] += count * times
        ways, total = merged, total * len(values)
    return Fraction(sum(count for have, count in ways.items() if have >= observed), total)


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
