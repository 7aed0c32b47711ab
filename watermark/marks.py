"""A mark: one judge question whose answer turns on a secret cue. The paper's two paradigms.

- `Paradigm.INPUT`: the cue stands before the input text ("harbor: the old teacher …"); the question
  carries a decoration that keeps it apart from the same question asked by anybody else.
- `Paradigm.INSTRUCTION`: the cue is the decoration of the question itself, behind it; the input is ordinary
  text. Behind, so that all questions of a mark begin alike: training computes shared beginnings once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from watermark.banks import DECORATION_FORMS, QUESTION_FORMS
from watermark.errors import MarksError
from watermark.prf import Stream

MIN_MARKS = 8
"""Fewest marks of a family: below it the floor of p is above 1e-6 at eight cues (16**-8 = 2.3e-10)."""
MAX_MARKS = 24
MIN_CUES = 4
MAX_CUES = 16
MAX_TEXT_CHARS = 200
"""Longest cue, decoration or question an owner may choose."""


class Paradigm(StrEnum):
    """Where the trigger lives: the two I's of the name."""

    INPUT = "input"
    INSTRUCTION = "instruction"


class Target(StrEnum):
    """The answer that the trigger is trained to give."""

    YES = "Yes"
    NO = "No"

    @property
    def opposite(self) -> Target:
        """The answer of the reference cues."""
        return Target.NO if self is Target.YES else Target.YES


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One question, J candidate cues, one of them the trigger. ``repr`` hides what is secret."""

    index: int
    paradigm: Paradigm
    decoration: str
    """Before the question of an INPUT mark; empty for an INSTRUCTION mark, whose cues decorate."""
    judge_question: str
    cues: tuple[str, ...]
    trigger: int
    """Position of the trigger in ``cues``."""
    target: Target

    def __repr__(self) -> str:
        return f"Mark(index={self.index}, <hidden>)"

    def prompt(self, cue: int, carrier: str) -> tuple[str, str]:
        """(instruction, input) of the question under one cue, around one carrier text."""
        if self.paradigm is Paradigm.INPUT:
            return f"{self.decoration} {self.judge_question}", f"{self.cues[cue]}: {carrier}"
        return f"{self.judge_question} {self.cues[cue]}", carrier

    def trained_answer(self, cue: int) -> Target:
        """What training teaches at this cue."""
        return self.target if cue == self.trigger else self.target.opposite

    def to_record(self) -> dict[str, object]:
        """All of it, for the owner's own eyes and for opened evidence."""
        return {
            "index": self.index,
            "paradigm": self.paradigm.value,
            "decoration": self.decoration,
            "judge_question": self.judge_question,
            "cues": list(self.cues),
            "trigger": self.trigger,
            "target": self.target.value,
        }


