"""Deciding again, from raw answers alone: what a reader of evidence runs without trusting anybody.

A pre-registration is a plain record; `preregister` writes it before the first question and `replay`
reads it. Fields:

- ``rule``: `watermark.decision.rule_record`, in full
- ``key``: commitment (hex), grade, audit_index
- ``plan``: family, marks (list), probes_per_cue, alpha, alpha_i ("a/b"), order_seed (hex)
- anything else the caller fixed beforehand (suspect, decoding, retries), carried along unread
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from watermark.answers import parse_answer
from watermark.decision import (
    Decision,
    alpha_for_audit,
    check_plan,
    decide,
    fraction_text,
    parse_fraction,
    rule_record,
)
from watermark.errors import RecordError
from watermark.keys import Family, family_of_opening, unhex
from watermark.probes import Probe, draw_probes


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is fixed before probing and decides how many questions are asked and what they must show."""

    family: int
    marks: tuple[int, ...]
    probes_per_cue: int
    alpha: Fraction
    alpha_i: Fraction
    order_seed: bytes

    def to_record(self) -> dict[str, object]:
        """Strings, integers and lists."""
        return {
            "family": self.family,
            "marks": list(self.marks),
            "probes_per_cue": self.probes_per_cue,
            "alpha": fraction_text(self.alpha),
            "alpha_i": fraction_text(self.alpha_i),
            "order_seed": self.order_seed.hex(),
        }


def preregister(
    *, commitment: str, grade: str, audit_index: int, plan: Plan, cues: int, available_marks: int
) -> dict[str, object]:
    """The part of a pre-registration that `replay` reads.

    Raises:
        PlanError: the plan can't reach its alpha_i.
    """
    check_plan(len(plan.marks), cues, plan.alpha_i, available_marks)
    return {
        "rule": rule_record(),
        "key": {"commitment": commitment, "grade": grade, "audit_index": audit_index},
        "plan": plan.to_record(),
    }


def probes_of(family: Family, plan: Plan) -> tuple[Probe, ...]:
    """The questions of a plan, in order."""
    return draw_probes(
        family, marks=plan.marks, probes_per_cue=plan.probes_per_cue, order_seed=plan.order_seed
    )


def read_plan(preregistration: Mapping[str, object]) -> Plan:
    """The plan of a pre-registration, with its alpha_i recomputed and compared.

    Raises:
        RecordError: malformed, another rule, or an alpha_i that does not follow from alpha and the index.
    """
    if preregistration.get("rule") != rule_record():
        raise RecordError("the pre-registration names another decision rule than this software has")
    key, plan = preregistration.get("key"), preregistration.get("plan")
    if not isinstance(key, Mapping) or not isinstance(plan, Mapping):
        raise RecordError("the pre-registration lacks key or plan")
    marks = plan.get("marks")
    if not isinstance(marks, list) or not all(type(mark) is int for mark in marks) or not marks:
        raise RecordError("plan.marks is not a list of numbers")
    alpha = parse_fraction(plan.get("alpha"), "plan.alpha")
    alpha_i = parse_fraction(plan.get("alpha_i"), "plan.alpha_i")
    if alpha_i != alpha_for_audit(alpha, _integer(key, "audit_index"), str(key.get("grade"))):
        raise RecordError("plan.alpha_i does not follow from alpha, the audit's number and the key's grade")
    return Plan(
        family=_integer(plan, "family"),
        marks=tuple(marks),
        probes_per_cue=_integer(plan, "probes_per_cue"),
        alpha=alpha,
        alpha_i=alpha_i,
        order_seed=unhex(plan.get("order_seed"), "plan.order_seed"),
    )


def replay(
    preregistration: Mapping[str, object], opening: Mapping[str, object], raw_answers: Sequence[str | None]
) -> Decision:
    """Open the family, draw its probes again, read the raw answers, decide.

    Args:
        raw_answers: the reply's text for each probe in the order of asking; None where none came.

    Raises:
        OpeningError: the opened family is not the committed one.
        RecordError: a record is malformed or the number of answers is wrong.
    """
    plan = read_plan(preregistration)
    key = preregistration["key"]
    if not isinstance(key, Mapping) or not isinstance(key.get("commitment"), str):
        raise RecordError("key.commitment is missing")
    family = family_of_opening(opening, key["commitment"])
    if family.index != plan.family:
        raise RecordError("the opened family is not the planned one")
    return decide(
        family,
        probes_of(family, plan),
        [parse_answer(text) for text in raw_answers],
        alpha_i=plan.alpha_i,
    )


def _integer(record: Mapping[str, object], name: str) -> int:
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise RecordError(f"{name} is not an integer")
    return value
