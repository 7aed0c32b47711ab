"""False positives: how often an innocent suspect is claimed, over keys that its answers can't know.

Answers are drawn first, keys second, many keys to a table. Given its table every key rejects with a
probability of its own, so keys of one table are correlated: the number of rejections is treated as a
binomial one of reduced size (Korn and Graubard, Survey Methodology 24, 1998), exact intervals on that.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, binom

from benchmarks.statistics import procedures
from benchmarks.statistics.suspects import INNOCENT, Floats, Ints, places, tastes
from watermark.significance import PI_SQUARED_UPPER

ALPHAS = (0.05, 0.01, 1e-3)
DESIGN = (12, 8, 2)
"""Marks, cues, probes: the default plan."""
GUARANTEED = ("fixed", "sequential")
TOO_RARE = 1e-5
"""A count this improbable under its nominal rate is an error of the test, not of the simulation. Some 150
rates are compared in a run: one in 700 runs would fail by chance."""
AUDITS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A realised rate with its 95% interval."""

    suspect: str
    test: str
    alpha: float
    rate: float
    low: float
    high: float
    trials: int
    effective_trials: float
    """after the correlation of keys that share a table"""
    attained_max: float | None
    """fixed test: the largest level over the tables, exact given the table; never above alpha"""
    holds: bool | None
    """at most alpha within simulation error; None where nothing is promised"""

    def to_record(self) -> dict[str, object]:
        """For the JSON."""
        return asdict(self)


def rate_of(
    suspect: str, test: str, alpha: float, rejected: NDArray[np.bool_], attained: Floats | None = None
) -> Rate:
    """From rejections [tables, keys]."""
    tables = len(rejected)
    trials, share = rejected.size, float(rejected.mean())
    effective = float(trials)
    if 0 < share < 1 and tables > 1:
        variance = float(rejected.mean(1).var(ddof=1)) / tables
        effective = min(trials, share * (1 - share) / variance) if variance else trials
    hits = share * effective
    low = float(beta.ppf(0.025, hits, effective - hits + 1)) if hits else 0.0
    high = float(beta.ppf(0.975, hits + 1, effective - hits)) if hits < effective else 1.0
    holds = None
    if test in GUARANTEED:
        holds = bool(binom.sf(np.ceil(hits) - 1, np.floor(effective), alpha) >= TOO_RARE)
        holds = holds and (attained is None or bool(attained.max() <= alpha * (1 + 1e-9)))
    return Rate(
        suspect=suspect,
        test=test,
        alpha=alpha,
        rate=share,
        low=low,
        high=high,
        trials=trials,
        effective_trials=effective,
        attained_max=None if attained is None else float(attained.max()),
        holds=holds,
    )


def random_keys(rng: np.random.Generator, tables: int, keys: int) -> tuple[Ints, Ints]:
    """Uniform triggers and targets, [tables, keys, marks] each."""
    marks, cues, _ = DESIGN
    size = (tables, keys, marks)
    return rng.integers(0, cues, size), rng.integers(0, 2, size)


def one_audit(suspect: str, seed: int, tables: int, keys: int) -> list[Rate]:
    """Rates of all four tests against one innocent suspect."""
    rng = np.random.default_rng(seed)
    shape = (tables, *DESIGN)
    rates = []
    seen = procedures.counts(INNOCENT[suspect](rng, shape, places(rng, shape, by_mark=False)))
    cue, target = random_keys(rng, tables, keys)
    score = procedures.scores(procedures.e_values(seen))
    rejected, attained = procedures.fixed_levels(score, cue, target, np.array(ALPHAS))
    for place, alpha in enumerate(ALPHAS):
        rates.append(rate_of(suspect, "fixed", alpha, rejected[..., place] == 1, attained[:, place]))
    few = (cue[:, :4], target[:, :4])
    secondary = {
        "stratified Fisher": procedures.stratified_p(seen, *few, DESIGN[2]),
        "pooled Fisher": procedures.pooled_p(seen, *few, DESIGN[2]),
    }
    for test, p in secondary.items():
        rates += [rate_of(suspect, test, alpha, p <= alpha) for alpha in (*ALPHAS, 1e-6)]
    highest = []
    for _ in range(4):  # no null distribution to compute: more tables cost little
        seen = procedures.counts(INNOCENT[suspect](rng, shape, places(rng, shape, by_mark=True)))
        product = procedures.products(procedures.e_values(seen), *random_keys(rng, tables, keys))
        highest.append(product.max(-1))
    best = np.concatenate(highest)
    return rates + [rate_of(suspect, "sequential", alpha, best >= 1 / alpha) for alpha in ALPHAS]


