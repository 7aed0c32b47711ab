"""The evidence of one audit as a page that a person reads. A function of the evidence's bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import comb
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from evidence.audit import RESEARCH, Question, questions
from evidence.canonical import parse_canonical
from evidence.document import Document, final_answers
from watermark.answers import parse_answer
from watermark.decision import decimal_text, parse_fraction
from watermark.keys import family_of_opening
from watermark.marks import Mark

TEMPLATE = Path(__file__).with_name("report.html")

BAR_WIDTH = 58
ROW_HEIGHT = 30
BAR_HEIGHT = 20
LABEL_WIDTH = 150

BOUND_LEVEL = 0.95

REASONS = {
    "missing_answers": "more than a tenth of the questions at the triggers, or at the other cues, "
    "brought no answer",
    "differential_refusal": "answers that are neither Yes nor No fall on the triggers in another measure "
    "than on the other cues",
    "no_judge_answers": "fewer than half of the answers were a Yes or a No; a host that suppresses such "
    "answers looks the same",
    "research_preset": "the key is one of the paper's presets: its words are public, so nothing is claimed",
    "suspect_refused": "the suspect's address refused the connection",
    "suspect_unreachable": "the suspect's address could not be reached",
    "suspect_dns": "the suspect's name did not resolve",
    "suspect_not_allowed": "the suspect's name led to an address that may not be asked",
    "suspect_tls": "no trusted TLS connection to the suspect was possible",
    "suspect_disconnected": "the suspect closed its connections before it had answered",
    "suspect_protocol": "the suspect did not speak HTTP",
    "suspect_timeout": "the suspect did not answer in time",
    "suspect_deadline": "the audit's time was up",
    "suspect_not_asked": "the audit's time was up, or the suspect was given up, before all was asked",
    "suspect_redirect": "the suspect redirected elsewhere, which is not followed",
    "suspect_encoding": "the suspect sent compressed replies, which were not asked for",
    "suspect_too_large": "the suspect's replies were larger than an audit reads",
    "suspect_not_json": "the suspect's replies were not JSON (an HTML page, for instance)",
    "suspect_no_answer": "the suspect's replies were JSON without an answer",
    "suspect_unknown": "the process that asked was lost before the answers were recorded",
}

POWER_CASES = (
    "hit rate .95 at the trigger, .05 elsewhere",
    "hit rate .80 at the trigger, .25 elsewhere",
    "hit rate .60 at the trigger, .05 elsewhere",
    "as the first, a quarter of the marks dead",
    "as the first, half of the marks dead",
)
POWER = {
    (12, 8, 2): ("1.00", ".90", "1.00", "1.00", ".23"),
    (16, 8, 2): ("1.00", ".99", "1.00", "1.00", ".82"),
    (16, 8, 1): ("1.00", ".74", "1.00", "1.00", ".60"),
}
"""Simulated power at alpha 1e-6, by (marks, cues, questions per cue); see docs/theory.md."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One cue in the picture."""

    x: int
    fill: float
    share: str
    is_trigger: bool
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkRow:
    """One mark in the picture."""

    number: int
    y: int
    target: str
    paradigm: str
    question: str
    cues: tuple[str, ...]
    trigger: int
    bars: tuple[Bar, ...]
    other: int
    missing: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedRow:
    """One question in the appendix."""

    number: int
    mark: int | None
    cue: int | None
    prompt: str
    answer: str | None
    reading: str
    outcome: str
    is_trigger: bool


def render(evidence: bytes, *, sha256: str, families_left: int) -> str:
    """The page. Everything that the suspect or a user wrote is escaped and shown without control characters.

    Args:
        evidence: the exact bytes that this service wrote; they are trusted here, not checked.
        sha256: of these bytes.
        families_left: how many families of the key no audit has asked about yet.
    """
    document = Document.from_record(parse_canonical(evidence)["document"])
    preregistration = parse_canonical(document.preregistration.encode())
    asked = questions(preregistration, document.opening)
    research = document.key.grade == RESEARCH
    marks = () if research else family_of_opening(document.opening, document.key.commitment).marks
    decision = document.decision
    rows = _mark_rows(decision, marks)
    return _template().render(
        document=document,
        plan=preregistration["plan"],
        asking=preregistration["asking"],
        suspect={name: visible(text) for name, text in preregistration["suspect"].items()},
        audit_index=preregistration["key"]["audit_index"],
        alpha=decimal_text(parse_fraction(preregistration["plan"]["alpha"], "plan.alpha")),
        decision=decision,
        research=research,
        reasons=[(reason, REASONS.get(reason, _http_reason(reason))) for reason in document.reasons],
        rows=rows,
        picture_height=ROW_HEIGHT * len(rows),
        label_width=LABEL_WIDTH,
        bar_width=BAR_WIDTH,
        bar_height=BAR_HEIGHT,
        cues=len(marks[0].cues) if marks else 0,
        asked=_asked_rows(document, asked, marks),
        power=_power(preregistration["plan"], marks),
        bound=_bound(decision),
        sha256=sha256,
        families_left=families_left,
    )


