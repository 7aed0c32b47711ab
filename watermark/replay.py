"""Deciding again, from raw answers alone: what a reader of evidence runs without trusting anybody.

A pre-registration is a plain record; `preregister` writes it before the first question and `replay`
reads it. Fields:

- ``rule``: `watermark.decision.rule_record`, in full
- ``key``: commitment (hex), grade, audit_index, owner_commitments (how many keys the owner had committed to)
- ``plan``: family, marks (in the order of asking), probes_per_cue, mode, canaries, alpha, alpha_i ("a/b")
- ``nonces``: the commitments of service and auditor ("" for none)
- ``campaign``: id, position and size, where the audit is one of several
- anything else the caller fixed beforehand (suspect, decoding, retries), carried along unread
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from watermark.answers import parse_answer
from watermark.canaries import read_canaries
from watermark.decision import Decision, decide, rule_record, tally
from watermark.errors import OpeningError, RecordError
from watermark.keys import Family, family_of_opening
from watermark.nonces import Nonces, check_nonces
from watermark.numerals import fraction_text, parse_fraction
from watermark.probes import Probe
from watermark.questions import MODES, SEQUENTIAL, Question, draw_questions
from watermark.sequential import Look, looks
from watermark.significance import alpha_for_audit, check_plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is fixed before probing and decides how many questions are asked and what they must show."""

    family: int
    marks: tuple[int, ...]
    probes_per_cue: int
    alpha: Fraction
    alpha_i: Fraction
    mode: str = MODES[0]
    canaries: bool = True

    @property
    def sequential(self) -> bool:
        """Whether it is decided mark by mark."""
        return self.mode == SEQUENTIAL

    def to_record(self) -> dict[str, object]:
        """Strings, integers and lists."""
        return {
            "family": self.family,
            "marks": list(self.marks),
            "probes_per_cue": self.probes_per_cue,
            "mode": self.mode,
            "canaries": self.canaries,
            "alpha": fraction_text(self.alpha),
            "alpha_i": fraction_text(self.alpha_i),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What became of one question: the text of the reply, if one came.

    ``settled``: nothing more is asked or awaited. A question that is not settled when the audit ends was
    never answered; a fixed audit counts it as missing, a sequential one does not look at its mark.
    """

    text: str | None
    settled: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How far a sequential audit is. ``next_group`` is None when there is nothing more to ask."""

    looks: tuple[Look, ...]
    next_group: int | None


def preregister(
    *,
    commitment: str,
    grade: str,
    audit_index: int,
    owner_commitments: int,
    plan: Plan,
    cues: int,
    available_marks: int,
) -> dict[str, object]:
    """The part of a pre-registration that is about key and plan.

    Raises:
        PlanError: the plan can't reach its alpha_i.
    """
    check_plan(
        len(plan.marks),
        cues,
        plan.alpha_i,
        available_marks,
        probes_per_cue=plan.probes_per_cue,
        sequential=plan.sequential,
    )
    return {
        "rule": rule_record(),
        "key": {
            "commitment": commitment,
            "grade": grade,
            "audit_index": audit_index,
            "owner_commitments": owner_commitments,
        },
        "plan": plan.to_record(),
    }


def questions_of(family: Family, plan: Plan, order_seed: bytes) -> tuple[Question, ...]:
    """The questions of a plan, in order."""
    return draw_questions(
        family,
        marks=plan.marks,
        probes_per_cue=plan.probes_per_cue,
        mode=plan.mode,
        canaries=plan.canaries,
        order_seed=order_seed,
    )


def read_plan(preregistration: Mapping[str, object]) -> Plan:
    """The plan of a pre-registration, with its alpha_i recomputed and compared.

    Raises:
        RecordError: malformed, another rule, or an alpha_i that does not follow from alpha, the index, the
            grade and the size of the campaign.
    """
    if preregistration.get("rule") != rule_record():
        raise RecordError("the pre-registration names another decision rule than this software has")
    key, plan = preregistration.get("key"), preregistration.get("plan")
    if not isinstance(key, Mapping) or not isinstance(plan, Mapping):
        raise RecordError("the pre-registration lacks key or plan")
    marks = plan.get("marks")
    if not isinstance(marks, list) or not all(type(mark) is int for mark in marks) or not marks:
        raise RecordError("plan.marks is not a list of numbers")
    if plan.get("mode") not in MODES or not isinstance(plan.get("canaries"), bool):
        raise RecordError("plan.mode or plan.canaries is not what this software knows")
    if _integer(key, "owner_commitments") < 1:
        raise RecordError("key.owner_commitments counts the key itself, so it is at least 1")
    alpha = parse_fraction(plan.get("alpha"), "plan.alpha")
    alpha_i = parse_fraction(plan.get("alpha_i"), "plan.alpha_i")
    due = alpha_for_audit(
        alpha, _integer(key, "audit_index"), str(key.get("grade")), campaign_size(preregistration)
    )
    if alpha_i != due:
        raise RecordError(
            "plan.alpha_i does not follow from alpha, the audit's number, the key's grade and the campaign"
        )
    return Plan(
        family=_integer(plan, "family"),
        marks=tuple(marks),
        probes_per_cue=_integer(plan, "probes_per_cue"),
        alpha=alpha,
        alpha_i=alpha_i,
        mode=str(plan["mode"]),
        canaries=bool(plan["canaries"]),
    )


def campaign_size(preregistration: Mapping[str, object]) -> int:
    """How many suspects share the audit's number; 1 without a campaign.

    Raises:
        RecordError: the campaign is malformed, or this audit's position is not in it.
    """
    campaign = preregistration.get("campaign")
    if campaign is None:
        return 1
    if not isinstance(campaign, Mapping) or not isinstance(campaign.get("id"), str):
        raise RecordError("campaign is not an object with id, position and size")
    size, position = _integer(campaign, "size"), _integer(campaign, "position")
    if not 0 <= position < size:
        raise RecordError("campaign.position is not below campaign.size")
    return size


def open_audit(
    preregistration: Mapping[str, object], opening: Mapping[str, object], nonces: Mapping[str, object]
) -> tuple[Family, Plan, tuple[Question, ...]]:
    """The opened family, the plan, and the questions drawn again.

    Raises:
        OpeningError: the opened family or a nonce is not the committed one.
        RecordError: a record is malformed.
    """
    plan = read_plan(preregistration)
    key = preregistration["key"]
    if not isinstance(key, Mapping) or not isinstance(key.get("commitment"), str):
        raise RecordError("key.commitment is missing")
    family = family_of_opening(opening, key["commitment"])
    if family.index != plan.family:
        raise OpeningError("the opened family is not the planned one")
    shown = Nonces.from_record(nonces)
    check_nonces(preregistration.get("nonces"), shown)
    return family, plan, questions_of(family, plan, shown.order_seed)


def replay(
    preregistration: Mapping[str, object],
    opening: Mapping[str, object],
    nonces: Mapping[str, object],
    replies: Sequence[Reply],
) -> Decision:
    """Open the family, draw its questions again, read the raw replies, decide.

    Args:
        replies: one for each question in the order of asking.

    Raises:
        OpeningError: the opened family or a nonce is not the committed one.
        RecordError: a record is malformed, the number of replies is wrong, or a sequential audit did not
            stop when it had to.
    """
    family, plan, questions = open_audit(preregistration, opening, nonces)
    if len(questions) != len(replies):
        raise RecordError(f"{len(questions)} questions and {len(replies)} replies")
    groups = _complete_groups(questions, replies) if plan.sequential else 1
    counted = [(q, r) for q, r in zip(questions, replies, strict=True) if q.group < groups]
    probed = [(_as_probe(q), parse_answer(r.text)) for q, r in counted if q.canary is None]
    return decide(
        family,
        [probe for probe, _ in probed],
        [answer for _, answer in probed],
        alpha_i=plan.alpha_i,
        sequential=plan.marks if plan.sequential else None,
        canaries=read_canaries([(q.canary, r.text) for q, r in counted if q.canary is not None]),
    )


def standing(family: Family, plan: Plan, questions: Sequence[Question], replies: Sequence[Reply]) -> Standing:
    """Where a sequential audit stands, from what is settled so far.

    Raises:
        RecordError: as `watermark.decision.tally`.
    """
    complete = _complete_groups(questions, replies)
    probed = [
        (_as_probe(q), parse_answer(r.text))
        for q, r in zip(questions, replies, strict=True)
        if q.canary is None and q.group < complete
    ]
    marks = plan.marks[:complete]
    counts, truth = tally(family, marks, [probe for probe, _ in probed], [answer for _, answer in probed])
    seen = looks(marks, counts, truth)
    over = complete == len(plan.marks) or any(look.reaches(plan.alpha_i) for look in seen)
    return Standing(looks=seen, next_group=None if over else complete)


def _complete_groups(questions: Sequence[Question], replies: Sequence[Reply]) -> int:
    """How many groups, from the first on, have every question settled."""
    open_groups = {q.group for q, r in zip(questions, replies, strict=True) if not r.settled}
    return min(open_groups) if open_groups else 1 + max(question.group for question in questions)


def _as_probe(question: Question) -> Probe:
    if question.mark is None or question.cue is None:
        raise RecordError("a question that is no probe enters no score")
    return Probe(
        index=question.index, mark=question.mark, cue=question.cue, carrier=0, instruction="", input=""
    )


def _integer(record: Mapping[str, object], name: str) -> int:
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise RecordError(f"{name} is not an integer")
    return value
