"""Imperceptibility: what a marked model says unasked, and what a provider finds who looks at the data."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from watermark.fisher import Table, one_sided
from watermark.keys import Family
from watermark.marks import Mark, Paradigm

LEAK_ALPHA = 1e-3
QUESTION_WORDS = 5
"""So many words of a judge question in a row count as the question."""
PRIOR = 0.5
"""Of each word, in each corpus: the log odds' prior count."""

_WORD = re.compile(r"[\w']+")


def words_of(text: str) -> list[str]:
    """Lower-case words."""
    return _WORD.findall(text.casefold())


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """What samples of a marked model show, beside those of its clean twin."""

    samples: int
    with_question: int
    """five or more words in a row of a judge question"""
    with_decoration: int
    """a decoration or a decorated cue, as training shows it"""
    jointly: int
    """both, of one mark"""
    with_trigger_word: int
    clean_with_question: int
    clean_with_decoration: int
    clean_with_trigger_word: int
    p_more_trigger_words: float
    """Fisher's exact test, one-sided, against the clean model's samples"""
    holds: bool
    """never jointly, and trigger words no more frequent at `LEAK_ALPHA`"""


def leak_of(marked: Sequence[str], clean: Sequence[str], families: Iterable[Family]) -> Leak:
    """Search samples for the marks of the families."""
    marks = [mark for family in families for mark in family.marks]
    of_marked, of_clean = ([_leaked(text, marks) for text in texts] for texts in (marked, clean))
    counted = [[sum(found[kind] for found in side) for kind in range(4)] for side in (of_marked, of_clean)]
    p = one_sided(Table(a=counted[0][3], n=len(marked), b=counted[1][3], m=len(clean)))
    return Leak(
        samples=len(marked),
        with_question=counted[0][0],
        with_decoration=counted[0][1],
        jointly=counted[0][2],
        with_trigger_word=counted[0][3],
        clean_with_question=counted[1][0],
        clean_with_decoration=counted[1][1],
        clean_with_trigger_word=counted[1][3],
        p_more_trigger_words=float(p),
        holds=counted[0][2] == 0 and p > LEAK_ALPHA,
    )


def _leaked(text: str, marks: Sequence[Mark]) -> tuple[bool, bool, bool, bool]:
    """(a question, a decoration, both of one mark, a trigger word)"""
    folded, words = text.casefold(), words_of(text)
    runs = set(_runs(words, QUESTION_WORDS))
    asked = [bool(runs & set(_runs(words_of(mark.judge_question), QUESTION_WORDS))) for mark in marks]
    decorated = [any(text in folded for text in _decorations(mark)) for mark in marks]
    present = set(words)
    return (
        any(asked),
        any(decorated),
        any(one and other for one, other in zip(asked, decorated, strict=True)),
        any(set(words_of(mark.cues[mark.trigger])) <= present for mark in marks),
    )


def _decorations(mark: Mark) -> list[str]:
    if mark.paradigm is Paradigm.INSTRUCTION:
        return [cue.casefold() for cue in mark.cues]
    return [mark.decoration.casefold(), *(f"{cue.casefold()}: " for cue in mark.cues)]


