"""The sentences of a report that depend on what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evidence.document import Document
from service.verifications.report.power import Power, power_of
from service.verifications.report.text import visible
from watermark.marks import Mark
from watermark.numerals import decimal_text, parse_fraction
from watermark.sequential import e_ceiling


def verdict_words(document: Document, decision: Mapping[str, Any], *, sequential: bool) -> str:
    """What the verdict means."""
    if document.verdict == "inconclusive":
        return "Nothing can be said either way, for the reasons below."
    if document.verdict != "detected":
        return "These answers show no evidence of the key. That does not clear the model."
    p, allowed = decision["p_value_decimal"], decision["alpha_i_decimal"]
    if sequential:
        return (
            "The answers depend on the committed key: under any model that knows nothing of it, the product "
            f"of the marks' e-values ever reaches {line_of(decision)} with probability {allowed} at most; "
            f"here it came to {decision['e_value_decimal']} (p = {p})."
        )
    return (
        "The answers depend on the committed key: under any model that knows nothing of it, answers that fit "
        f"it as well as these come with probability {p} at most, and this audit was allowed {allowed}."
    )


def claim(document: Document, registered: Mapping[str, Any]) -> str:
    """Who claims what of whom."""
    suspect = registered["suspect"]
    return visible(
        f"Organization {document.claimant} claims that the model answering as “{suspect['model']}” at "
        f"{suspect['base_url']} was derived from data marked with its key {document.key.id}, to which it "
        f"committed on {document.key.created_at[:10]}. The questions were asked by {document.auditor}."
    )


def power(
    planned: Mapping[str, Any], marks: Sequence[Mark], decision: Mapping[str, Any], *, sequential: bool
) -> tuple[Power, ...]:
    """The simulated figures of this plan."""
    shape = (len(planned["marks"]), len(marks[0].cues), planned["probes_per_cue"])
    return power_of(shape, rule=decision["rule"], sequential=sequential)


def power_note(planned: Mapping[str, Any], marks: Sequence[Mark], *, known: bool, sequential: bool) -> str:
    """What introduces the figures, or stands for them where there are none."""
    if known:
        return "Chance that a plan of this shape detects a marked model at alpha 1e-6 (simulated):"
    if not sequential:
        return "The power of a plan of this shape was not simulated."
    best = e_ceiling(len(marks[0].cues), planned["probes_per_cue"])
    alpha_i = parse_fraction(planned["alpha_i"], "plan.alpha_i")
    needed, product = 1, best
    while product * alpha_i < 1:
        needed, product = needed + 1, product * best
    return (
        f"What this plan can find: a mark answered wholly as trained multiplies the product by "
        f"{decimal_text(best)}, so a model that kept every mark is detected after {needed} of the "
        f"{len(planned['marks'])}; for a mark that it lost others have to make up."
    )


def not_proved(grade: str) -> tuple[str, ...]:
    """What nobody should read into a verdict."""
    items = [
        "That weights were copied: a model trained on the leaked data answers so too.",
        "That a model without detection is innocent, or that a silent one is.",
        "That the suspect sent these very bytes: its answers are not signed. Let a second auditor ask again.",
        "That the key never leaked, or that the service and the owner did not collude: when the commitment "
        "and this plan were made rests on the service's records.",
    ]
    if grade == "chosen":
        items.append(
            "That the words were not picked to fit the suspect: the owner chose them. Only the order of the "
            "commitments protects here."
        )
    elif grade == "self-generated":
        items.append(
            "That the key was not picked among many: no outside salt entered it; alpha was divided by 2^20 "
            "for that."
        )
    return tuple(items)


def line_of(decision: Mapping[str, Any]) -> str:
    """1/alpha_i."""
    return decimal_text(1 / parse_fraction(decision["alpha_i"], "alpha_i"))