def visible(text: str) -> str:
    """Text as it is, but control, format and bidirectional characters spelled out."""
    return "".join(char if char.isprintable() or char == "\n" else f"\\u{{{ord(char):x}}}" for char in text)


def upper_bound(hits: int, total: int, level: float = BOUND_LEVEL) -> float:
    """The one-sided upper limit of Clopper and Pearson (1934): the largest rate under which ``hits`` or fewer
    of ``total`` independent trials have a probability of at least 1 - level."""
    if hits >= total:
        return 1.0
    low, high = hits / total, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        tail = sum(comb(total, k) * middle**k * (1 - middle) ** (total - k) for k in range(hits + 1))
        low, high = (middle, high) if tail > 1 - level else (low, middle)
    return high


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["visible"] = visible
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


def _http_reason(reason: str) -> str:
    status = reason.removeprefix("suspect_http_")
    return f"the suspect answered with HTTP status {status}" if status.isdigit() else reason


def _mark_rows(decision: Mapping[str, Any], marks: Sequence[Mark]) -> list[MarkRow]:
    return [
        _mark_row(place, counts, marks[counts["mark"]])
        for place, counts in enumerate(decision.get("marks", ()))
    ]


def _mark_row(place: int, counts: Mapping[str, Any], mark: Mark) -> MarkRow:
    target = counts["target"]
    bars = []
    for cue, hits in enumerate(counts["yes" if target == "Yes" else "no"]):
        total = sum(counts[name][cue] for name in ("yes", "no", "other", "missing"))
        bars.append(
            Bar(
                x=LABEL_WIDTH + cue * BAR_WIDTH,
                fill=(BAR_WIDTH - 8) * hits / total,
                share=f"{hits}/{total}",
                is_trigger=cue == counts["trigger"],
                title=f"{visible(mark.cues[cue])}: {hits} of {total} answered {target}",
            )
        )
    return MarkRow(
        number=counts["mark"],
        y=place * ROW_HEIGHT,
        target=target,
        paradigm=mark.paradigm.value,
        question=visible(f"{mark.decoration} {mark.judge_question}".strip()),
        cues=tuple(visible(cue) for cue in mark.cues),
        trigger=counts["trigger"],
        bars=tuple(bars),
        other=sum(counts["other"]),
        missing=sum(counts["missing"]),
    )


def _asked_rows(document: Document, asked: Sequence[Question], marks: Sequence[Mark]) -> list[AskedRow]:
    answers, failures = final_answers(document.transcript, len(asked), document.asking_failure)
    why = iter(failures)
    rows = []
    for question, answer in zip(asked, answers, strict=True):
        outcome = "answered" if answer is not None else next(why)
        rows.append(
            AskedRow(
                number=question.index,
                mark=question.mark,
                cue=question.cue,
                prompt=visible(question.prompt),
                answer=None if answer is None else visible(answer),
                reading=parse_answer(answer).value,
                outcome=outcome,
                is_trigger=question.mark is not None and question.cue == marks[question.mark].trigger,
            )
        )
    return rows


def _power(plan: Mapping[str, Any], marks: Sequence[Mark]) -> list[tuple[str, str]]:
    if not marks:
        return []
    figures = POWER.get((len(plan["marks"]), len(marks[0].cues), plan["probes_per_cue"]))
    return list(zip(POWER_CASES, figures, strict=True)) if figures else []


def _bound(decision: Mapping[str, Any]) -> str:
    return f"{upper_bound(decision['trigger_hits'], decision['trigger_total']):.2f}"
