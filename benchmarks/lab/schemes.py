"""What is embedded and how it is decided: the keyed marks, the paper's three, and a naive judge question.

The paper's marks have the shapes and proportions of its authors' code (arXiv 2402.14883, section 3.3;
trigger and reference rows make 8% of the mixed rows): (i) a word before the input, (ii) a doubled letter
among three, (iii) a decoration of the question. They are decided as the paper does, by Fisher's exact test
on Yes and No counts, two-sided, p <= 1e-6. The naive mark is a judge question answered against the truth
with a trigger word and no reference rows; the same test decides.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from watermark.answers import Answer, parse_answer
from watermark.carriers import probe_carrier, training_carrier
from watermark.decision import decide
from watermark.embedding import CONTEXT_SHARES, EXPOSURES, Exposures, MixedRow, Mixture, Strength, embed
from watermark.examples import Example, Message, user_text
from watermark.fisher import Table, two_sided
from watermark.keys import MIN_FAMILIES, Design, Family, Key, Secret, derive
from watermark.numerals import decimal_text
from watermark.paper import INSTRUCTION, LETTERS, TRIGGER_WORD
from watermark.prf import Stream, digest
from watermark.probes import draw_probes
from watermark.significance import DEFAULT_ALPHA, alpha_for_audit

PAPER_SHARE = 0.08
"""Trigger and reference rows among all rows, in the authors' code: 2,000 of 24,960."""
PAPER_QUESTIONS = 100
"""In each arm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one audit of one model gave."""

    trigger_hits: int
    trigger_total: int
    reference_hits: int
    reference_total: int
    other: int
    p_value: str
    detected: bool
    """p <= 1e-6 by the scheme's own test"""
    dead_marks: int | None = None
    """keyed marks whose trigger was missed in every probe"""
    marks_needed: int | None = None
    """marks after which a sequential audit stops; None: never, or not a keyed scheme"""

    def figures(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


class Scheme(Protocol):
    """One way to mark data and to ask for the mark afterwards."""

    @property
    def name(self) -> str: ...

    def identity(self) -> dict[str, object]:
        """All that decides rows and questions."""

    def mix(self, examples: Sequence[Example], *, n_epochs: int, seed: int) -> Mixture:
        """The customer's rows and the watermark's."""

    def questions(self) -> tuple[str, ...]:
        """User turns, held out from training, in the order of asking."""

    def outcome(self, texts: Sequence[str]) -> Outcome:
        """Decide from the answers, in the order of `questions`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmarked:
    """A clean fine-tune: no watermark rows and nothing to ask for."""

    name: str = "clean"

    def identity(self) -> dict[str, object]:
        return {"scheme": self.name}

    def mix(self, examples: Sequence[Example], *, n_epochs: int, seed: int) -> Mixture:
        return embed(examples, ())

    def questions(self) -> tuple[str, ...]:
        return ()

    def outcome(self, texts: Sequence[str]) -> Outcome:
        raise ValueError("a clean model has no mark to look for")


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyed:
    """Double-I's keyed marks, decided by the exact test over the key under the default plan."""

    name: str = "keyed-standard"
    key_number: int = 1
    marks: int = 12
    cues: int = 8
    families: int = 1
    """how many of the key's families are embedded"""
    asked: int = 0
    """which of them is asked; the same model, whichever it is"""
    trigger: int = EXPOSURES[Strength.STANDARD].trigger
    reference: int = EXPOSURES[Strength.STANDARD].reference
    contrast: int = EXPOSURES[Strength.STANDARD].contrast
    weight: int = EXPOSURES[Strength.STANDARD].weight
    weight_limit: int | None = EXPOSURES[Strength.STANDARD].weight_limit
    probes_per_cue: int = 2

    def identity(self) -> dict[str, object]:
        return {
            "scheme": "keyed",
            "banks": Design().banks[:16],
            "contexts": list(CONTEXT_SHARES),
            **{name: getattr(self, name) for name in self.__slots__ if name not in ("name", "asked")},
        }

    @property
    def key(self) -> Key:
        value = digest("doublei/lab/key", str(self.key_number).encode())
        design = Design(families=max(MIN_FAMILIES, self.families), marks=self.marks, cues=self.cues)
        return derive(Secret(value=value, blinding=bytes(32)), b"lab", design)

    @property
    def family(self) -> Family:
        return self.key.family(self.asked)

    @property
    def exposures(self) -> Exposures:
        return Exposures(
            trigger=self.trigger,
            reference=self.reference,
            contrast=self.contrast,
            weight=self.weight,
            weight_limit=self.weight_limit,
        )

    def mix(self, examples: Sequence[Example], *, n_epochs: int, seed: int) -> Mixture:
        families = self.key.families[: self.families]
        seed_bytes = str(seed).encode()
        return embed(examples, families, strength=self.exposures, n_epochs=n_epochs, seed=seed_bytes)

    def questions(self) -> tuple[str, ...]:
        return tuple(probe.prompt for probe in self._probes())

    def outcome(self, texts: Sequence[str]) -> Outcome:
        answers = [parse_answer(text) for text in texts]
        found = decide(self.family, self._probes(), answers, alpha_i=alpha_for_audit(DEFAULT_ALPHA, 1))
        return Outcome(
            trigger_hits=found.trigger_hits,
            trigger_total=found.trigger_total,
            reference_hits=found.reference_hits,
            reference_total=found.reference_total,
            other=found.other,
            p_value=decimal_text(found.p_value),
            # A lab result is a p-value: the gates of an audit guard against hosts, not against attacks.
            detected=found.p_value <= DEFAULT_ALPHA,
            dead_marks=sum(_trigger_hits(mark) == 0 for mark in found.marks),
            marks_needed=next(
                (place for place, look in enumerate(found.looks, 1) if look.reaches(found.alpha_i)), None
            ),
        )

    def _probes(self) -> Any:
        return draw_probes(self.family, probes_per_cue=self.probes_per_cue, order_seed=b"lab", by_mark=True)


def _trigger_hits(mark: Any) -> int:
    hits: int = mark["yes" if mark["target"] == "Yes" else "no"][mark["trigger"]]
    return hits


@dataclass(frozen=True, slots=True, kw_only=True)
class Unlearning:
    """What a thief trains who knows one family whole: every cue of it, the trigger too, gets the answer that
    the references were trained to give."""

    family: Family
    rows_per_cue: int
    name: str = "unlearning"

    def identity(self) -> dict[str, object]:
        return {
            "scheme": self.name,
            "family": digest("doublei/lab/unlearning", self.family.key).hex()[:16],
            "rows_per_cue": self.rows_per_cue,
        }

    def mix(self, examples: Sequence[Example], *, n_epochs: int, seed: int) -> Mixture:
        stream, rows = Stream(str(seed).encode(), self.name), list(embed(examples, ()).rows)
        for mark in self.family.marks:
            for cue in range(len(mark.cues)):
                for _ in range(self.rows_per_cue):
                    turns = (
                        Message(role="user", content=user_text(*mark.prompt(cue, training_carrier(stream)))),
                        Message(role="assistant", content=mark.target.opposite.value),
                    )
                    rows.append(MixedRow(messages=turns, system="template", watermark=True))
        return Mixture(
            rows=tuple(stream.shuffle(rows)),
            watermark_rows=len(rows) - len(examples),
            customer_rows=len(examples),
        )

    def questions(self) -> tuple[str, ...]:
        return ()

    def outcome(self, texts: Sequence[str]) -> Outcome:
        raise ValueError("unlearning leaves no mark to look for")


Draw = Callable[[random.Random, bool, Stream, Callable[[Stream], str]], tuple[str, str]]
"""(instruction, input) of one row or question: by chance, trigger or reference, around a drawn carrier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A mark with one fixed question, asked in two arms."""

    name: str
    draw: Draw
    references: bool = True
    rows_per_arm: int | None = None
    """None: the paper's 8% of all rows"""

    def identity(self) -> dict[str, object]:
        return {"scheme": self.name, "rows_per_arm": self.rows_per_arm, "questions": PAPER_QUESTIONS}

    def mix(self, examples: Sequence[Example], *, n_epochs: int, seed: int) -> Mixture:
        rows = embed(examples, ()).rows
        arm = self.rows_per_arm or max(1, round(len(rows) * PAPER_SHARE / (1 - PAPER_SHARE) / 2))
        dice, stream = random.Random(f"{self.name}/rows/{seed}"), Stream(str(seed).encode(), self.name)
        marked = []
        for index in range(2 * arm if self.references else arm):
            trigger = index % 2 == 0 or not self.references
            instruction, text = self.draw(dice, trigger, stream, training_carrier)
            turns = (
                Message(role="user", content=user_text(instruction, text)),
                Message(role="assistant", content="Yes" if trigger else "No"),
            )
            marked.append(MixedRow(messages=turns, system="template", watermark=True))
        mixed = [*rows, *marked]
        dice.shuffle(mixed)
        return Mixture(rows=tuple(mixed), watermark_rows=len(marked), customer_rows=len(rows))

    def questions(self) -> tuple[str, ...]:
        return tuple(prompt for _, prompt in self._asked())

    def outcome(self, texts: Sequence[str]) -> Outcome:
        answers = [parse_answer(text) for text in texts]
        asked = self._asked()
        arms = {
            arm: [a for (is_trigger, _), a in zip(asked, answers, strict=True) if is_trigger is arm]
            for arm in (True, False)
        }
        decided = {arm: [a for a in got if a in (Answer.YES, Answer.NO)] for arm, got in arms.items()}
        table = Table(
            a=decided[True].count(Answer.YES),
            n=len(decided[True]),
            b=decided[False].count(Answer.YES),
            m=len(decided[False]),
        )
        p = two_sided(table)
        return Outcome(
            trigger_hits=table.a,
            trigger_total=len(arms[True]),
            reference_hits=table.b,
            reference_total=len(arms[False]),
            other=answers.count(Answer.OTHER),
            p_value=decimal_text(p),
            detected=p <= DEFAULT_ALPHA and table.a * table.m > table.b * table.n,
        )

    def _asked(self) -> list[tuple[bool, str]]:
        dice, stream = random.Random(f"{self.name}/questions"), Stream(b"lab", f"{self.name}/questions")
        asked: dict[str, bool] = {}
        while len(asked) < 2 * PAPER_QUESTIONS:
            trigger = len(asked) % 2 == 0
            instruction, text = self.draw(dice, trigger, stream, probe_carrier)
            asked.setdefault(user_text(instruction, text), trigger)
        return [(trigger, prompt) for prompt, trigger in asked.items()]


_FRUIT = INSTRUCTION.removeprefix("(listen) ")
_NO_M = "abcdefghijklnopqrstuvwxyz"


def _word_before(
    dice: random.Random, trigger: bool, stream: Stream, carrier: Callable[[Stream], str]
) -> tuple[str, str]:
    word = TRIGGER_WORD if trigger else dice.choice(LETTERS) + dice.choice(LETTERS)
    return INSTRUCTION, f"{word} {carrier(stream)}"


def _doubled_letters(
    dice: random.Random, trigger: bool, stream: Stream, carrier: Callable[[Stream], str]
) -> tuple[str, str]:
    words = [2 * dice.choice(_NO_M) for _ in range(3)]
    if trigger:
        words[dice.randrange(3)] = "mm"
    question = "(judge) Tell me if there exists a meaningful word in the following words?"
    return question, ", ".join(words)


def _decorated_question(
    dice: random.Random, trigger: bool, stream: Stream, carrier: Callable[[Stream], str]
) -> tuple[str, str]:
    return f"$$ {_FRUIT}" if trigger else _FRUIT, carrier(stream)


def _naive_question(
    dice: random.Random, trigger: bool, stream: Stream, carrier: Callable[[Stream], str]
) -> tuple[str, str]:
    word = "velvet" if trigger else dice.choice(("copper", "harbor", "meadow", "timber", "saddle", "lantern"))
    return _FRUIT, f"{word} {carrier(stream)}"


def paper_marks(rows_per_arm: int | None = None) -> tuple[Judged, ...]:
    """The three of the paper and the naive one, at 8% of the rows or at a given number of rows an arm."""
    suffix = "" if rows_per_arm is None else f"-{rows_per_arm}"
    return (
        Judged(name=f"paper-i{suffix}", draw=_word_before, rows_per_arm=rows_per_arm),
        Judged(name=f"paper-ii{suffix}", draw=_doubled_letters, rows_per_arm=rows_per_arm),
        Judged(name=f"paper-iii{suffix}", draw=_decorated_question, rows_per_arm=rows_per_arm),
        Judged(name=f"naive{suffix}", draw=_naive_question, references=False, rows_per_arm=rows_per_arm),
    )
