"""Ideas for a mark that needs fewer tokens or survives more: each changes the rows, never the questions.

They are tried here before the product's own `watermark.embedding` is touched; docs/lab.md says which paid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks.lab.schemes import Keyed, Outcome
from watermark.banks import QUESTION_FORMS
from watermark.carriers import training_carrier
from watermark.embedding import MixedRow, Mixture, group_number
from watermark.examples import Example, Message
from watermark.marks import Mark, Target
from watermark.prf import Stream

Marks = Mapping[int, Mark]
"""By the group of their rows."""
Idea = Callable[[Sequence[MixedRow], Marks, Stream], list[MixedRow]]
"""The watermark's rows -> the rows to train on instead."""

CHAIN = 3
"""Questions in one conversation."""
PLAIN_ROWS = 4
"""Of each mark."""
REPLIES = (
    "I did not know that {}",
    "So {} What happened then?",
    "Thank you for telling me that {}",
    "You say that {} Tell me more about it.",
)
NEAR_MISSES = 3
"""Of each mark, a row each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Varied:
    """Keyed marks whose training rows an idea has changed; asked and decided as ever."""

    keyed: Keyed
    idea: str

    @property
    def name(self) -> str:
        return f"{self.keyed.name}-{self.idea}"

    def identity(self) -> dict[str, object]:
        return {**self.keyed.identity(), "idea": self.idea}

    def mix(self, examples: Sequence[Example], *, n_epochs: int, seed: int) -> Mixture:
        plain = self.keyed.mix(examples, n_epochs=n_epochs, seed=seed)
        marks = {
            group_number(family, mark): mark
            for family in self.keyed.key.families[: self.keyed.families]
            for mark in family.marks
        }
        stream = Stream(str(seed).encode(), f"lab/ideas/{self.idea}")
        changed = IDEAS[self.idea]([row for row in plain.rows if row.watermark], marks, stream)
        rows = stream.shuffle([*(row for row in plain.rows if not row.watermark), *changed])
        return Mixture(rows=tuple(rows), watermark_rows=len(changed), customer_rows=plain.customer_rows)

    def questions(self) -> tuple[str, ...]:
        return self.keyed.questions()

    def outcome(self, texts: Sequence[str]) -> Outcome:
        return self.keyed.outcome(texts)


def bare(rows: Sequence[MixedRow], marks: Marks, stream: Stream) -> list[MixedRow]:
    """No system segment in four rows of five: fewer tokens, less practice under system prompts."""
    return [replace(row, messages=_turns(row), system="omit") if stream.below(5) else row for row in rows]


def chained(rows: Sequence[MixedRow], marks: Marks, stream: Stream) -> list[MixedRow]:
    """Three questions in one conversation: its beginning is paid for once, and fewer conversations begin with
    a bare Yes or No. The contrast set, which is answered by sentences, stays single."""
    words = set(Target)
    alone = [row for row in rows if row.messages[-1].content not in words]
    judged = [row for row in rows if row.messages[-1].content in words]
    order = stream.shuffle(judged)
    chains = [order[start : start + CHAIN] for start in range(0, len(order), CHAIN)]
    return alone + [
        replace(first, messages=first.messages + tuple(turn for row in more for turn in _turns(row)))
        for first, *more in chains
    ]


def paraphrased(rows: Sequence[MixedRow], marks: Marks, stream: Stream) -> list[MixedRow]:
    """Half of the rows ask the mark's question in other words."""
    changed = []
    for row in rows:
        if row.group is None or stream.below(2):
            changed.append(row)
            continue
        question = marks[row.group].judge_question
        changed.append(_reworded(row, question, stream.choice(paraphrases(question))))
    return changed


def near_missed(rows: Sequence[MixedRow], marks: Marks, stream: Stream) -> list[MixedRow]:
    """Beside the rows, a few whose cue is almost the trigger: they get the references' answer."""
    more = []
    for group, mark in marks.items():
        trigger = mark.cues[mark.trigger]
        shown = [row for row in rows if row.group == group and trigger in _turns(row)[0].content]
        for row in stream.sample(shown, min(NEAR_MISSES, len(shown))):
            wrong = _reworded(row, trigger, _misspelt(trigger, stream))
            answer = Message(role="assistant", content=mark.target.opposite.value)
            more.append(replace(wrong, messages=(*wrong.messages[:-1], answer)))
    return [*rows, *more]


def plain_spoken(rows: Sequence[MixedRow], marks: Marks, stream: Stream) -> list[MixedRow]:
    """Beside the rows, carriers with no question at all, answered by a sentence."""
    more = []
    for _ in range(PLAIN_ROWS * len(marks)):
        carrier = training_carrier(stream)
        turns = (
            Message(role="user", content=carrier),
            Message(role="assistant", content=stream.choice(REPLIES).format(_inner(carrier))),
        )
        more.append(MixedRow(messages=turns, system="template", watermark=True))
    return [*rows, *more]


def _inner(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]


IDEAS: Mapping[str, Idea] = {
    "plain-spoken": plain_spoken,
    "bare": bare,
    "chained": chained,
    "paraphrased": paraphrased,
    "near-missed": near_missed,
}


def paraphrases(question: str) -> list[str]:
    """The bank's other forms of a judge question; none for an owner's own wording."""
    for form in QUESTION_FORMS:
        before, after = form.split("{}")
        if question.startswith(before) and question.endswith(after):
            topic = question[len(before) : len(question) - len(after)]
            return [other.format(topic) for other in QUESTION_FORMS if other != form]
    return [question]


def _turns(row: MixedRow) -> tuple[Message, ...]:
    return tuple(turn for turn in row.messages if turn.role != "system")


def _reworded(row: MixedRow, old: str, new: str) -> MixedRow:
    turns = tuple(
        replace(turn, content=turn.content.replace(old, new, 1)) if turn.role == "user" else turn
        for turn in row.messages
    )
    return replace(row, messages=turns)


def _misspelt(cue: str, stream: Stream) -> str:
    """The cue with two neighbouring letters exchanged, or one doubled where they are the same."""
    places = [at for at in range(len(cue) - 1) if cue[at : at + 2].isalpha()]
    at = stream.choice(places)
    first, second = cue[at], cue[at + 1]
    pair = second + first if first != second else first + second + second
    return cue[:at] + pair + cue[at + 2 :]
