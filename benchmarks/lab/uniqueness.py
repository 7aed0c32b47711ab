"""Uniqueness: innocent models asked once, and many keys scored on their answers.

A key's marks ask some of the questions that all keys' marks could ask. So one table of a model's answers,
questions x cue words x carriers, serves any number of keys: each takes its cues from the table and draws its
triggers and targets, as `watermark.marks` draws them. Given the table, the exact test rejects at most a share
alpha of all keys; the table of a real model shows what it rejects in fact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import binom

from benchmarks.statistics import procedures
from benchmarks.statistics.suspects import MISSING, NO, OTHER, YES, Floats, Ints
from watermark.answers import Answer, parse_answer
from watermark.banks import BANKS_DIGEST, CUE_WORDS, DECORATION_FORMS, QUESTION_FORMS, TOPICS
from watermark.carriers import probe_carrier
from watermark.examples import user_text
from watermark.marks import Mark, Paradigm, Target
from watermark.prf import Stream

ALPHAS = (0.05, 0.01, 0.001)
DETECTED = 1e-6
TOO_RARE = 1e-4
"""A number of rejections this improbable under the nominal rate is an error of the test. Some forty rates are
compared in a run: one in 250 runs would fail by chance."""
_CODES = {Answer.YES: YES, Answer.NO: NO, Answer.OTHER: OTHER, Answer.MISSING: MISSING}


@dataclass(frozen=True)
class TableDesign:
    """Which questions a table holds. Half of the questions are Instruction marks'."""

    questions: int = 12
    words: int = 32
    """of each question; a mark takes eight of them"""
    carriers: int = 2
    seed: int = 1

    def identity(self) -> dict[str, object]:
        """All that decides the table's questions."""
        return {
            "banks": BANKS_DIGEST[:16],
            "questions": self.questions,
            "words": self.words,
            "carriers": self.carriers,
            "seed": self.seed,
        }

    @cached_property
    def shells(self) -> tuple[Mark, ...]:
        """The questions as marks with every word of the table for a cue."""
        stream = Stream(str(self.seed).encode(), "lab/uniqueness")
        topics = stream.sample(list(TOPICS), self.questions)
        made = []
        for index, topic in enumerate(topics):
            question = stream.choice(QUESTION_FORMS).format(topic)
            form = stream.choice(DECORATION_FORMS)
            drawn = stream.sample(list(CUE_WORDS), self.words + 1)
            words, spare = drawn[: self.words], drawn[self.words]
            instruction = index % 2 == 1
            made.append(
                Mark(
                    index=index,
                    paradigm=Paradigm.INSTRUCTION if instruction else Paradigm.INPUT,
                    decoration="" if instruction else form.format(spare),
                    judge_question=question,
                    cues=tuple(form.format(word) for word in words) if instruction else tuple(words),
                    trigger=0,
                    target=Target.YES,
                )
            )
        return tuple(made)

    def prompts(self) -> list[str]:
        """Every question, in the order [question, word, carrier]."""
        stream = Stream(str(self.seed).encode(), "lab/uniqueness/carriers")
        asked = []
        for shell in self.shells:
            carriers: list[str] = []
            while len(carriers) < self.carriers:
                if (carrier := probe_carrier(stream)) not in carriers:
                    carriers.append(carrier)
            asked += [
                user_text(*shell.prompt(cue, carrier))
                for cue in range(len(shell.cues))
                for carrier in carriers
            ]
        return asked


@dataclass(frozen=True, slots=True)
class AnswerTable:
    """One model's answers: codes [question, word, carrier]."""

    codes: Ints

    @classmethod
    def from_texts(cls, design: TableDesign, texts: Sequence[str]) -> AnswerTable:
        """From the answers to `TableDesign.prompts`, in that order.

        Raises:
            ValueError: another number of answers.
        """
        codes = np.array([_CODES[parse_answer(text)] for text in texts], dtype=np.int64)
        return cls(codes.reshape(design.questions, design.words, design.carriers))

    def share(self, answer: Answer) -> float:
        """How much of the table is this answer."""
        return float((self.codes == _CODES[answer]).mean())


@dataclass(frozen=True, slots=True)
class KeyScores:
    """p of every key by the exact test and by the paper's pooled Fisher, and its largest product."""

    p: Floats
    pooled_p: Floats
    product: Floats


def score_keys(table: AnswerTable, *, keys: int, marks: int = 12, cues: int = 8, seed: int = 1) -> KeyScores:
    """Draw keys and decide each on the table.

    Raises:
        ValueError: the table has fewer questions than marks, or fewer words than cues.
    """
    questions, words, carriers = table.codes.shape
    if marks > questions or cues > words:
        raise ValueError(f"the table has {questions} questions with {words} words")
    rng = np.random.default_rng(seed)
    asked = np.argsort(rng.random((keys, questions)), axis=1)[:, :marks]
    chosen = np.argsort(rng.random((keys, marks, words)), axis=2)[:, :, :cues]
    seen = procedures.counts(table.codes[asked[:, :, None], chosen])
    cue = rng.integers(0, cues, (keys, 1, marks))
    target = rng.integers(0, 2, (keys, 1, marks))
    e = procedures.e_values(seen)
    return KeyScores(
        p=procedures.fixed_p(procedures.scores(e), cue, target)[:, 0],
        pooled_p=procedures.pooled_p(seen, cue, target, carriers)[:, 0],
        product=procedures.products(e, cue, target)[:, 0].max(-1),
    )


def realised(p: Floats, alpha: float) -> dict[str, object]:
    """How many keys a test claims at alpha, and whether that is no more than chance allows."""
    # A p of the simulation may miss the exact one by a rounding; a key at alpha itself counts as claimed.
    hits = int((p <= alpha * (1 + 1e-9)).sum())
    chance = float(binom.sf(hits - 1, len(p), alpha))
    return {
        "alpha": alpha,
        "claimed": hits,
        "rate": hits / len(p),
        "chance": chance,
        "holds": chance >= TOO_RARE,
    }


def rule_of_three(models: int) -> float:
    """95% upper bound of the share of models that are claimed, when none of ``models`` was: 3 / N
    (Hanley and Lippman-Hand, JAMA 249, 1983)."""
    return min(1.0, 3 / models) if models else 1.0
