"""Is marked no worse than clean? Differences paired by seed, and counts, each with its exact or t bound."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from scipy.stats import t as student

from watermark.fisher import Table, one_sided

CONFIDENCE = 0.95
COUNT_ALPHA = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class NonInferiority:
    """Relative differences (marked - clean) / clean, one for each seed; larger is worse."""

    pairs: int
    mean: float
    low: float
    high: float
    """two-sided interval at `CONFIDENCE`"""
    upper_bound: float
    """one-sided, at `CONFIDENCE`: what the margin is held against"""
    margin: float
    non_inferior: bool

    def to_record(self) -> dict[str, object]:
        return asdict(self)


def non_inferior(marked: Sequence[float], clean: Sequence[float], *, margin: float) -> NonInferiority:
    """The paired t test of "marked is worse by the margin or more" (Piaggio et al., JAMA 308, 2012): it is
    rejected when the one-sided upper bound of the mean relative difference lies below the margin.

    Raises:
        ValueError: fewer than two pairs, or a clean figure that is not above 0.
    """
    if len(marked) != len(clean) or len(marked) < 2:
        raise ValueError("two or more pairs are needed")
    if min(clean) <= 0:
        raise ValueError("relative differences need figures above 0")
    differences = [(one - other) / other for one, other in zip(marked, clean, strict=True)]
    pairs = len(differences)
    mean = math.fsum(differences) / pairs
    variance = math.fsum((value - mean) ** 2 for value in differences) / (pairs - 1)
    error = math.sqrt(variance / pairs)
    both = float(student.ppf((1 + CONFIDENCE) / 2, pairs - 1)) * error
    upper = mean + float(student.ppf(CONFIDENCE, pairs - 1)) * error
    return NonInferiority(
        pairs=pairs,
        mean=mean,
        low=mean - both,
        high=mean + both,
        upper_bound=upper,
        margin=margin,
        non_inferior=upper < margin,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Frequency:
    """How often something happened, marked beside clean."""

    marked: int
    marked_total: int
    clean: int
    clean_total: int
    p_more_frequent: float
    """Fisher's exact test, one-sided: as many or more in the marked arm by chance"""
    alpha: float
    more_frequent: bool

    def to_record(self) -> dict[str, object]:
        return asdict(self)


def compare_frequency(
    marked: int, marked_total: int, clean: int, clean_total: int, *, alpha: float = COUNT_ALPHA
) -> Frequency:
    """Whether the marked arm has significantly more."""
    p = float(one_sided(Table(a=marked, n=marked_total, b=clean, m=clean_total)))
    return Frequency(
        marked=marked,
        marked_total=marked_total,
        clean=clean,
        clean_total=clean_total,
        p_more_frequent=p,
        alpha=alpha,
        more_frequent=p <= alpha,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedFrequency:
    """The same counts, a trained model at a time: answers of one model are no independent draws."""

    pairs: int
    more: int
    """pairs whose marked model has more"""
    fewer: int
    p_more_frequent: float
    """exact, one-sided: such a sum of differences or a larger one, were each difference's sign a coin's"""
    alpha: float
    more_frequent: bool

    def to_record(self) -> dict[str, object]:
        return asdict(self)


def compare_paired_frequency(
    marked: Sequence[int], clean: Sequence[int], *, alpha: float = COUNT_ALPHA
) -> PairedFrequency:
    """Whether marked models have significantly more than the clean models beside them: Fisher's randomization
    test for paired observations (The Design of Experiments, 1935, section 21), over all 2^pairs signs.

    Raises:
        ValueError: no pairs, or halves of different lengths.
    """
    if len(marked) != len(clean) or not marked:
        raise ValueError("pairs are needed")
    differences = [one - other for one, other in zip(marked, clean, strict=True)]
    ways = Counter({0: 1})  # of choosing signs, by the sum that they give
    for difference in differences:
        ways = _with_either_sign(ways, abs(difference))
    observed = sum(differences)
    p = sum(count for total, count in ways.items() if total >= observed) / 2 ** len(differences)
    return PairedFrequency(
        pairs=len(differences),
        more=sum(difference > 0 for difference in differences),
        fewer=sum(difference < 0 for difference in differences),
        p_more_frequent=p,
        alpha=alpha,
        more_frequent=p <= alpha,
    )


def _with_either_sign(ways: Counter[int], size: int) -> Counter[int]:
    following: Counter[int] = Counter()
    for total, count in ways.items():
        following[total + size] += count
        following[total - size] += count
    return following
