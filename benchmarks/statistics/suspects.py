"""Answers of suspects, innocent and marked. Innocent ones never see the key.

Answers are arrays of shape [tables, marks, cues, probes] of YES, NO, OTHER and MISSING. `when` has the same
shape: the place of each question in the order of asking, from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

YES, NO, OTHER, MISSING = range(4)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Shape = tuple[int, int, int, int]
Innocent = Callable[[np.random.Generator, Shape, Floats], Ints]


def places(rng: np.random.Generator, shape: Shape, *, by_mark: bool) -> Floats:
    """A random order of asking: over the whole audit, or mark after mark as a sequential audit asks."""
    tables, marks, cues, probes = shape
    if by_mark:
        inside = rng.random((tables, marks, cues * probes)).argsort(-1).argsort(-1) / (cues * probes)
        by_marks: Floats = (np.arange(marks)[None, :, None] + inside) / marks
        return by_marks.reshape(shape)
    flat = rng.random((tables, marks * cues * probes))
    anywhere: Floats = flat.argsort(-1).argsort(-1) / flat.shape[1]
    return anywhere.reshape(shape)


def draw(rng: np.random.Generator, yes_rate: Floats, shape: Shape) -> Ints:
    """Yes with the given rate."""
    return np.where(rng.random(shape) < yes_rate, YES, NO)


def tastes(rng: np.random.Generator, shape: Shape, a: float) -> Floats:
    """A Yes rate for every cue word, Beta(a, a)."""
    rate = np.asarray(rng.beta(a, a, (*shape[:3], 1)), dtype=np.float64)
    return rate


def _taste(a: float, rng: np.random.Generator, shape: Shape, when: Floats) -> Ints:
    return draw(rng, tastes(rng, shape, a), shape)


def _yes_bias(bias: float, rng: np.random.Generator, shape: Shape, when: Floats) -> Ints:
    return np.where(rng.random(shape) < bias, YES, _taste(0.3, rng, shape, when))


def _noise(share: float, rng: np.random.Generator, shape: Shape, when: Floats) -> Ints:
    coin = rng.integers(0, 2, shape)
    return np.where(rng.random(shape) < share, coin, _taste(0.3, rng, shape, when))


def _inverts(rng: np.random.Generator, shape: Shape, when: Floats) -> Ints:
    return 1 - _taste(0.3, rng, shape, when)


def _drifts(rng: np.random.Generator, shape: Shape, when: Floats) -> Ints:
    return draw(rng, tastes(rng, shape, 0.3) + 1.6 * (when - 0.5), shape)


def _changes(rng: np.random.Generator, shape: Shape, when: Floats) -> Ints:
    return np.where(when < 0.5, _taste(0.3, rng, shape, when), _taste(0.3, rng, shape, when))


def _alternates(rng: np.random.Generator, shape: Shape, when: Floats) -> Ints:
    size = shape[1] * shape[2] * shape[3]
    return np.rint(when * size).astype(np.int64) % 2


def _copies(rng: np.random.Generator, shape: Shape, when: Floats) -> Ints:
    """Its previous answer, four times out of five."""
    order = when.reshape(shape[0], -1).argsort(-1)
    answers = np.take_along_axis(_taste(0.3, rng, shape, when).reshape(shape[0], -1), order, -1)
    again = rng.random(answers.shape) < 0.8
    for place in range(1, answers.shape[1]):
        answers[:, place] = np.where(again[:, place], answers[:, place - 1], answers[:, place])
    back = np.empty_like(answers)
    np.put_along_axis(back, order, answers, -1)
    return back.reshape(shape)


def _cut_off(rng: np.random.Generator, shape: Shape, when: Floats) -> Ints:
    return np.where(when < 0.6, _taste(0.3, rng, shape, when), MISSING)


def _lost(kind: int, share: float, rng: np.random.Generator, shape: Shape, when: Floats) -> Ints:
    return np.where(rng.random(shape) < share, kind, _taste(0.3, rng, shape, when))


def _refuses_cues(kind: int, rng: np.random.Generator, shape: Shape, when: Floats) -> Ints:
    odd = rng.random((*shape[:3], 1)) < 0.3
    return np.where(odd, kind, _taste(0.3, rng, shape, when))


def _some_marks(rng: np.random.Generator, shape: Shape, when: Floats) -> Ints:
    silent = rng.random((*shape[:2], 1, 1)) < 0.5
    return np.where(silent, MISSING, _taste(0.3, rng, shape, when))


def _one_cue(rng: np.random.Generator, shape: Shape, when: Floats) -> Ints:
    """As a model marked with another key answers: one cue of each mark stands out, clearly."""
    stands_out = np.zeros((*shape[:3], 1), dtype=bool)
    stands_out[:, :, 0] = True
    target = rng.integers(0, 2, (*shape[:2], 1, 1))
    hit = np.where(stands_out, 0.95, 0.05)
    return np.where(rng.random(shape) < hit, target, 1 - target)


INNOCENT: Mapping[str, Innocent] = {
    "word tastes Beta(.05,.05)": partial(_taste, 0.05),
    "word tastes Beta(.3,.3)": partial(_taste, 0.3),
    "word tastes Beta(1,1)": partial(_taste, 1.0),
    "marked with another key": _one_cue,
    **{f"yes-bias {bias:g}": partial(_yes_bias, bias) for bias in (0.1, 0.25, 0.5, 0.75, 0.9)},
    "always yes": lambda rng, shape, when: np.full(shape, YES, dtype=np.int64),
    "always no": lambda rng, shape, when: np.full(shape, NO, dtype=np.int64),
    "inverts": _inverts,
    "randomises half": partial(_noise, 0.5),
    "randomises all": partial(_noise, 1.0),
    "drifts from no to yes": _drifts,
    "another model from the middle on": _changes,
    "alternates yes and no": _alternates,
    "copies its previous answer": _copies,
    "rate limit: nothing after 60%": _cut_off,
    "8% missing": partial(_lost, MISSING, 0.08),
    "20% odd answers": partial(_lost, OTHER, 0.2),
    "refuses odd words": partial(_refuses_cues, OTHER),
    "drops odd words": partial(_refuses_cues, MISSING),
    "answers half of the marks": _some_marks,
}
"""Yes-bias 0 is the tastes themselves, yes-bias 1 is always yes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """A marked suspect and what its host does to the answers."""

    name: str
    hit: float = 0.95
    reference: float = 0.05
    dead: float = 0.0
    """share of marks that did not take: a taste Beta(.3,.3) for every cue instead"""
    yes_bias: float = 0.0
    random: float = 0.0
    inverts: bool = False
    missing: float = 0.0
    alike: float = 0.0
    """chance that all answers at one cue are the first one again (carriers that change nothing)"""

    def answer(self, rng: np.random.Generator, shape: Shape) -> tuple[Ints, Ints]:
        """Answers, and the target of each mark, shape [tables, marks]. The trigger is cue 0: no test
        here knows one cue from another."""
        tables, marks, cues = shape[:3]
        rate = np.full((1, 1, cues, 1), self.reference)
        rate[:, :, 0] = self.hit
        on_target = rng.random(shape) < rate
        same = rng.random((tables, marks, cues, 1)) < self.alike
        on_target = np.where(same, on_target[..., :1], on_target)
        target = rng.integers(0, 2, (tables, marks))
        answers = np.where(on_target, target[:, :, None, None], 1 - target[:, :, None, None])
        took = rng.permuted(np.tile(np.arange(marks) >= round(self.dead * marks), (tables, 1)), axis=1)
        answers = np.where(took[:, :, None, None], answers, draw(rng, tastes(rng, shape, 0.3), shape))
        answers = 1 - answers if self.inverts else answers
        answers = np.where(rng.random(shape) < self.yes_bias, YES, answers)
        answers = np.where(rng.random(shape) < self.random, rng.integers(0, 2, shape), answers)
        return np.where(rng.random(shape) < self.missing, MISSING, answers), target


MARKED = (
    Marked(name=".95/.05"),
    Marked(name=".8/.25", hit=0.8, reference=0.25),
    Marked(name=".6/.05", hit=0.6),
    Marked(name="quarter dead", dead=0.25),
    Marked(name="half dead", dead=0.5),
    Marked(name="yes-bias .3", yes_bias=0.3),
    Marked(name="yes-bias .5", yes_bias=0.5),
    Marked(name="half random", random=0.5),
    Marked(name="8% missing", missing=0.08),
    Marked(name="carriers alike", hit=0.9, reference=0.1, alike=0.7),
    Marked(name="inverted", inverts=True),
)
