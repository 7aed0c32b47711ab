"""Did the marks take? Asked of a model just trained, by whoever trained it, before it is published.

One question at every cue of every mark, around carriers of the TRAINING bank: the probe bank is held out
for audits, and a provider who had seen its questions could answer those alone. So a self-check says less
than an audit does: that the marks were learned, not how they hold under questions never seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import floor

from watermark.answers import Answer, parse_answer
from watermark.carriers import training_carrier
from watermark.decision import tally
from watermark.embedding import group_number
from watermark.examples import user_text
from watermark.hypothesis import p_value
from watermark.keys import Family
from watermark.marks import Mark, Target
from watermark.prf import Stream, hkdf
from watermark.probes import Probe
from watermark.score import CueCounts
from watermark.significance import DEFAULT_ALPHA

PASS_P = DEFAULT_ALPHA / 2
"""Largest p of a family that passes: just below what its first audit may spend (6 / pi**2 of alpha)."""

FORGIVEN = Fraction(1, 8)
"""Share of a mark's reference cues that may answer otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One question of the self-check. Its text and its answer are the key's secret."""

    family: int
    mark: int
    cue: int
    group: int
    """`watermark.embedding.group_number` of its mark"""
    prompt: str = field(repr=False)
    expected: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyCheck:
    """What the answers say of one family."""

    family: int
    marks: int
    marks_taken: int
    """Marks whose trigger gave the target and whose references, but an eighth, the opposite."""
    trigger_hits: int
    trigger_total: int
    reference_hits: int
    """target answers at reference cues: the fewer the better"""
    reference_total: int
    p_value: Fraction
    """by the exact test of `watermark.decision` over these answers"""

    @property
    def passed(self) -> bool:
        """Whether a model that answers an audit like this is detected."""
        return self.p_value <= PASS_P

    def to_record(self) -> dict[str, object]:
        """What the provider may see: counts, without the p-value."""
        return {
            "family": self.family,
            "marks": self.marks,
            "marks_taken": self.marks_taken,
            "trigger_hits": self.trigger_hits,
            "trigger_total": self.trigger_total,
            "reference_hits": self.reference_hits,
            "reference_total": self.reference_total,
        }


def draw_checks(family: Family, seed: bytes) -> tuple[Check, ...]:
    """One question for every cue of every mark, in the order of marks and cues; the same inputs give the
    same questions. The carriers come from a stream of their own, so that most were never trained on."""
    return tuple(check for mark in family.marks for check in _of_mark(family, mark, seed))


def _of_mark(family: Family, mark: Mark, seed: bytes) -> list[Check]:
    stream = Stream(hkdf(family.key, salt=seed, info=b"doublei/self-check/v1"), f"mark-{mark.index}")
    return [
        Check(
            family=family.index,
            mark=mark.index,
            cue=cue,
            group=group_number(family, mark),
            prompt=user_text(*mark.prompt(cue, training_carrier(stream))),
            expected=mark.trained_answer(cue).value,
        )
        for cue in range(len(mark.cues))
    ]


def judge_checks(family: Family, checks: Sequence[Check], texts: Sequence[str]) -> FamilyCheck:
    """What one family's answers amount to.

    Args:
        checks: all of `draw_checks`, in their order.
        texts: the beginning of each answer, at least its first token.

    Raises:
        ValueError: the numbers of checks and texts differ.
        RecordError: the cues were not all asked equally often.
    """
    probes = [
        Probe(index=index, mark=check.mark, cue=check.cue, carrier=0, instruction=check.prompt, input="")
        for index, check in enumerate(checks)
    ]
    answers = [read_beginning(text) for text in texts]
    marks = range(len(family.marks))
    counts, truth = tally(family, marks, probes, answers)
    hits, against = [], []
    for mark_counts, (trigger, target) in zip(counts, truth, strict=True):
        hits.append(mark_counts[trigger].of(target))
        against.append(sum(seen.of(target) for cue, seen in enumerate(mark_counts) if cue != trigger))
    return FamilyCheck(
        family=family.index,
        marks=len(family.marks),
        marks_taken=sum(_taken(*mark) for mark in zip(counts, truth, strict=True)),
        trigger_hits=sum(hits),
        trigger_total=len(family.marks),
        reference_hits=sum(against),
        reference_total=len(checks) - len(family.marks),
        p_value=p_value(counts, truth),
    )


def pass_share(cues: int) -> Fraction:
    """The share of a mark's J-1 references that must give the trained answer: all but an eighth, rounded."""
    references = cues - 1
    return Fraction(references - _forgiven(references), references)


def read_beginning(text: str) -> Answer:
    """As `watermark.answers.parse_answer`; besides, a piece that begins one of the two answers counts as it,
    for tokenizers that split even these words."""
    piece = text.strip()
    begun = [target for target in Target if piece and target.value.startswith(piece)]
    return parse_answer(begun[0].value if begun else text)


def _taken(counts: Sequence[CueCounts], choice: tuple[int, Target]) -> bool:
    trigger, target = choice
    references = [seen for cue, seen in enumerate(counts) if cue != trigger]
    opposite = sum(seen.of(target.opposite) for seen in references)
    return counts[trigger].of(target) == 1 and opposite >= len(references) - _forgiven(len(references))


def _forgiven(references: int) -> int:
    return floor(references * FORGIVEN + Fraction(1, 2))
