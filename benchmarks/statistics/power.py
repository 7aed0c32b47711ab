"""Power at alpha 1e-6, and how many marks a sequential audit asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy.stats import beta

from benchmarks.statistics import procedures
from benchmarks.statistics.suspects import MARKED, Ints

ALPHA = 1e-6
SIZES = tuple((marks, cues, probes) for marks in (8, 12, 16) for cues in (4, 8) for probes in (1, 2, 3))
MORE_MARKS = tuple((marks, cues, probes) for marks in (10, 14, 20) for cues in (4, 8) for probes in (1, 2, 3))
"""For the recommendations alone."""
RECOMMENDED_FOR = (".95/.05", ".8/.25", ".6/.05", "half dead")
WANTED_POWER = 0.95
PROTOCOL: Mapping[tuple[int, int, int], Mapping[str, float]] = {
    (12, 8, 2): {".95/.05": 1.0, ".8/.25": 0.90, ".6/.05": 1.0, "quarter dead": 1.0, "half dead": 0.23},
    (16, 8, 2): {".95/.05": 1.0, ".8/.25": 0.99, ".6/.05": 1.0, "quarter dead": 1.0, "half dead": 0.82},
    (16, 8, 1): {".95/.05": 1.0, ".8/.25": 0.74, ".6/.05": 1.0, "quarter dead": 1.0, "half dead": 0.6},
}
"""The table of the protocol: what the tests here must reach, within simulation error and its rounding."""
ROUNDING = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """How often one kind of marked suspect is found by one design."""

    suspect: str
    marks: int
    cues: int
    probes: int
    tables: int
    fixed: float
    low: float
    high: float
    """95% interval of fixed, Clopper and Pearson"""
    first_score: float | None
    """power of the fixed test with the score before this one, same tables, at the protocol's designs"""
    sequential: float
    stopped: tuple[float, ...]
    """share of sequential audits that have stopped after mark 1, 2, ..."""
    protocol: float | None
    holds: bool | None

    @property
    def design(self) -> tuple[int, int, int]:
        """Marks, cues, probes."""
        return self.marks, self.cues, self.probes

    @property
    def questions(self) -> int:
        """All of them."""
        return self.marks * self.cues * self.probes

    def marks_until(self, share: float) -> int | None:
        """After how many marks this share of audits has stopped; None if it never does."""
        reached = [mark for mark, stopped in enumerate(self.stopped, 1) if stopped >= share]
        return reached[0] if reached else None

    def to_record(self) -> dict[str, object]:
        """For the JSON."""
        return asdict(self) | {
            "questions": self.questions,
            "median_marks": self.marks_until(0.5),
            "p90_marks": self.marks_until(0.9),
        }


def measure(design: tuple[int, int, int], names: Sequence[str], seed: int, tables: int) -> list[Power]:
    """One design against the marked suspects of these names."""
    rng = np.random.default_rng(seed)
    found = []
    for suspect in (one for one in MARKED if one.name in names):
        answers, target = suspect.answer(rng, (tables, *design))
        target = target[:, None, :]
        cue = np.zeros_like(target)
        e = procedures.e_values(procedures.counts(answers))
        hits = int((procedures.fixed_p(procedures.scores(e), cue, target) <= ALPHA).sum())
        ever = np.maximum.accumulate(procedures.products(e, cue, target)[:, 0], axis=1) >= 1 / ALPHA
        high = float(beta.ppf(0.975, hits + 1, tables - hits)) if hits < tables else 1.0
        wanted = PROTOCOL.get(design, {}).get(suspect.name)
        found.append(
            Power(
                suspect=suspect.name,
                marks=design[0],
                cues=design[1],
                probes=design[2],
                tables=tables,
                fixed=hits / tables,
                low=float(beta.ppf(0.025, hits, tables - hits + 1)) if hits else 0.0,
                high=high,
                first_score=_first_score(answers, target) if design in PROTOCOL else None,
                sequential=float(ever[:, -1].mean()),
                stopped=tuple(round(float(share), 4) for share in ever.mean(0)),
                protocol=wanted,
                holds=None if wanted is None else high >= wanted - ROUNDING,
            )
        )
    return found


def _first_score(answers: Ints, target: Ints) -> float:
    e = procedures.first_score_e_values(procedures.counts(answers))
    p = procedures.fixed_p(procedures.scores(e), np.zeros_like(target), target)
    return float((p <= ALPHA).mean())


def recommend(found: Sequence[Power]) -> list[dict[str, object]]:
    """For each kind of suspect the design of fewest questions whose power, less its error, is enough."""
    rows: list[dict[str, object]] = []
    for suspect in RECOMMENDED_FOR:
        enough = [one for one in found if one.suspect == suspect and one.low >= WANTED_POWER - 0.02]
        enough = [one for one in enough if one.fixed >= WANTED_POWER]
        best = min(enough, key=lambda one: (one.questions, -one.fixed), default=None)
        rows.append({"suspect": suspect, "design": best.to_record() if best else None})
    return rows
