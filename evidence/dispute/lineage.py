"""What the pattern of four findings supports, and what it can't decide.

Read with care: that a key is *shown* in the other owner's model is evidence against that owner, whose host
gave the answers. That a key is *not shown* in a model proves nothing by itself: it rests on answers of a host
that may have reasons to hide it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from evidence.dispute.cross import A, B, Cell, CrossTest, Finding
from evidence.dispute.order import Basis, Order

_OTHER = {A: B, B: A}


class Pattern(StrEnum):
    """Which of the four are shown."""

    a_earlier = "a_earlier"
    """A's key in both, B's in B's model alone"""
    b_earlier = "b_earlier"
    both_in_both = "both_in_both"
    a_in_both = "a_in_both"
    """A's key in both, B's in neither"""
    b_in_both = "b_in_both"
    separate = "separate"
    """each in its own owner's alone"""
    crossed = "crossed"
    """each in the other owner's alone"""
    none = "none"
    partial = "partial"
    """some other choice of the four"""
    undecided = "undecided"
    """an audit was inconclusive"""


_PATTERNS = {
    frozenset({(A, A), (A, B), (B, B)}): Pattern.a_earlier,
    frozenset({(A, A), (B, A), (B, B)}): Pattern.b_earlier,
    frozenset({(A, A), (A, B), (B, A), (B, B)}): Pattern.both_in_both,
    frozenset({(A, A), (A, B)}): Pattern.a_in_both,
    frozenset({(B, A), (B, B)}): Pattern.b_in_both,
    frozenset({(A, A), (B, B)}): Pattern.separate,
    frozenset({(A, B), (B, A)}): Pattern.crossed,
    frozenset(): Pattern.none,
}


_ONE_SIDED = {Pattern.a_earlier: A, Pattern.b_earlier: B}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """What the four findings say together."""

    pattern: Pattern
    earlier: str | None
    """who is the earlier in the lineage, where the pattern says so"""
    headline: str
    supports: tuple[str, ...]
    cannot_decide: tuple[str, ...]


def lineage_of(test: CrossTest, order: Order) -> Lineage:
    """Read the pattern."""
    pattern = pattern_of(test.cells)
    earlier = _ONE_SIDED.get(pattern)
    return Lineage(
        pattern=pattern,
        earlier=earlier,
        headline=_headline(pattern),
        supports=(*_each(test.cells), *_together(pattern), _of_order(order), *_agreement(earlier, order)),
        cannot_decide=(*_open(pattern, order), *_hidden(test.cells), *_always(test)),
    )


def pattern_of(cells: Mapping[tuple[str, str], Cell]) -> Pattern:
    """Which pattern the findings make."""
    if any(cell.finding is Finding.undecided for cell in cells.values()):
        return Pattern.undecided
    shown = frozenset(place for place, cell in cells.items() if cell.finding is Finding.shown)
    return _PATTERNS.get(shown, Pattern.partial)


def _headline(pattern: Pattern) -> str:
    return {
        Pattern.a_earlier: "A is the earlier in the lineage: A's mark is in both models, B's in B's alone.",
        Pattern.b_earlier: "B is the earlier in the lineage: B's mark is in both models, A's in A's alone.",
        Pattern.both_in_both: "Both marks are in both models: the marks do not say which came first.",
        Pattern.a_in_both: "A's mark is in both models, B's is shown in neither: A's claim holds on both.",
        Pattern.b_in_both: "B's mark is in both models, A's is shown in neither: B's claim holds on both.",
        Pattern.separate: "Each mark is in its own owner's model alone: no common lineage is shown.",
        Pattern.crossed: "Each mark is in the other owner's model alone: were the two models exchanged?",
        Pattern.none: "Neither mark is shown in either model: nothing supports either claim.",
        Pattern.partial: "The findings fit no simple lineage; each of them stands by itself.",
        Pattern.undecided: "An audit of the four decided nothing: no lineage is read from the rest.",
    }[pattern]


def _each(cells: Mapping[tuple[str, str], Cell]) -> list[str]:
    """One sentence for each key that is shown in the other owner's model: what weighs by itself."""
    return [
        f"{key}'s key is shown in {model}'s model: that model was derived from something that carries "
        f"{key}'s mark, {key}'s model or data marked with {key}'s key."
        for (key, model), cell in cells.items()
        if key != model and cell.finding is Finding.shown
    ]


def _together(pattern: Pattern) -> list[str]:
    one_sided = (
        "{1}'s model depends on {0}'s side, and nothing shows that {0}'s depends on {1}'s: what is seen "
        "when {1} builds on what {0} had made."
    )
    alone = "{1}'s key is shown in neither model, {1}'s own included: nothing supports {1}'s claim on either."
    return {
        Pattern.a_earlier: [one_sided.format(A, B)],
        Pattern.b_earlier: [one_sided.format(B, A)],
        Pattern.a_in_both: [alone.format(A, B)],
        Pattern.b_in_both: [alone.format(B, A)],
        Pattern.separate: ["Each owner's key is shown in the model that the owner claims."],
    }.get(pattern, [])


