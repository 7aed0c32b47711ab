"""Paired by seed; held against the textbook and scipy."""

from __future__ import annotations

import pytest
from scipy.stats import fisher_exact, permutation_test, ttest_rel

from benchmarks.lab.noninferiority import compare_frequency, compare_paired_frequency, non_inferior

CLEAN = [2.00, 2.02, 1.97, 2.05, 1.99]


def test_equal_losses_are_non_inferior() -> None:
    near = (1.001, 0.999, 1, 1.002, 0.998)
    marked = [loss * factor for loss, factor in zip(CLEAN, near, strict=True)]
    found = non_inferior(marked, CLEAN, margin=0.01)
    assert found.non_inferior
    assert found.low < 0 < found.high < 0.01


def test_a_loss_two_percent_higher_is_not() -> None:
    found = non_inferior([loss * 1.02 for loss in CLEAN], CLEAN, margin=0.01)
    assert not found.non_inferior
    assert found.mean == pytest.approx(0.02)


def test_noise_that_hides_the_margin_is_not_a_proof() -> None:
    marked = [loss * factor for loss, factor in zip(CLEAN, (1.05, 0.95, 1.04, 0.96, 1.0), strict=True)]
    found = non_inferior(marked, CLEAN, margin=0.01)
    assert found.mean == pytest.approx(0, abs=1e-9)
    assert not found.non_inferior


def test_the_bound_agrees_with_the_paired_t_test() -> None:
    marked = [1.01, 1.02, 0.99, 1.03, 1.00]
    ones = [1.0] * 5
    found = non_inferior(marked, ones, margin=0.05)
    shifted = ttest_rel(marked, [1 + found.upper_bound] * 5, alternative="less")
    assert shifted.pvalue == pytest.approx(0.05)


@pytest.mark.parametrize(("marked", "clean"), [([1.0], [1.0]), ([1.0, 2.0], [1.0]), ([1.0, 1.0], [0.0, 1.0])])
def test_what_can_not_be_compared_is_refused(marked: list[float], clean: list[float]) -> None:
    with pytest.raises(ValueError, match="need"):
        non_inferior(marked, clean, margin=0.01)


def test_frequencies_are_compared_by_fishers_test() -> None:
    found = compare_frequency(30, 600, 10, 600)
    assert found.p_more_frequent == pytest.approx(
        fisher_exact([[30, 570], [10, 590]], alternative="greater").pvalue
    )
    assert found.more_frequent
    assert not compare_frequency(10, 600, 30, 600).more_frequent


MARKED_COUNTS = [2, 6, 2, 4, 3, 5, 6, 8, 11, 6]
CLEAN_COUNTS = [11, 7, 1, 1, 0, 1, 2, 0, 1, 9]


def test_counts_are_also_compared_model_by_model() -> None:
    found = compare_paired_frequency(MARKED_COUNTS, CLEAN_COUNTS)
    scipys = permutation_test(
        (MARKED_COUNTS, CLEAN_COUNTS),
        lambda marked, clean: sum(marked) - sum(clean),
        permutation_type="samples",
        n_resamples=2**10,
        alternative="greater",
        vectorized=False,
    )
    assert found.p_more_frequent == pytest.approx(scipys.pvalue)
    assert (found.pairs, found.more, found.fewer, found.more_frequent) == (10, 7, 3, False)


def test_seven_models_of_seven_with_more_are_more_frequent() -> None:
    found = compare_paired_frequency([3, 5, 2, 9, 4, 6, 2], [1, 1, 1, 1, 1, 1, 1])
    assert found.p_more_frequent == 1 / 2**7
    assert found.more_frequent


def test_one_model_with_all_the_answers_is_no_sign_of_the_others() -> None:
    """Thirty answers of one model: Fisher's test over answers would call them more frequent."""
    assert compare_frequency(30, 3000, 0, 3000).more_frequent
    assert compare_paired_frequency([30, 0, 0, 0, 0], [0, 0, 0, 0, 0]).p_more_frequent == 0.5


@pytest.mark.parametrize(("marked", "clean"), [([], []), ([1], [1, 2])])
def test_counts_without_a_partner_are_refused(marked: list[int], clean: list[int]) -> None:
    with pytest.raises(ValueError, match="pairs"):
        compare_paired_frequency(marked, clean)
