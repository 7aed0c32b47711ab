"""What was fixed before the first question, as facts a reader can follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from service.verifications.report.text import visible
from watermark.marks import Mark
from watermark.numerals import decimal_text, parse_fraction
from watermark.questions import SEQUENTIAL


class Fact(NamedTuple):
    """A label and its value, both plain text."""

    label: str
    value: str


def planned_facts(
    registered: Mapping[str, Any], decision: Mapping[str, Any], marks: Sequence[Mark], *, families_left: int
) -> tuple[Fact, ...]:
    """The plan. ``marks`` are the opened family's; there are none for a preset."""
    plan, key, asking = registered["plan"], registered["key"], registered["asking"]
    facts = [_grade(key)]
    if marks:
        facts += _design(plan, marks, decision, families_left)
        facts += [
            Fact("Decided", _mode(plan, decision)),
            Fact("Alpha", _alpha(registered, decision)),
            Fact("Smallest p it could give", decision["floor_decimal"]),
        ]
    if campaign := registered.get("campaign"):
        facts.append(Fact("Campaign", _campaign(campaign)))
    more = asking["retries"]
    tries = {0: "no second try", 1: "once more where no answer came"}.get(
        more, f"up to {more} times more where no answer came"
    )
    return (
        *facts,
        Fact(
            "Each question",
            f"{asking['probe_timeout_seconds']} s, {tries}; temperature {asking['temperature']}, at most "
            f"{asking['max_tokens']} tokens; all in {asking['total_timeout_seconds']} s",
        ),
    )


def order_facts(registered: Mapping[str, Any], nonces: Mapping[str, Any]) -> tuple[Fact, ...]:
    """Who fixed the order of the questions: what was committed to, and what was then shown."""
    committed = registered.get("nonces") or {}
    facts = []
    for party in ("service", "auditor"):
        if not committed.get(party):
            facts.append(Fact(f"Nonce of the {party}", "none announced"))
            continue
        facts.append(
            Fact(
                f"Nonce of the {party}",
                visible(f"committed to {committed[party]}, then showed {nonces.get(party) or 'nothing'}"),
            )
        )
    beacon = nonces.get("beacon")
    facts.append(
        Fact(
            "Public beacon",
            visible(f"{beacon['source']}, round {beacon['round']}: {beacon['value']}") if beacon else "none",
        )
    )
    return tuple(facts)


def minute(time: str) -> str:
    """An ISO time to the minute."""
    return time[:16].replace("T", " ")


def second(time: str) -> str:
    """An ISO time to the second."""
    return time[:19].replace("T", " ")


def _grade(key: Mapping[str, Any]) -> Fact:
    others = key["owner_commitments"] - 1
    keys = {0: "the only key", 1: "one of 2 keys"}.get(others, f"one of {others + 1} keys")
    return Fact("Grade of the key", f"{key['grade']}; {keys} that its owner had committed to")


def _design(
    plan: Mapping[str, Any], marks: Sequence[Mark], decision: Mapping[str, Any], families_left: int
) -> list[Fact]:
    count, cues, each = len(plan["marks"]), len(marks[0].cues), plan["probes_per_cue"]
    ordinary = "ordinary questions among them" if plan["canaries"] else "no ordinary questions among them"
    return [
        Fact("Questions", f"{count} marks x {cues} cues x {each} = {count * cues * each}; {ordinary}"),
        Fact("Marks", _marks(plan["marks"], len(marks))),
        Fact(
            "Family", f"no. {plan['family']} opened; families that no audit has asked about: {families_left}"
        ),
    ]


def _marks(asked: Sequence[int], available: int) -> str:
    if list(asked) == list(range(available)):
        return "all of the family, in the key's own order"
    if list(asked) == list(range(len(asked))):
        return f"the first {len(asked)} of {available}, in the key's own order"
    return f"chosen by the caller, {len(asked)} of {available}: {', '.join(str(mark) for mark in asked)}"


def _mode(plan: Mapping[str, Any], decision: Mapping[str, Any]) -> str:
    sequential = plan["mode"] == SEQUENTIAL
    how = "sequential, after every mark until enough is seen" if sequential else "fixed, once after all"
    return f"{how} (rule {decision['rule']})"


def _alpha(registered: Mapping[str, Any], decision: Mapping[str, Any]) -> str:
    whole = decimal_text(parse_fraction(registered["plan"]["alpha"], "plan.alpha"))
    campaign = registered.get("campaign")
    among = f", shared by {campaign['size']} suspects" if campaign else ""
    number = registered["key"]["audit_index"]
    return (
        f"{whole} for all audits of the key, {decision['alpha_i_decimal']} for this one (no. {number}{among})"
    )


def _campaign(campaign: Mapping[str, Any]) -> str:
    return visible(
        f"suspect {campaign['position'] + 1} of {campaign['size']} in {campaign['id']}, under one number; "
        f"decided here at 1/{campaign['size']} of its share. Holm's rule over all: the smallest p is held "
        "against that, the next against the share of one suspect fewer, until one fails"
    )
