"""From answers to a verdict, by a rule that has a version and is fixed before the first question.

`detected` needs p <= alpha_i. `not_detected` never clears a model: it says that these answers show no
evidence. `inconclusive` says why nothing can be said. See docs/theory.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from watermark.answers import PARSE_RULE, Answer
from watermark.canaries import CANARIES_VERSION, CanaryReading
from watermark.errors import RecordError
from watermark.fisher import Table, stratified, two_sided
from watermark.hypothesis import differential_other, p_value
from watermark.keys import Family
from watermark.marks import Target
from watermark.numerals import decimal_text, fraction_text
from watermark.probes import Probe
from watermark.questions import FIXED, SEQUENTIAL
from watermark.score import Choice, CueCounts, score_record
from watermark.sequential import Look, anytime_p, looks
from watermark.significance import plan_floor

RULE_VERSION = "exact-over-key-2"
MAX_MISSING = Fraction(1, 10)
DIFFERENTIAL_ALPHA = Fraction(1, 100)
MIN_PARSED = Fraction(1, 2)

GATES = ("missing_answers", "differential_refusal")
"""Reasons that make a result inconclusive."""
DOUBTS = ("changed_during_audit", "unfinished")
"""Reasons that turn not_detected into inconclusive; a detection stands in spite of them."""

NO_CANARIES = CanaryReading(asked=0, answered=0, changed=False)


def rule_record() -> dict[str, object]:
    """The decision rule as it enters a pre-registration."""
    return {
        "version": RULE_VERSION,
        "parse_rule": PARSE_RULE,
        **score_record(),
        "canaries": CANARIES_VERSION,
        "max_missing": fraction_text(MAX_MISSING),
        "differential_alpha": fraction_text(DIFFERENTIAL_ALPHA),
        "min_parsed": fraction_text(MIN_PARSED),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What was found, with the figures it rests on."""

    test: str
    """fixed: p is exact over the key. sequential: p is 1 / the largest product of e-values."""
    verdict: str
    """detected, not_detected or inconclusive"""
    reasons: tuple[str, ...]
    p_value: Fraction
    alpha_i: Fraction
    floor: Fraction
    """the smallest p that the plan could give"""
    looks: tuple[Look, ...]
    """after every completed mark; in a fixed audit for information, in the order of the marks' numbers"""
    marks_planned: int
    trigger_hits: int
    trigger_total: int
    reference_hits: int
    """target answers at reference cues"""
    reference_total: int
    other: int
    missing: int
    questions: int
    """judge questions that the figures rest on"""
    canaries: CanaryReading
    differential_p: Fraction
    stratified_fisher_p: Fraction
    pooled_fisher_p: Fraction
    marks: tuple[Mapping[str, object], ...]
    """per mark: the counts at every cue"""

    @property
    def e_value(self) -> Fraction:
        """Product of the marks' e-values."""
        return self.looks[-1].product if self.looks else Fraction(1)

    def to_record(self) -> dict[str, object]:
        """Strings, integers and lists. Fractions are "numerator/denominator"."""
        return {
            "rule": RULE_VERSION,
            "test": self.test,
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "p_value": fraction_text(self.p_value),
            "p_value_decimal": decimal_text(self.p_value),
            "alpha_i": fraction_text(self.alpha_i),
            "alpha_i_decimal": decimal_text(self.alpha_i),
            "floor_decimal": decimal_text(self.floor),
            "e_value_decimal": decimal_text(self.e_value),
            "looks": [look_record(look) for look in self.looks],
            "marks_planned": self.marks_planned,
            "trigger_hits": self.trigger_hits,
            "trigger_total": self.trigger_total,
            "reference_hits": self.reference_hits,
            "reference_total": self.reference_total,
            "other": self.other,
            "missing": self.missing,
            "questions": self.questions,
            "canaries": self.canaries.to_record(),
            "differential_p_decimal": decimal_text(self.differential_p),
            "stratified_fisher_p_decimal": decimal_text(self.stratified_fisher_p),
            "pooled_fisher_p_decimal": decimal_text(self.pooled_fisher_p),
            "marks": [dict(mark) for mark in self.marks],
        }


def look_record(look: Look) -> dict[str, object]:
    """A look as records and the API show it."""
    return {
        "mark": look.mark,
        "e_value_decimal": decimal_text(look.e_value),
        "product_decimal": decimal_text(look.product),
    }


