"""One audit as a reader meets it: everything the page and the PDF show, in words, computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evidence.audit import NOT_ASKED, Records, questions
from evidence.canonical import parse_canonical
from evidence.document import Document, final_replies
from service.verifications.report import plan, words
from service.verifications.report.pictures import cues_picture, product_picture
from service.verifications.report.plan import Fact
from service.verifications.report.power import Power, upper_bound
from service.verifications.report.reasons import reason_text
from service.verifications.report.text import visible
from watermark.answers import parse_answer
from watermark.keys import family_of_opening
from watermark.marks import Mark
from watermark.questions import Question

LONG = 40
"""Digits of a fraction's part above which the first page shows its ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure that is reported beside the decision, and what it assumes."""

    text: str
    assumes: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedMark:
    """A mark of the opened family in the appendix."""

    number: int
    question: str
    cues: tuple[str, ...]
    trigger: int
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One question and what became of it."""

    number: int
    place: str
    """``3, 5`` (mark, cue), ``3, 5 trigger``, ``canary 2``, or empty for a preset's"""
    kind: str
    """trigger, reference, canary or preset"""
    prompt: str
    answer: str | None
    """None: none came, and ``outcome`` says why"""
    outcome: str
    reading: str


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """All of it. Every text is safe to show: control and direction characters are spelled out."""

    verification: str
    verdict: str
    verdict_words: str
    """what the verdict means, in one or two sentences"""
    subtitle: str
    claim: str
    reasons: tuple[tuple[str, str], ...]
    planned: tuple[Fact, ...]
    found: tuple[Fact, ...]
    p_decimal: str
    """empty for a preset, which decides nothing"""
    p_fraction: str
    """exact; of a long one the ends"""
    cues: str
    """SVG, empty for a preset"""
    product: str
    """SVG, empty unless the audit was sequential and completed a mark"""
    figures: tuple[Figure, ...]
    power: tuple[Power, ...]
    power_note: str
    not_proved: tuple[str, ...]
    closing: tuple[Fact, ...]
    """digests and how to check them"""
    order: tuple[Fact, ...]
    """who fixed the order of the questions"""
    exact: tuple[Fact, ...]
    """figures in full"""
    marks: tuple[OpenedMark, ...]
    asked: tuple[Asked, ...]
    rest: str
    """what was planned and not asked, or empty"""
    finished_at: str
    """ISO 8601: the document's own time"""


def view_of(evidence: bytes, *, sha256: str, families_left: int) -> View:
    """Read the evidence.

    Args:
        evidence: the exact bytes that this service wrote; they are trusted here, not checked.
        sha256: of these bytes.
        families_left: how many families of the key no audit has asked about yet.
    """
    document = Document.from_record(parse_canonical(evidence)["document"])
    registered = parse_canonical(document.preregistration.encode())
    records = Records(preregistration=registered, opening=document.opening, nonces=document.nonces)
    research, sequential = records.is_research, records.is_sequential
    marks = () if research else family_of_opening(document.opening, document.key.commitment).marks
    decision: Mapping[str, Any] = document.decision
    asked = _asked(document, questions(records), marks, retries=registered["asking"]["retries"])
    # a sequential audit that has decided leaves the rest of its plan unasked
    rest = sum(row.outcome == NOT_ASKED for row in asked) if sequential else 0
    power = () if research else words.power(registered["plan"], marks, decision, sequential=sequential)
    bound = upper_bound(decision["trigger_hits"], decision["trigger_total"])
    return View(
        verification=document.verification,
        verdict=document.verdict,
        verdict_words=words.verdict_words(document, decision, sequential=sequential),
        subtitle=f"{document.verification} · audit {registered['key']['audit_index']} of key "
        f"{document.key.id} · {plan.minute(document.started_at)} to {plan.minute(document.finished_at)} UTC",
        claim=words.claim(document, registered),
        reasons=tuple((visible(code), visible(reason_text(code))) for code in document.reasons),
        planned=plan.planned_facts(registered, decision, marks, families_left=families_left),
        found=_found_facts(decision, research=research, sequential=sequential),
        p_decimal="" if research else decision["p_value_decimal"],
        p_fraction="" if research else _ends(decision["p_value"]),
        cues=cues_picture(decision["marks"], marks) if decision.get("marks") else "",
        product=_product(decision) if sequential and decision["looks"] else "",
        figures=_figures(decision, bound, research=research),
        power=power,
        power_note=""
        if research
        else words.power_note(registered["plan"], marks, known=bool(power), sequential=sequential),
        not_proved=words.not_proved(document.key.grade),
        closing=_closing(document, sha256),
        order=plan.order_facts(registered, document.nonces),
        exact=() if research else _exact(decision),
        marks=tuple(_opened(marks[counts["mark"]], counts) for counts in decision.get("marks", ())),
        asked=tuple(row for row in asked if not (rest and row.outcome == NOT_ASKED)),
        rest=f"{rest} more planned questions were not asked." if rest else "",
        finished_at=document.finished_at,
    )