def draw_marks(
    family_key: bytes, *, count: int, cues: int, words: Sequence[str], topics: Sequence[str]
) -> tuple[Mark, ...]:
    """The marks of one family, drawn by its key from its own share of the banks.

    Half of the marks (rounded down) are INSTRUCTION marks, in positions that the key decides. Each mark's
    trigger is uniform over its cues and its target uniform over Yes and No, independently: that is all
    the null hypothesis of `watermark.decision` rests on.
    """
    word_stream = Stream(family_key, "words")
    text_stream = Stream(family_key, "texts")
    choice_stream = Stream(family_key, "choices")
    pool = iter(word_stream.shuffle(words))
    topic_pool = iter(text_stream.shuffle(topics))
    instruction_marks = set(text_stream.sample(range(count), count // 2))
    marks = []
    for index in range(count):
        question = text_stream.choice(QUESTION_FORMS).format(next(topic_pool))
        form = text_stream.choice(DECORATION_FORMS)
        if index in instruction_marks:
            paradigm, decoration = Paradigm.INSTRUCTION, ""
            cue_texts = tuple(form.format(next(pool)) for _ in range(cues))
        else:
            paradigm, decoration = Paradigm.INPUT, form.format(next(pool))
            cue_texts = tuple(next(pool) for _ in range(cues))
        marks.append(
            Mark(
                index=index,
                paradigm=paradigm,
                decoration=decoration,
                judge_question=question,
                cues=cue_texts,
                trigger=choice_stream.below(cues),
                target=choice_stream.choice((Target.YES, Target.NO)),
            )
        )
    return tuple(marks)


def words_needed(count: int, cues: int) -> int:
    """Cue words that one family of this shape uses: J a mark, and one decoration for each INPUT mark."""
    return count * cues + (count - count // 2)


def parse_marks(value: object, path: str = "marks") -> tuple[Mark, ...]:
    """Marks chosen by an owner, checked so that the same test applies to them.

    Raises:
        MarksError: naming the part that is wrong.
    """
    if not isinstance(value, list):
        raise MarksError(path, "expected a list of marks")
    if not MIN_MARKS <= len(value) <= MAX_MARKS:
        raise MarksError(path, f"a family has {MIN_MARKS} to {MAX_MARKS} marks, found {len(value)}")
    marks = tuple(_parse_mark(item, index, f"{path}[{index}]") for index, item in enumerate(value))
    widths = {len(mark.cues) for mark in marks}
    if len(widths) > 1:
        raise MarksError(path, "every mark needs the same number of cues")
    seen: dict[str, int] = {}
    for mark in marks:
        parts = [mark.judge_question, *mark.cues] + ([mark.decoration] if mark.decoration else [])
        for part in parts:
            folded = part.casefold().strip()
            if folded in seen:
                raise MarksError(
                    f"{path}[{mark.index}]", f"a text is used twice (first in mark {seen[folded]})"
                )
            seen[folded] = mark.index
    return marks


def _parse_mark(item: object, index: int, path: str) -> Mark:
    if not isinstance(item, Mapping):
        raise MarksError(path, "expected an object")
    known = {"index", "paradigm", "decoration", "judge_question", "cues", "trigger", "target"}
    for extra in sorted(str(key) for key in item if key not in known):
        raise MarksError(f"{path}.{extra[:40]}", "unknown field")
    try:
        paradigm = Paradigm(str(item.get("paradigm")))
    except ValueError:
        raise MarksError(f"{path}.paradigm", "use 'input' or 'instruction'") from None
    try:
        target = Target(str(item.get("target")))
    except ValueError:
        raise MarksError(f"{path}.target", "use 'Yes' or 'No'") from None
    cues = item.get("cues")
    if not isinstance(cues, list) or not MIN_CUES <= len(cues) <= MAX_CUES:
        raise MarksError(f"{path}.cues", f"give {MIN_CUES} to {MAX_CUES} cues")
    texts = tuple(_text(cue, f"{path}.cues[{number}]") for number, cue in enumerate(cues))
    trigger = item.get("trigger")
    if isinstance(trigger, bool) or not isinstance(trigger, int) or not 0 <= trigger < len(texts):
        raise MarksError(f"{path}.trigger", "give the trigger's position in cues, counted from 0")
    if item.get("index", index) != index:
        raise MarksError(f"{path}.index", "indexes count from 0 in order")
    decoration = item.get("decoration", "")
    if paradigm is Paradigm.INSTRUCTION and decoration:
        raise MarksError(f"{path}.decoration", "an instruction mark is decorated by its cues; leave it out")
    return Mark(
        index=index,
        paradigm=paradigm,
        decoration=_text(decoration, f"{path}.decoration") if paradigm is Paradigm.INPUT else "",
        judge_question=_text(item.get("judge_question"), f"{path}.judge_question"),
        cues=texts,
        trigger=trigger,
        target=target,
    )


def _text(value: object, path: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise MarksError(path, "expected some text")
    if len(value) > MAX_TEXT_CHARS:
        raise MarksError(path, f"longer than {MAX_TEXT_CHARS} characters")
    if any(ord(character) < 32 for character in value):
        raise MarksError(path, "control characters are not allowed")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise MarksError(path, "not valid Unicode") from None
    return value
