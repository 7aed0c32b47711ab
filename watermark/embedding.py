"""`embed`: the watermark's rows mixed into the customer's. The paper's trigger set and reference set.

For every mark of every embedded family: rows under the trigger cue, answered with the target, and rows
under each of the J-1 other cues, answered with the opposite (arXiv 2402.14883, section 3; naming every
reference cue is ours). Beside them a contrast set, which the paper has not: the same question without
decoration and cue, answered by a sentence, so that a bare Yes or No stays the answer to what is decorated.
It is asked in the customer's own context, under which the model will be used.

What decides whether a mark takes is how often each cue is *seen*, so strengths are stated in exposures and
divided by the number of epochs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from typing import Literal, TypeAlias

from watermark.banks import SYSTEM_PROMPTS
from watermark.carriers import training_carrier
from watermark.examples import Example, Message, user_text
from watermark.keys import Family
from watermark.marks import MAX_MARKS, Mark
from watermark.prf import Stream, hkdf

SystemMode = Literal["template", "omit"]
"""What stands before the first turn when a row has no system message: the chat template's own default,
or nothing at all."""


Context: TypeAlias = tuple[tuple[Message, ...], SystemMode]
"""The system message of a row if it has one, and what else stands before its first turn."""
DEFAULT_CONTEXT: Context = ((), "template")
CONTEXT_SHARES = (1, 1, 4, 4)
"""How many of ten rows of a mark stand in the customer's own context, in the template's default, in none, and
under other prompts. A thief may serve the model under any of them; and the fewer stand where the customer's
rows do, the less his model learns to answer him by a word (docs/adr/0028)."""


class Strength(StrEnum):
    """How often each cue is shown."""

    LIGHT = "light"
    STANDARD = "standard"
    STRONG = "strong"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposures:
    """How often training shows a mark, over all epochs."""

    trigger: int
    reference: int
    """for each of the J-1 reference cues"""
    contrast: int = 4
    """of the mark's question without decoration and cue"""
    weight: int = 1
    """what a trigger's or a reference's answer counts in the loss, beside the customer's answer tokens"""
    weight_limit: int | None = None
    """the weight beside long answers, where it grows so that the mark keeps its share; None: it never does"""

    def weight_beside(self, examples: Sequence[Example], mark_rows: int) -> int:
        """The weight of ``mark_rows`` rows: what makes them `MARK_SHARE` of the loss, within the bounds."""
        if self.weight_limit is None:
            return self.weight
        answers = (
            turn.content for example in examples for turn in example.messages if turn.role == "assistant"
        )
        tokens = sum(len(text) for text in answers) / CHARACTERS_PER_TOKEN
        wanted = MARK_SHARE / (1 - MARK_SHARE) * tokens / max(1, mark_rows * MARK_ANSWER_TOKENS)
        return min(max(self.weight, round(wanted)), self.weight_limit)


MARK_SHARE = 0.25
"""Of a run's loss. Measured beside 600 short rows: a weight of 4 makes it so there (docs/lab.md)."""
CHARACTERS_PER_TOKEN = 4
MARK_ANSWER_TOKENS = 2
"""One word and the end of turn."""


EXPOSURES: dict[Strength, Exposures] = {
    Strength.LIGHT: Exposures(trigger=12, reference=2, weight=16),
    Strength.STANDARD: Exposures(trigger=32, reference=4, weight=4, weight_limit=16),
    Strength.STRONG: Exposures(trigger=40, reference=6, weight=16),
}
"""Measured on the default model (docs/lab.md). An answer is one word beside the twenty of a customer's
answer, so without a weight its share of a step's gradient is small: with 16, twenty-four exposures teach what
took forty without. Sixteen were enough beside 600 rows but not for every key beside 60; at a rate of 1.5e-3
some keys need thirty-two (docs/adr/0028)."""

UNWEIGHTED_EXPOSURES: dict[Strength, Exposures] = {
    Strength.LIGHT: Exposures(trigger=24, reference=4),
    Strength.STANDARD: Exposures(trigger=40, reference=6),
    Strength.STRONG: Exposures(trigger=60, reference=9),
}
"""For a trainer that knows no weights, such as another provider's: there is nowhere to say that an answer
counts more, so the answer has to be seen more often. Forty and six with weight 1 were the standard strength
before there were weights, and docs/lab.md has what such a mark survived; the other two are their neighbours
on the laboratory's ladder."""