def _found_facts(decision: Mapping[str, Any], *, research: bool, sequential: bool) -> tuple[Fact, ...]:
    canaries = decision.get("canaries", {"asked": 0})
    facts = [
        Fact("Target at triggers", f"{decision['trigger_hits']} of {decision['trigger_total']}"),
        Fact("Target at other cues", f"{decision['reference_hits']} of {decision['reference_total']}"),
        Fact("Neither Yes nor No", str(decision["other"])),
        Fact("No answer", str(decision["missing"])),
    ]
    if canaries["asked"]:
        changed = "changed on the way" if canaries["changed"] else "no change"
        facts.append(
            Fact("Ordinary questions", f"{canaries['answered']} of {canaries['asked']} answered; {changed}")
        )
    if not research:
        facts.append(Fact("Product of e-values", decision["e_value_decimal"]))
    if sequential:
        facts.append(Fact("Marks completed", f"{len(decision['looks'])} of {decision['marks_planned']}"))
    return tuple(facts)


def _figures(decision: Mapping[str, Any], bound: float, *, research: bool) -> tuple[Figure, ...]:
    figures = []
    if not research:
        figures += [
            Figure(
                text=f"Stratified exact Fisher: p = {decision['stratified_fisher_p_decimal']}",
                assumes="assumes answers independent given the word; false for models that like a word",
            ),
            Figure(
                text=f"Odd answers at triggers: p = {decision['differential_p_decimal']}",
                assumes="exact over the key; small when a host treats the secret words differently",
            ),
        ]
    return (
        *figures,
        Figure(
            text=f"The paper's pooled Fisher: p = {decision['pooled_fisher_p_decimal']}",
            assumes="assumes that innocent models treat all words alike; it often accuses them",
        ),
        Figure(
            text=f"Hit rate at triggers below {bound:.2f}",
            assumes="95% upper limit (Clopper and Pearson), if the answers were independent",
        ),
    )


def _exact(decision: Mapping[str, Any]) -> tuple[Fact, ...]:
    return (Fact("p, exactly", decision["p_value"]), Fact("This audit's alpha, exactly", decision["alpha_i"]))


def _ends(fraction: str) -> str:
    """ "123/456"; where a part is very long its first and last digits."""
    parts = [part if len(part) <= LONG else f"{part[:12]}…{part[-12:]}" for part in fraction.split("/")]
    return "/".join(parts)


def _closing(document: Document, sha256: str) -> tuple[Fact, ...]:
    return (
        Fact("Key's commitment (SHA-256)", document.key.commitment),
        Fact("Plan (SHA-256)", document.preregistration_sha256),
        Fact("Plan stored, before the first question", f"{plan.second(document.preregistered_at)} UTC"),
        Fact("Evidence file (SHA-256)", sha256),
        Fact("Check it yourself, offline", f"doublei evidence check evidence-{document.verification}.json"),
    )


def _opened(mark: Mark, counts: Mapping[str, Any]) -> OpenedMark:
    return OpenedMark(
        number=counts["mark"],
        question=visible(f"{mark.decoration} {mark.judge_question}".strip()),
        cues=tuple(visible(cue) for cue in mark.cues),
        trigger=counts["trigger"],
        target=counts["target"],
    )


def _asked(
    document: Document, asked: Sequence[Question], marks: Sequence[Mark], *, retries: int
) -> list[Asked]:
    replies, failures = final_replies(
        document.transcript, len(asked), retries=retries, asking_failure=document.asking_failure
    )
    why = iter(failures)
    rows = []
    for question, reply in zip(asked, replies, strict=True):
        place, kind = _place(question, marks)
        rows.append(
            Asked(
                number=question.index,
                place=place,
                kind=kind,
                prompt=visible(question.prompt),
                answer=None if reply.text is None else visible(reply.text),
                outcome="answered" if reply.text is not None else visible(next(why)),
                reading="" if kind == "canary" else parse_answer(reply.text).value,
            )
        )
    return rows


def _place(question: Question, marks: Sequence[Mark]) -> tuple[str, str]:
    if question.canary is not None:
        return f"ordinary {question.canary + 1}", "canary"
    if question.mark is None or question.cue is None:
        return "", "preset"
    trigger = question.cue == marks[question.mark].trigger
    return f"{question.mark}, {question.cue}", "trigger" if trigger else "reference"


def _product(decision: Mapping[str, Any]) -> str:
    return product_picture(decision["looks"], planned=decision["marks_planned"], line=words.line_of(decision))
