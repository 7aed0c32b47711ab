"""From a request to a plan."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest

from service.errors import NotFound
from service.verifications.plans import InvalidPlan, PlanRequest, Shape, asking_of, plan_of, question_count

SHAPE = Shape(families=2, marks=12, cues=8)


def _plan(request: PlanRequest, *, audit_index: int = 1, grade: str = "committed") -> object:
    return plan_of(request, SHAPE, grade=grade, audit_index=audit_index)


def test_what_is_left_open_gets_a_default() -> None:
    plan = plan_of(PlanRequest(), SHAPE, grade="committed", audit_index=1)
    assert (plan.family, plan.marks, plan.alpha) == (0, tuple(range(12)), Fraction(1, 10**6))
    assert question_count(plan, SHAPE, "committed") == 208
    assert question_count(plan, SHAPE, "research") == 200


def test_a_count_of_marks_means_the_first_ones() -> None:
    plan = plan_of(PlanRequest(marks=7), SHAPE, grade="committed", audit_index=1)
    assert plan.marks == tuple(range(7))


def test_later_audits_get_a_smaller_share_of_alpha() -> None:
    shares = [
        plan_of(PlanRequest(), SHAPE, grade="committed", audit_index=index).alpha_i for index in (1, 2, 3)
    ]
    assert shares[0] == 4 * shares[1] == 9 * shares[2]
    assert shares[0] < Fraction(1, 10**6)


@pytest.mark.parametrize(
    "request_",
    [
        PlanRequest(marks=0),
        PlanRequest(marks=13),
        PlanRequest(marks=()),
        PlanRequest(marks=(1, 1)),
        PlanRequest(marks=(-1,)),
        PlanRequest(probes_per_cue=4),
        PlanRequest(alpha="0"),
        PlanRequest(alpha="1/0"),
        PlanRequest(alpha="1e-16"),
        PlanRequest(alpha="small"),
    ],
)
def test_a_plan_out_of_range_is_refused(request_: PlanRequest) -> None:
    with pytest.raises(InvalidPlan):
        _plan(request_)


def test_a_family_that_is_not_there_is_not_found() -> None:
    with pytest.raises(NotFound):
        _plan(PlanRequest(family=2))


@pytest.mark.parametrize(
    ("given", "text"),
    [("0", "0"), ("0.0", "0"), ("0.70", "0.7"), ("1", "1"), ("2.0", "2"), ("1E-4", "0.0001")],
)
def test_a_temperature_has_one_spelling(given: str, text: str) -> None:
    assert asking_of(PlanRequest(temperature=Decimal(given))).temperature == text
