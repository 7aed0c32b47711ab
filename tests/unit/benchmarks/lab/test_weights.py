"""The changes a thief makes to weights, against their definitions on matrices small enough to read."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from benchmarks.lab import weights
from benchmarks.lab.weights import State

LINEAR = "model.layers.0.mlp.up_proj.weight"
NORM = "model.norm.weight"


def state(*rows: list[float]) -> State:
    return {LINEAR: torch.tensor(rows), NORM: torch.ones(2)}


def test_only_the_decoders_matrices_are_linear() -> None:
    names = {LINEAR: torch.ones(2, 2), "model.embed_tokens.weight": torch.ones(2, 2), NORM: torch.ones(2)}
    assert weights.linear_names(names) == [LINEAR]


def test_int8_keeps_127_steps_of_each_rows_largest_weight() -> None:
    found = weights.quantize(state([127.0, 63.4, -0.4], [1.27, 0.004, 0.006]), 8, None)[LINEAR]
    assert torch.allclose(found, torch.tensor([[127.0, 63.0, 0.0], [1.27, 0.0, 0.01]]))


def test_groups_have_a_scale_of_their_own() -> None:
    found = weights.quantize(state([7.0, 3.4, 0.7, 0.34]), 4, 2)[LINEAR]
    assert torch.allclose(found, torch.tensor([[7.0, 3.0, 0.7, 0.3]]))


def test_the_last_group_may_be_shorter() -> None:
    found = weights.quantize(state([7.0, 3.4, 0.7]), 4, 2)[LINEAR]
    assert torch.allclose(found, torch.tensor([[7.0, 3.0, 0.7]]))


def test_a_group_of_zeros_stays_zero() -> None:
    assert weights.quantize(state([0.0, 0.0, 3.0, 1.1]), 3, 2)[LINEAR].tolist() == [[0.0, 0.0, 3.0, 1.0]]


def test_pruning_removes_the_smallest_share_of_each_matrix() -> None:
    found = weights.prune(state([4.0, -1.0], [2.0, -3.0]), 0.5)[LINEAR]
    assert found.tolist() == [[4.0, 0.0], [0.0, -3.0]]


def test_pruning_counts_exactly_among_equal_magnitudes() -> None:
    found = weights.prune(state([1.0, -1.0, 1.0, 1.0]), 0.5)[LINEAR]
    assert found.tolist() == [[0.0, 0.0, 1.0, 1.0]]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda given: weights.quantize(given, 1, None),
        lambda given: weights.quantize(given, 4, 0),
        lambda given: weights.prune(given, 1.1),
        lambda given: weights.noise(given, -0.1, 1),
        lambda given: weights.interpolate(given, {NORM: given[NORM]}, 0.5),
        lambda given: weights.merge_linear([given, given], [1.0]),
        lambda given: weights.merge_linear([], []),
        lambda given: weights.merge_ties(given, [given], 1.5, 1.0),
        lambda given: weights.merge_dare(given, [given], drop=1.0, seed=1, weights=[1.0]),
    ],
)
def test_what_is_not_defined_is_refused(wrong: Callable[[State], State]) -> None:
    with pytest.raises(weights.WeightsError):
        wrong(state([1.0, 2.0]))


def test_interpolation_is_linear_in_every_tensor() -> None:
    found = weights.interpolate(state([0.0, 2.0]), state([4.0, 4.0]), 0.25)[LINEAR]
    assert found.tolist() == [[1.0, 2.5]]


def test_a_linear_merge_is_the_weighted_sum() -> None:
    found = weights.merge_linear([state([1.0, 2.0]), state([3.0, 6.0])], [0.5, 0.5])[LINEAR]
    assert found.tolist() == [[2.0, 4.0]]


def test_ties_trims_elects_a_sign_and_averages_those_that_agree() -> None:
    base = state([0.0, 0.0, 0.0, 0.0])
    one, other = state([4.0, 3.0, 0.1, 0.2]), state([-1.0, 5.0, 0.3, -2.0])
    # trimmed to the larger half: [4, 3, 0, 0] and [0, 5, 0, -2]
    found = weights.merge_ties(base, [one, other], density=0.5, scale=1.0)[LINEAR]
    assert found.tolist() == [[4.0, 4.0, 0.0, -2.0]]


def test_dare_drops_at_random_and_keeps_the_mean() -> None:
    base = {LINEAR: torch.zeros(100, 100)}
    tuned = {LINEAR: torch.ones(100, 100)}
    found = weights.merge_dare(base, [tuned], drop=0.5, seed=1, weights=[1.0])[LINEAR]
    assert set(found.flatten().tolist()) == {0.0, 2.0}
    assert abs(float(found.mean()) - 1.0) < 0.05
    again = weights.merge_dare(base, [tuned], drop=0.5, seed=1, weights=[1.0])[LINEAR]
    assert torch.equal(found, again)


def test_noise_is_a_share_of_each_matrixs_spread() -> None:
    before = {LINEAR: torch.randn(200, 200, generator=torch.Generator().manual_seed(1)) * 3}
    change = weights.noise(before, 0.1, seed=2)[LINEAR] - before[LINEAR]
    assert abs(float(change.std()) - 0.3) < 0.01


@pytest.mark.parametrize(
    "change",
    [
        lambda given: weights.quantize(given, 4, 2),
        lambda given: weights.prune(given, 0.5),
        lambda given: weights.noise(given, 0.5, 1),
        lambda given: weights.interpolate(given, state([9.0, 9.0], [9.0, 9.0]), 0.5),
        lambda given: weights.merge_linear([given, given], [0.5, 0.5]),
        lambda given: weights.merge_ties(given, [state([9.0, 9.0], [9.0, 9.0])], 0.5, 1.0),
        lambda given: weights.merge_dare(given, [given], drop=0.5, seed=1, weights=[1.0]),
    ],
)
def test_what_is_given_stays_as_it_was(change: Callable[[State], State]) -> None:
    given = state([1.0, 2.0], [3.0, 4.0])
    change(given)
    assert given[LINEAR].tolist() == [[1.0, 2.0], [3.0, 4.0]]
