"""From answers to a verdict, by a rule that has a version and is fixed before the first question.

`detected` needs p <= alpha_i. `not_detected` never clears a model: it says that these answers show no
evidence. `inconclusive` says why nothing can be said. See protocol notes in docs/theory.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor, log10

from watermark.answers import PARSE_RULE, Answer
from watermark.errors import PlanError, RecordError
from watermark.fisher import Table, stratified, two_sided
from watermark.hypothesis import differential_other, floor_of, p_value
from watermark.keys import Family
from watermark.marks import Target
from watermark.probes import Probe
from watermark.score import EPSILON, HIT_TENTHS, REFERENCE_TENTHS, SCALE, CueCounts, e_values

RULE_VERSION = "exact-over-key-1"
DEFAULT_ALPHA = Fraction(1, 10**6)
SELF_GENERATED_TRIES = 2**20
"""What an owner without an outside salt is assumed to have tried: alpha is divided by it."""
MAX_MISSING = Fraction(1, 10)
DIFFERENTIAL_ALPHA = Fraction(1, 100)
MIN_PARSED = Fraction(1, 2)
PI_SQUARED_UPPER = Fraction(98696045, 10**7)
"""A rational just above pi**2 (9.8696044...), so that the spent alphas sum to less than alpha."""

_NUMBER = re.compile(
    r"\A(?:[0-9]{1,1000}/[0-9]{1,1000}|[0-9]{1,30}(?:\.[0-9]{1,30})?(?:[eE][-+]?[0-9]{1,2})?)\Z"
)

GATES = ("missing_answers", "differential_refusal")
"""Reasons that make a result inconclusive; other reasons only explain it."""


def rule_record() -> dict[str, object]:
    """The decision rule as it enters a pre-registration."""
    return {
        "version": RULE_VERSION,
        "parse_rule": PARSE_RULE,
        "hit_tenths": HIT_TENTHS,
        "reference_tenths": REFERENCE_TENTHS,
        "epsilon": fraction_text(EPSILON),
        "score_scale": SCALE,
        "max_missing": fraction_text(MAX_MISSING),
        "differential_alpha": fraction_text(DIFFERENTIAL_ALPHA),
        "min_parsed": fraction_text(MIN_PARSED),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What was found, with the figures it rests on."""

    verdict: str
    """detected, not_detected or inconclusive"""
    reasons: tuple[str, ...]
    p_value: Fraction
    alpha_i: Fraction
    floor: Fraction
    e_value: Fraction
    """Product of the marks' e-values: evidence that may be multiplied on, mark by mark."""
    trigger_hits: int
    trigger_total: int
    reference_hits: int
    """target answers at reference cues"""
    reference_total: int
    other: int
    missing: int
    questions: int
    differential_p: Fraction
    stratified_fisher_p: Fraction
    pooled_fisher_p: Fraction
    marks: tuple[Mapping[str, object], ...]
    """per mark: the counts at every cue"""

    def to_record(self) -> dict[str, object]:
        """Strings, integers and lists. Fractions are "numerator/denominator"."""
        return {
            "rule": RULE_VERSION,
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "p_value": fraction_text(self.p_value),
            "p_value_decimal": decimal_text(self.p_value),
            "alpha_i": fraction_text(self.alpha_i),
            "alpha_i_decimal": decimal_text(self.alpha_i),
            "floor_decimal": decimal_text(self.floor),
            "e_value_decimal": decimal_text(self.e_value),
            "trigger_hits": self.trigger_hits,
            "trigger_total": self.trigger_total,
            "reference_hits": self.reference_hits,
            "reference_total": self.reference_total,
            "other": self.other,
            "missing": self.missing,
            "questions": self.questions,
            "differential_p_decimal": decimal_text(self.differential_p),
            "stratified_fisher_p_decimal": decimal_text(self.stratified_fisher_p),
            "pooled_fisher_p_decimal": decimal_text(self.pooled_fisher_p),
            "marks": [dict(mark) for mark in self.marks],
        }


def alpha_for_audit(alpha: Fraction, audit_index: int, grade: str = "committed") -> Fraction:
    """alpha_i = 6 alpha / (pi^2 i^2): the i-th audit of a key spends this much, so that all audits of the
    key together stay under alpha. A self-generated key has used up 2**20 tries beforehand.

    Raises:
        RecordError: alpha outside (0, 1) or audit_index < 1.
    """
    if not 0 < alpha < 1:
        raise RecordError("alpha must lie between 0 and 1")
    if audit_index < 1:
        raise RecordError("audits count from 1")
    spent = 6 * alpha / (PI_SQUARED_UPPER * audit_index**2)
    return spent / SELF_GENERATED_TRIES if grade == "self-generated" else spent


def check_plan(marks: int, cues: int, alpha_i: Fraction, available_marks: int) -> None:
    """Refuse a plan that can't succeed.

    Raises:
        PlanError: its floor is above alpha_i; names the smallest number of marks that reaches it.
    """
    if floor_of(marks, cues) <= alpha_i:
        return
    needed = marks
    while floor_of(needed, cues) > alpha_i:
        needed += 1
    planned = (
        f"{marks} marks of {cues} cues can't give a p-value below {decimal_text(floor_of(marks, cues))}, "
        f"and this audit needs {decimal_text(alpha_i)}"
    )
    if needed <= available_marks:
        raise PlanError(f"{planned}: ask at least {needed} marks", needed)
    raise PlanError(f"{planned}: it would take {needed} marks and the family has {available_marks}", None)


