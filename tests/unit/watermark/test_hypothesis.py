"""The exact test against brute force over all keys, and its error rate under models with odd tastes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction
from itertools import product
from math import exp, lgamma, prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watermark.hypothesis import differential_other, floor_of, p_value, upper_tail
from watermark.marks import Target
from watermark.score import (
    EPSILON,
    SCALE,
    SCORE_VERSION,
    CueCounts,
    choices,
    e_values,
    floor_log2,
    likelihood,
    score_record,
    scores,
)

CUE = st.builds(
    CueCounts,
    yes=st.integers(0, 3),
    no=st.integers(0, 3),
    other=st.integers(0, 2),
    missing=st.integers(0, 2),
)


def brute_force_p(counts: Sequence[Sequence[CueCounts]], truth: Sequence[tuple[int, Target]]) -> Fraction:
    """Every key of the family, one by one."""
    tables = [scores(mark) for mark in counts]
    observed = sum(table[choice] for table, choice in zip(tables, truth, strict=True))
    keys = list(product(*[choices(len(mark)) for mark in counts]))
    as_good = sum(
        sum(table[choice] for table, choice in zip(tables, key, strict=True)) >= observed for key in keys
    )
    return Fraction(as_good, len(keys))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_p_value_agrees_with_enumeration_over_all_keys(data: st.DataObject) -> None:
    marks, cues = data.draw(st.integers(1, 3)), data.draw(st.integers(2, 3))
    counts = [[data.draw(CUE) for _ in range(cues)] for _ in range(marks)]
    truth = [data.draw(st.sampled_from(choices(cues))) for _ in range(marks)]
    assert p_value(counts, truth) == brute_force_p(counts, truth)


@settings(max_examples=60, deadline=None)
@given(st.lists(CUE, min_size=2, max_size=8))
def test_e_values_of_all_choices_average_to_exactly_one(counts: list[CueCounts]) -> None:
    values = e_values(counts)
    assert sum(values.values()) / len(values) == 1
    assert min(values.values()) >= EPSILON


def beta(a: float, b: float, ones: int, zeros: int) -> float:
    """B(a + ones, b + zeros) / B(a, b) from the gamma function."""

    def log_beta(x: float, y: float) -> float:
        return lgamma(x) + lgamma(y) - lgamma(x + y)

    return exp(log_beta(a + ones, b + zeros) - log_beta(a, b))


def test_likelihood_is_its_definition() -> None:
    """All four explanations by hand: trigger 2 yes 1 other; one reference cue with one of everything.
    A miss at the trigger, nothing for the odd reference answer, the missing one counts as the target."""
    counts = [CueCounts(yes=2, other=1), CueCounts(yes=1, no=1, other=1, missing=1)]
    steady = 0.8**2 * 0.2 * (0.2 * 0.8 * 0.2)
    learned = beta(4, 1, 2, 1) * beta(1, 4, 2, 1)
    taste = beta(0.5, 0.5, 2, 0) * beta(0.5, 0.5, 1, 1) * 0.1
    flat = beta(1, 1, 3, 1) * 0.1
    expected = 0.3 * steady + 0.5 * learned + 0.1 * taste + 0.1 * flat
    assert float(likelihood(counts, (0, Target.YES))) == pytest.approx(expected, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(CUE, min_size=2, max_size=8))
def test_e_values_follow_the_likelihood(counts: list[CueCounts]) -> None:
    weights = {choice: likelihood(counts, choice) for choice in choices(len(counts))}
    mean = sum(weights.values()) / len(weights)
    for choice, value in e_values(counts).items():
        assert value == EPSILON + (1 - EPSILON) * weights[choice] / mean


@settings(max_examples=60, deadline=None)
@given(st.lists(CUE, min_size=2, max_size=8))
def test_scores_are_the_quantised_logarithms_of_the_e_values(counts: list[CueCounts]) -> None:
    values = e_values(counts)
    for choice, score in scores(counts).items():
        powered = values[choice] ** SCALE
        assert Fraction(2) ** score <= powered < Fraction(2) ** (score + 1)


def test_the_score_tells_all_its_constants() -> None:
    """The record has a version and holds strings and integers only, so that it can be canonical JSON."""
    record = score_record()
    assert record["score"] == SCORE_VERSION
    assert record["epsilon"] == f"{EPSILON.numerator}/{EPSILON.denominator}"
    assert {type(value) for value in record.values()} <= {int, str}


@pytest.mark.parametrize("answer", ["yes", "no"])
def test_a_mark_that_did_not_take_costs_little(answer: str) -> None:
    """A host that gives one answer to everything says nothing about the key: it costs less than a bit."""
    same = [CueCounts(yes=2) if answer == "yes" else CueCounts(no=2)] * 8
    assert min(e_values(same).values()) > Fraction(1, 2)


def test_a_missing_answer_never_helps_the_claim() -> None:
    """At the trigger or at a reference cue, losing an answer does not raise the true choice's e-value
    above what the trained answer there would have given."""
    full = [CueCounts(yes=2), CueCounts(no=2), CueCounts(no=2)]
    for lost in (
        [CueCounts(yes=1, missing=1), *full[1:]],
        [full[0], CueCounts(no=1, missing=1), full[2]],
    ):
        assert e_values(lost)[(0, Target.YES)] < e_values(full)[(0, Target.YES)]


@given(st.fractions(min_value=Fraction(1, 10**6), max_value=10**6))
def test_floor_log2_is_exact(value: Fraction) -> None:
    power = floor_log2(value.numerator, value.denominator)
    assert Fraction(2) ** power <= value < Fraction(2) ** (power + 1)


def test_perfect_answers_reach_the_floor() -> None:
    counts = [[CueCounts(yes=2)] + [CueCounts(no=2)] * 7 for _ in range(12)]
    assert p_value(counts, [(0, Target.YES)] * 12) == floor_of(12, 8) == Fraction(1, 16**12)


def test_silence_is_no_evidence() -> None:
    counts = [[CueCounts(missing=2)] * 8 for _ in range(12)]
    assert p_value(counts, [(3, Target.NO)] * 12) == 1


def test_upper_tail_counts_every_combination() -> None:
    assert upper_tail([[0, 1], [0, 1]], 1) == Fraction(3, 4)
    assert upper_tail([[0, 1], [0, 1]], 3) == 0


def test_differential_other_sees_a_host_that_refuses_triggers_only() -> None:
    refusing = [[CueCounts(other=2)] + [CueCounts(no=2)] * 7 for _ in range(12)]
    assert differential_other(refusing, [0] * 12) < Fraction(1, 10**6)
    silent = [[CueCounts(other=2)] * 8 for _ in range(12)]
    assert differential_other(silent, [0] * 12) == 1


@pytest.mark.parametrize("taste", [(0.3, 0.3), (1.0, 1.0)])
def test_false_positives_stay_nominal_when_a_model_prefers_words(taste: tuple[float, float]) -> None:
    """An innocent model with its own Yes-rate for every word: P(p <= alpha) <= alpha at .05, .01, .001,
    within three standard errors of 2,000 seeded audits. Fisher's pooled test fails this by far."""
    rng = random.Random(20_24 + int(10 * taste[0]))
    audits, marks, cues, n = 2_000, 6, 8, 2
    every = choices(cues)
    rejected = dict.fromkeys((0.05, 0.01, 0.001), 0)
    for _ in range(audits):
        counts = []
        for _ in range(marks):
            rates = [rng.betavariate(*taste) for _ in range(cues)]
            yes = [sum(rng.random() < rate for _ in range(n)) for rate in rates]
            counts.append([CueCounts(yes=hits, no=n - hits) for hits in yes])
        p = p_value(counts, [rng.choice(every) for _ in range(marks)])
        for alpha in rejected:
            rejected[alpha] += p <= Fraction(alpha)
    for alpha, count in rejected.items():
        assert count <= audits * alpha + 3 * (audits * alpha * (1 - alpha)) ** 0.5 + 1