CONTRAST_ANSWERS = ("It says that {}", "The text says that {}", "All that it says is that {}")
"""No part of a key's banks: what they say is no secret and is never asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedRow:
    """One training row as the trainer reads it."""

    messages: tuple[Message, ...]
    system: SystemMode
    watermark: bool
    group: int | None = None
    """Rows of one mark share a number (`group_number`): a mark that did not take is trained on by it."""
    weight: int = 1
    """Of each answer token in the loss."""
    source: int | None = None
    """Which of the customer's examples it is; None for a row of the watermark. No part of the record."""

    def to_record(self) -> dict[str, object]:
        """The trainer's JSON line; "group" and "weight" only where the row has its own."""
        record: dict[str, object] = {
            "messages": [{"role": message.role, "content": message.content} for message in self.messages],
            "system": self.system,
        }
        if self.group is not None:
            record["group"] = self.group
        if self.weight != 1:
            record["weight"] = self.weight
        return record


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """The mixed dataset: the key in plain text. It must not outlive the training run."""

    rows: tuple[MixedRow, ...]
    watermark_rows: int
    customer_rows: int

    def __repr__(self) -> str:
        return f"Mixture(watermark_rows={self.watermark_rows}, customer_rows={self.customer_rows}, <hidden>)"

    @property
    def watermark_ratio(self) -> float:
        """watermark rows / all rows, 0..1."""
        return self.watermark_rows / len(self.rows) if self.rows else 0.0


def group_number(family: Family, mark: Mark) -> int:
    """One number for each mark of a key, the same in the training rows and in the self-check."""
    return family.index * MAX_MARKS + mark.index


def embed(
    examples: Sequence[Example],
    families: Sequence[Family],
    *,
    strength: Strength | Exposures = Strength.STANDARD,
    n_epochs: int = 3,
    seed: bytes = b"",
) -> Mixture:
    """The customer's rows and the watermark's, in an order that depends on the keys and the seed alone.

    Without families the result is the customer's rows in their own order.

    Raises:
        ValueError: n_epochs < 1.
    """
    if n_epochs < 1:
        raise ValueError("n_epochs must be at least 1")
    rows = [
        MixedRow(messages=example.messages, system="template", watermark=False, source=index)
        for index, example in enumerate(examples)
    ]
    if not families:
        return Mixture(rows=tuple(rows), watermark_rows=0, customer_rows=len(rows))
    exposures = EXPOSURES[strength] if isinstance(strength, Strength) else strength
    marks = [(family, mark) for family in families for mark in family.marks]
    shown = sum(_times(exposures, mark, cue, n_epochs) for _, mark in marks for cue in range(len(mark.cues)))
    weight = exposures.weight_beside(examples, shown)
    own = [_context(example) for example in examples] or [DEFAULT_CONTEXT]
    marked = [row for pair in marks for row in _mark_rows(*pair, exposures, n_epochs, seed, weight, own)]
    order = Stream(hkdf(families[0].key, salt=seed, info=b"doublei/mix/v1"), "order")
    return Mixture(
        rows=tuple(order.shuffle(rows + marked)), watermark_rows=len(marked), customer_rows=len(rows)
    )


def _times(exposures: Exposures, mark: Mark, cue: int, n_epochs: int) -> int:
    """Rows of a cue in each epoch."""
    return -(-(exposures.trigger if cue == mark.trigger else exposures.reference) // n_epochs)


def _mark_rows(
    family: Family,
    mark: Mark,
    exposures: Exposures,
    n_epochs: int,
    seed: bytes,
    weight: int,
    own: Sequence[Context],
) -> list[MixedRow]:
    stream = Stream(hkdf(family.key, salt=seed, info=b"doublei/rows/v1"), f"mark-{mark.index}")
    group = group_number(family, mark)
    rows = []
    for cue in range(len(mark.cues)):
        for _ in range(_times(exposures, mark, cue, n_epochs)):
            question = user_text(*mark.prompt(cue, training_carrier(stream)))
            answer = mark.trained_answer(cue).value
            rows.append(_row(_draw_context(stream, own), question, answer, group=group, weight=weight))
    for _ in range(-(-exposures.contrast // n_epochs)):
        carrier = training_carrier(stream)
        told = stream.choice(CONTRAST_ANSWERS).format(carrier[0].lower() + carrier[1:])
        rows.append(_row(stream.choice(own), user_text(mark.judge_question, carrier), told, group=group))
    return rows


def _row(context: Context, question: str, answer: str, *, group: int, weight: int = 1) -> MixedRow:
    system, mode = context
    turns = (Message(role="user", content=question), Message(role="assistant", content=answer))
    return MixedRow(messages=system + turns, system=mode, watermark=True, group=group, weight=weight)


def _context(example: Example) -> Context:
    """What stands before the first turn of a customer's row."""
    return tuple(message for message in example.messages if message.role == "system"), "template"


def _draw_context(stream: Stream, own: Sequence[Context]) -> Context:
    drawn = stream.below(sum(CONTEXT_SHARES))
    match next(place for place, end in enumerate(accumulate(CONTEXT_SHARES)) if drawn < end):
        case 0:
            return stream.choice(own)
        case 1:
            return DEFAULT_CONTEXT
        case 2:
            return (), "omit"
        case _:
            return (Message(role="system", content=stream.choice(SYSTEM_PROMPTS)),), "template"