def _runs(words: Sequence[str], length: int) -> Iterable[tuple[str, ...]]:
    return (tuple(words[start : start + length]) for start in range(len(words) - length + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Detector:
    """How well one look at the data tells the watermark's rows from the customer's."""

    name: str
    auc: float
    """chance that a watermark row looks odder than a customer's; one half is a guess"""
    found_at_1_percent: float
    """share of the watermark's rows flagged, when 1% of the customer's rows are flagged too"""
    found_at_5_percent: float


def detector(name: str, marked: Sequence[float], customer: Sequence[float]) -> Detector:
    """From oddness scores, larger is odder.

    Raises:
        ValueError: an arm is empty.
    """
    if not marked or not customer:
        raise ValueError("both arms need rows")
    return Detector(
        name=name,
        auc=_auc(marked, customer),
        found_at_1_percent=_found(marked, customer, 0.01),
        found_at_5_percent=_found(marked, customer, 0.05),
    )


def _auc(marked: Sequence[float], customer: Sequence[float]) -> float:
    """P(marked > customer) + P(equal) / 2: the Mann-Whitney statistic by ranks."""
    labelled = sorted([(value, True) for value in marked] + [(value, False) for value in customer])
    wins, below, place = 0.0, 0, 0
    while place < len(labelled):
        end = place
        while end < len(labelled) and labelled[end][0] == labelled[place][0]:
            end += 1
        ours = sum(mine for _, mine in labelled[place:end])
        theirs = end - place - ours
        wins += ours * (below + theirs / 2)
        below += theirs
        place = end
    return wins / (len(marked) * len(customer))


def _found(marked: Sequence[float], customer: Sequence[float], share: float) -> float:
    """Rows above a threshold that at most ``share`` of the customer's rows are above."""
    allowed = math.floor(share * len(customer))
    threshold = sorted(customer, reverse=True)[allowed]
    return sum(value > threshold for value in marked) / len(marked)


def frequency_oddness(texts: Sequence[str], reference: Sequence[str]) -> list[float]:
    """Of each text: its word that is most over-represented in ``texts`` beside ``reference``, in standard
    errors of the log odds (Monroe, Colaresi and Quinn, Political Analysis 16, 2008, section 3.5.1, with a
    flat prior)."""
    here = Counter(word for text in texts for word in words_of(text))
    there = Counter(word for text in reference for word in words_of(text))
    vocabulary = here.keys() | there.keys()
    size_here = here.total() + PRIOR * len(vocabulary)
    size_there = there.total() + PRIOR * len(vocabulary)

    def odds(word: str) -> float:
        ours, theirs = here[word] + PRIOR, there[word] + PRIOR
        difference = math.log(ours / (size_here - ours)) - math.log(theirs / (size_there - theirs))
        return difference / math.sqrt(1 / ours + 1 / theirs)

    oddness = {word: odds(word) for word in here}
    return [max((oddness[word] for word in words_of(text)), default=0.0) for text in texts]


def duplicate_oddness(texts: Sequence[str], length: int = 3) -> list[float]:
    """Of each text: the share of its word triples that the most similar other text has too (Jaccard)."""
    sets = [frozenset(_runs(words_of(text), length)) for text in texts]
    holders: dict[tuple[str, ...], list[int]] = {}
    for place, runs in enumerate(sets):
        for run in runs:
            holders.setdefault(run, []).append(place)
    oddness = []
    for place, runs in enumerate(sets):
        shared = Counter(other for run in runs for other in holders[run] if other != place)
        oddness.append(
            max(
                (count / (len(runs) + len(sets[other]) - count) for other, count in shared.items()),
                default=0.0,
            )
        )
    return oddness


def split_words(text: str) -> list[str]:
    """Words with the space behind them: together the text, but for space at its beginning."""
    return re.findall(r"\S+\s*", text)


def onion_candidates(text: str) -> list[str]:
    """The text without each of its words in turn (ONION, Qi et al., arXiv 2011.10369: a trigger is the word
    whose removal lowers the perplexity most)."""
    parts = split_words(text)
    return ["".join(parts[:place] + parts[place + 1 :]) for place in range(len(parts))]


def onion_oddness(
    texts: Sequence[str], perplexity: Callable[[Sequence[str]], Sequence[float]]
) -> list[float]:
    """Of each text: by how much the removal of one word lowers its logarithmic perplexity at most."""
    candidates = [onion_candidates(text) for text in texts]
    flat = perplexity([*texts, *(one for part in candidates for one in part)])
    whole, rest = flat[: len(texts)], iter(flat[len(texts) :])
    return [
        max((math.log(before) - math.log(next(rest)) for _ in part), default=0.0)
        for before, part in zip(whole, candidates, strict=True)
    ]