def spent(alpha: float) -> Floats:
    """alpha_i of the first AUDITS audits."""
    index = np.arange(1, AUDITS + 1)
    level: Floats = 6 * alpha / (float(PI_SQUARED_UPPER) * index.astype(np.float64) ** 2)
    return level


def _audit_answers(how: str, rng: np.random.Generator) -> Ints:
    """Tables of all audits of one key: [AUDITS, marks, cues, 4]."""
    shape = (AUDITS, *DESIGN)
    if how == "new tastes each time":
        rate = tastes(rng, shape, 0.3)
    else:
        rate = np.broadcast_to(tastes(rng, (1, *DESIGN), 0.3), (*shape[:3], 1))
    return procedures.counts(np.where(rng.random(shape) < rate, 0, 1))


def repeated_audits(how: str, seed: int, worlds: int, keys: int) -> list[Rate]:
    """Family-wise rates: any claim in AUDITS audits of one key, the i-th at alpha_i. `worlds` suspects."""
    rng = np.random.default_rng(seed)
    levels = np.stack([spent(alpha) for alpha in ALPHAS])
    fixed = np.zeros((worlds, keys, len(ALPHAS)), dtype=bool)
    sequential = np.zeros_like(fixed)
    for world in range(worlds):
        seen = _audit_answers(how, rng)
        seen = seen[:1] if how == "the same answers again" else seen
        cue, target = random_keys(rng, 1, keys)
        cue, target = (np.broadcast_to(part, (len(seen), *part.shape[1:])) for part in (cue, target))
        e = procedures.e_values(seen)
        p = procedures.fixed_p(procedures.scores(e), cue, target)
        best = procedures.products(e, cue, target).max(-1)
        for place, level in enumerate(levels):
            fixed[world, :, place] = (p <= level[: len(seen), None]).any(0)
            sequential[world, :, place] = (best >= 1 / level[: len(seen), None]).any(0)
    name = f"{AUDITS} audits, {how}"
    return [
        rate_of(name, test, alpha, rejected[..., place])
        for test, rejected in (("fixed", fixed), ("sequential", sequential))
        for place, alpha in enumerate(ALPHAS)
    ]


def papers_design(suspect: str, seed: int, tables: int) -> list[Rate]:
    """The paper's own audit (arXiv 2402.14883): one trigger word, one reference word, 100 questions each,
    pooled two-sided Fisher. A hundred answers to one word are one observation of that word."""
    rng = np.random.default_rng(seed)
    shape = (tables, 1, 2, 100)
    seen = procedures.counts(INNOCENT[suspect](rng, shape, places(rng, shape, by_mark=False)))
    cue, target = rng.integers(0, 2, (tables, 1, 1)), rng.integers(0, 2, (tables, 1, 1))
    p = procedures.pooled_p(seen, cue, target, 100)
    return [rate_of(suspect, PAPER, alpha, p <= alpha) for alpha in (*ALPHAS, 1e-6)]


PAPER = "pooled Fisher as in the paper: one word, 100 + 100 questions"
PAPER_SUSPECTS = ("word tastes Beta(.05,.05)", "word tastes Beta(.3,.3)", "word tastes Beta(1,1)", "inverts")
REPEATED = ("new tastes each time", "its tastes stay", "the same answers again")