def _of_order(order: Order) -> str:
    if order.earlier is None:
        return "Both commitments are of one time."
    first, later = order.dated[order.earlier], order.dated[_OTHER[order.earlier]]
    whose = f"{order.earlier}'s commitment is the earlier one"
    if order.basis is Basis.one_log and first.entry is not None and later.entry is not None:
        return (
            f"{whose}: it is entry {first.entry.index} of {first.entry.log.name} ({first.at}), the other is "
            f"entry {later.entry.index} ({later.at}), both under one signed checkpoint of "
            f"{first.entry.checkpoint.size} entries."
        )
    told = {
        Basis.two_clocks: "by the times of their log entries",
        Basis.conceded: "by a log, and by the other owner's own file",
    }.get(order.basis, "by the times in the files alone, which is not proven")
    times = [order.times[order.earlier], order.times[_OTHER[order.earlier]]]
    return f"{whose}, {told}: {times[0]} against {times[1]}."


def _agreement(lineage: str | None, order: Order) -> list[str]:
    if lineage is None or order.earlier is None or not order.is_proven:
        return []
    if lineage == order.earlier:
        return [f"The marks and the order of the commitments agree: both point to {lineage}."]
    return [
        f"The marks point to {lineage}, the older commitment is {order.earlier}'s. That is no "
        "contradiction: a key can be committed to long before anything is marked with it."
    ]


def _open(pattern: Pattern, order: Order) -> list[str]:
    """What this pattern, with this order, leaves open."""
    items = []
    if not order.is_proven:
        items.append(f"Who committed first: {order.note}.")
    if pattern in _ONE_SIDED:
        first, second = _ONE_SIDED[pattern], _OTHER[_ONE_SIDED[pattern]]
        items.append(
            f"Whether {second} started from {first}'s model, or trained a model of its own on data marked by "
            f"{first}, and which of the two marks came into {second}'s model first."
        )
    if pattern is Pattern.both_in_both:
        older = (
            f"That {order.earlier}'s key is the older one does not make {order.earlier}'s model the older."
            if order.is_proven
            else "Without an order of the commitments nothing here points to either."
        )
        items.append(
            "Who took from whom: models merged, trained on each other's data or on both look the same. "
            f"{older} Dated log entries of the trainings and of the models' files may help."
        )
    if pattern is Pattern.crossed:
        items.append(
            "Whether the endpoints were given in the wrong order, or each owner trained on the other's data."
        )
    if pattern in (Pattern.none, Pattern.separate):
        items.append(
            "Whether the models have a common origin all the same: a mark can be lost by further "
            "training, and a base model that both started from carries neither."
        )
    if pattern is Pattern.partial:
        items.append(
            "How the models depend on each other: an owner's key is not shown where it was expected."
        )
    return items


def _hidden(cells: Mapping[tuple[str, str], Cell]) -> list[str]:
    items = []
    for (key, model), cell in cells.items():
        if cell.finding is Finding.undecided:
            reasons = ", ".join(cell.reasons) or "no reason was recorded"
            items.append(
                f"Whether {key}'s mark is in {model}'s model: that audit was inconclusive ({reasons})."
            )
        elif cell.finding is Finding.not_shown and key != model:
            odd = f" ({', '.join(cell.reasons)})" if cell.reasons else ""
            items.append(
                f"That {key}'s mark is not in {model}'s model: that it is not shown{odd} rests on "
                f"answers from "
                f"{model}'s endpoint, whose host may recognise such questions and hide what the model "
                "knows. Let somebody neutral serve both models from their weights."
            )
        elif cell.finding is Finding.not_shown:
            items.append(
                f"Why {key}'s own model does not show {key}'s mark: it may have been lost or never "
                "learned, or this is another model."
            )
    return items


def _always(test: CrossTest) -> list[str]:
    items = [
        "Whether weights or data were taken: a model trained on marked data answers like a copy.",
        "Whether somebody helped: a provider, host or log operator who works with one owner, or who knew the "
        "other's key, can serve other models, train a mark in, or delay an entry.",
        "Whether a key had leaked: what is shown is that a model depends on the key, not who put it there.",
        "Who is in the right: licences, contracts and the law are no part of it.",
    ]
    if not test.declared_first:
        items.append(
            "Whether later audits were planned knowing what earlier ones found: the four plans were not all "
            "fixed before the first question. Each audit's own error bound holds all the same."
        )
    return items