def tally(
    family: Family, marks: Sequence[int], probes: Sequence[Probe], answers: Sequence[Answer]
) -> tuple[list[list[CueCounts]], list[Choice]]:
    """The answers at every cue of the given marks, and the key's choice for each.

    Raises:
        RecordError: the cues of these marks were not all asked equally often.
    """
    collected: dict[tuple[int, int], list[Answer]] = {}
    for probe, answer in zip(probes, answers, strict=True):
        collected.setdefault((probe.mark, probe.cue), []).append(answer)
    counts = [
        [CueCounts.tally(collected.get((mark, cue), [])) for cue in range(family.cues)] for mark in marks
    ]
    if len({cue.asked for mark in counts for cue in mark}) > 1:
        raise RecordError("every cue of every mark must get the same number of questions")
    return counts, [(family.marks[mark].trigger, family.marks[mark].target) for mark in marks]


def decide(
    family: Family,
    probes: Sequence[Probe],
    answers: Sequence[Answer],
    *,
    alpha_i: Fraction,
    sequential: Sequence[int] | None = None,
    canaries: CanaryReading = NO_CANARIES,
) -> Decision:
    """Decide from one answer per probe, in the probes' order.

    Args:
        sequential: for a sequential audit the planned marks, in order; ``probes`` are then those of the
            completed marks, and these must end where the product first reached 1/alpha_i.

    Raises:
        RecordError: the numbers of probes and answers differ, a fixed audit has none, the probes do not
            give every cue of every asked mark the same number of questions, or a sequential audit left a
            mark out or asked on after it could stop.
    """
    if len(probes) != len(answers) or not (probes or sequential):
        raise RecordError(f"{len(probes)} probes and {len(answers)} answers")
    asked = list(dict.fromkeys(probe.mark for probe in probes)) if sequential else _asked(probes)
    counts, truth = tally(family, asked, probes, answers)
    seen = looks(asked, counts, truth)
    if sequential is not None:
        _check_stopping(sequential, asked, seen, alpha_i)
    p = anytime_p(seen) if sequential is not None else p_value(counts, truth)
    differential = differential_other(counts, [trigger for trigger, _ in truth])
    tables = [_table(mark_counts, *choice) for mark_counts, choice in zip(counts, truth, strict=True)]
    pooled = Table(
        a=sum(t.a for t in tables),
        n=sum(t.n for t in tables),
        b=sum(t.b for t in tables),
        m=sum(t.m for t in tables),
    )
    planned = len(asked) if sequential is None else len(sequential)
    reasons = _reasons(counts, truth, answers, differential, canaries)
    if len(asked) < planned and p > alpha_i:
        reasons = (*reasons, "unfinished")
    per_cue = counts[0][0].asked if counts else 1
    return Decision(
        test=FIXED if sequential is None else SEQUENTIAL,
        verdict=_verdict(p <= alpha_i, reasons),
        reasons=reasons,
        p_value=p,
        alpha_i=alpha_i,
        floor=plan_floor(planned, family.cues, per_cue, sequential=sequential is not None),
        looks=seen,
        marks_planned=planned,
        trigger_hits=pooled.a,
        trigger_total=pooled.n,
        reference_hits=pooled.b,
        reference_total=pooled.m,
        other=answers.count(Answer.OTHER),
        missing=answers.count(Answer.MISSING),
        questions=len(probes),
        canaries=canaries,
        differential_p=differential,
        stratified_fisher_p=stratified(tables),
        pooled_fisher_p=two_sided(pooled),
        marks=tuple(
            _mark_record(mark, mark_counts, *choice)
            for mark, mark_counts, choice in zip(asked, counts, truth, strict=True)
        ),
    )


def _asked(probes: Sequence[Probe]) -> list[int]:
    return sorted({probe.mark for probe in probes})


def _check_stopping(
    planned: Sequence[int], asked: Sequence[int], seen: Sequence[Look], alpha_i: Fraction
) -> None:
    if list(planned[: len(asked)]) != list(asked):
        raise RecordError("a sequential audit asks its marks in the planned order and leaves none out")
    if any(look.reaches(alpha_i) for look in seen[:-1]):
        raise RecordError("a sequential audit ends at the mark where the product reaches 1/alpha_i")


def _verdict(significant: bool, reasons: Sequence[str]) -> str:
    if any(reason in GATES for reason in reasons):
        return "inconclusive"
    if significant:
        return "detected"
    return "inconclusive" if any(reason in DOUBTS for reason in reasons) else "not_detected"


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
    truth: Sequence[Choice],
    answers: Sequence[Answer],
    differential: Fraction,
    canaries: CanaryReading,
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
    if canaries.asked - canaries.answered > MAX_MISSING * canaries.asked:
        reasons.append("canaries_unanswered")
    if canaries.changed:
        reasons.append("changed_during_audit")
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