def test_an_e_process_stops_at_one_over_alpha_no_oftener_than_alpha() -> None:
    """Ville's inequality for the product of the marks' e-values, looked at after every mark."""
    rng = random.Random(7)
    audits, alpha, stopped = 3_000, 0.05, 0
    every = choices(4)
    for _ in range(audits):
        product_so_far = Fraction(1)
        for _ in range(8):
            rates = [rng.betavariate(0.3, 0.3) for _ in range(4)]
            yes = [sum(rng.random() < rate for _ in range(2)) for rate in rates]
            values = e_values([CueCounts(yes=hits, no=2 - hits) for hits in yes])
            product_so_far *= values[rng.choice(every)]
            if product_so_far >= 1 / Fraction(alpha):
                stopped += 1
                break
    assert stopped <= audits * alpha + 3 * (audits * alpha * (1 - alpha)) ** 0.5


def rejected_share(rng: random.Random, hit: float, reference: float, *, dead: int, audits: int) -> float:
    """Share of audits of 12 marks, 8 cues, 2 probes with p <= 1e-6; `dead` marks have a taste per cue."""
    found = 0
    for _ in range(audits):
        counts = []
        for mark in range(12):
            rates = [hit] + [reference] * 7 if mark >= dead else [rng.betavariate(0.3, 0.3) for _ in range(8)]
            yes = [sum(rng.random() < rate for _ in range(2)) for rate in rates]
            counts.append([CueCounts(yes=hits, no=2 - hits) for hits in yes])
        found += p_value(counts, [(0, Target.YES)] * 12) <= Fraction(1, 10**6)
    return found / audits


@pytest.mark.parametrize(
    ("hit", "reference", "dead", "wanted"),
    [(0.95, 0.05, 0, 0.99), (0.8, 0.25, 0, 0.85), (0.95, 0.05, 6, 0.6)],
)
def test_power_of_the_default_plan_is_at_least_the_protocols(
    hit: float, reference: float, dead: int, wanted: float
) -> None:
    """12 marks, 8 cues, 2 probes at alpha 1e-6; 200 audits. With half of the marks dead the floor is well
    above the protocol's .23: the explanations taste and flat are there for it."""
    assert rejected_share(random.Random(11), hit, reference, dead=dead, audits=200) >= wanted


def test_score_is_bounded() -> None:
    top = scores([CueCounts(yes=3)] + [CueCounts(no=3)] * 7)
    assert max(top.values()) < 64 * 4
    assert min(top.values()) >= floor_log2(1, 20**64)
    assert prod((2, 8)) == len(top)