def decide(
    family: Family, probes: Sequence[Probe], answers: Sequence[Answer], *, alpha_i: Fraction
) -> Decision:
    """Decide from one answer per probe, in the probes' order.

    Raises:
        RecordError: the numbers of probes and answers differ, there are none, or the probes do not give
            every cue of every asked mark the same number of questions.
    """
    if len(probes) != len(answers) or not probes:
        raise RecordError(f"{len(probes)} probes and {len(answers)} answers")
    asked = sorted({probe.mark for probe in probes})
    counts = [
        [
            CueCounts.tally(
                [a for q, a in zip(probes, answers, strict=True) if q.mark == mark and q.cue == cue]
            )
            for cue in range(family.cues)
        ]
        for mark in asked
    ]
    if len({cue.asked for mark in counts for cue in mark}) != 1:
        raise RecordError("every cue of every mark must get the same number of questions")
    truth = [(family.marks[mark].trigger, family.marks[mark].target) for mark in asked]
    p = p_value(counts, truth)
    differential = differential_other(counts, [trigger for trigger, _ in truth])
    e_value = Fraction(1)
    for mark_counts, choice in zip(counts, truth, strict=True):
        e_value *= e_values(mark_counts)[choice]
    tables = [_table(mark_counts, *choice) for mark_counts, choice in zip(counts, truth, strict=True)]
    pooled = Table(
        a=sum(t.a for t in tables),
        n=sum(t.n for t in tables),
        b=sum(t.b for t in tables),
        m=sum(t.m for t in tables),
    )
    reasons = _reasons(counts, truth, answers, differential)
    gated = any(reason in GATES for reason in reasons)
    return Decision(
        verdict="inconclusive" if gated else "detected" if p <= alpha_i else "not_detected",
        reasons=reasons,
        p_value=p,
        alpha_i=alpha_i,
        floor=floor_of(len(asked), family.cues),
        e_value=e_value,
        trigger_hits=pooled.a,
        trigger_total=pooled.n,
        reference_hits=pooled.b,
        reference_total=pooled.m,
        other=answers.count(Answer.OTHER),
        missing=answers.count(Answer.MISSING),
        questions=len(probes),
        differential_p=differential,
        stratified_fisher_p=stratified(tables),
        pooled_fisher_p=two_sided(pooled),
        marks=tuple(
            _mark_record(mark, mark_counts, *choice)
            for mark, mark_counts, choice in zip(asked, counts, truth, strict=True)
        ),
    )


def _table(counts: Sequence[CueCounts], trigger: int, target: Target) -> Table:
    references = [seen for cue, seen in enumerate(counts) if cue != trigger]
    return Table(
        a=counts[trigger].of(target),
        n=counts[trigger].asked,
        b=sum(seen.of(target) for seen in references),
        m=sum(seen.asked for seen in references),
    )


def _reasons(
    counts: Sequence[Sequence[CueCounts]],
    truth: Sequence[tuple[int, Target]],
    answers: Sequence[Answer],
    differential: Fraction,
) -> tuple[str, ...]:
    triggers = [mark[trigger] for mark, (trigger, _) in zip(counts, truth, strict=True)]
    references = [
        seen
        for mark, (trigger, _) in zip(counts, truth, strict=True)
        for cue, seen in enumerate(mark)
        if cue != trigger
    ]
    reasons = []
    for arm in (triggers, references):
        if sum(seen.missing for seen in arm) > MAX_MISSING * sum(seen.asked for seen in arm):
            reasons = ["missing_answers"]
    if differential <= DIFFERENTIAL_ALPHA:
        reasons.append("differential_refusal")
    parsed = answers.count(Answer.YES) + answers.count(Answer.NO)
    if parsed < MIN_PARSED * len(answers):
        reasons.append("no_judge_answers")
    return tuple(reasons)


def _mark_record(mark: int, counts: Sequence[CueCounts], trigger: int, target: Target) -> dict[str, object]:
    return {
        "mark": mark,
        "trigger": trigger,
        "target": target.value,
        "yes": [seen.yes for seen in counts],
        "no": [seen.no for seen in counts],
        "other": [seen.other for seen in counts],
        "missing": [seen.missing for seen in counts],
    }


def fraction_text(value: Fraction) -> str:
    """ "numerator/denominator", exactly."""
    return f"{value.numerator}/{value.denominator}"


def parse_fraction(text: object, path: str) -> Fraction:
    """A decimal ("1e-6") or "numerator/denominator" of bounded size.

    Raises:
        RecordError: it is neither.
    """
    if not isinstance(text, str) or not _NUMBER.match(text):
        raise RecordError(f'{path} is not a number written as text, such as "1e-6" or "1/1000000"')
    try:
        return Fraction(text)
    except ZeroDivisionError:
        raise RecordError(f"{path} divides by zero") from None


def decimal_text(value: Fraction) -> str:
    """Three significant digits, "8.80e-10"; exact rationals far outside float's range are fine."""
    if value == 0:
        return "0"
    exponent = _exponent(value)
    mantissa = value / Fraction(10) ** exponent
    digits = floor(mantissa * 100 + Fraction(1, 2))
    if digits >= 1000:
        digits, exponent = 100, exponent + 1
    if -3 <= exponent <= 3:
        return f"{float(value):.4g}"
    return f"{digits // 100}.{digits % 100:02d}e{exponent:+03d}"


def _exponent(value: Fraction) -> int:
    guess = floor(log10(2) * (value.numerator.bit_length() - value.denominator.bit_length()))
    while Fraction(10) ** guess > value:
        guess -= 1
    while Fraction(10) ** (guess + 1) <= value:
        guess += 1
    return guess
