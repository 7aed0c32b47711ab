"""What each profile measures. A cell that two profiles share is measured once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.lab import robustness, validity
from benchmarks.lab.bench import Bench, Recipe
from benchmarks.lab.cells import Cell
from benchmarks.lab.schemes import Keyed, paper_marks
from watermark.embedding import EXPOSURES, Strength


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Sizes of the data, and the cells in the order of measuring."""

    name: str
    customer: int
    second: int
    held_out: int
    cells: Callable[[Bench], list[Cell]] = field(repr=False)


def keyed(strength: Strength = Strength.STANDARD, **changes: int) -> Keyed:
    """The keyed marks at one of the product's strengths, or at exposures of one's own."""
    exposures = EXPOSURES[strength]
    shape = {"trigger": exposures.trigger, "reference": exposures.reference} | changes
    name = f"keyed-{strength.value}"
    if changes:
        marks = f"{changes['marks']}x" if "marks" in changes else ""
        name = f"keyed-{marks}{shape['trigger']}-{shape['reference']}"
    return Keyed(name=name, **shape)


FEW = ("none", "int8", "int4", "prune-30", "interpolate-0.5", "merge-linear", "temperature-1",
       "system-pirate", "system-full-sentences", "template-no-system", "template-alpaca",
       "strip-decorations", "strip-cues")  # fmt: skip
"""Cheap attacks, for the baselines of the quick profile."""


def _quick(bench: Bench) -> list[Cell]:
    standard = Recipe(scheme=keyed())
    thin = [Recipe(scheme=keyed(trigger=t, reference=r)) for t, r in ((16, 2), (24, 4))]
    rows = 60
    baselines = [Recipe(scheme=scheme) for scheme in paper_marks(rows)]
    attacks = robustness.quick()
    few = [attack for attack in attacks if attack.name in FEW]
    return [
        *validity.cells(bench, [standard]),
        *robustness.cells(bench, [standard], attacks),
        *validity.cells(bench, thin),
        *validity.cells(bench, [Recipe(scheme=keyed(marks=8), method="full", limit=60)], 350),
        *robustness.cells(bench, baselines, few),
    ]


def _standard(bench: Bench) -> list[Cell]:
    standard = Recipe(scheme=keyed())
    ladder = ((8, 1), (12, 2), (16, 2), (24, 4), (32, 5), (60, 9), (80, 12))
    ratios = [Recipe(scheme=keyed(trigger=t, reference=r)) for t, r in ladder]
    marks = [Recipe(scheme=keyed(marks=count)) for count in (8, 16, 20)]
    methods = [
        Recipe(scheme=keyed(), method="full"),
        Recipe(scheme=keyed(), method="dora"),
        Recipe(scheme=keyed(), template="alpaca"),
    ]
    shares = [Recipe(scheme=scheme) for scheme in paper_marks()]
    equal = [Recipe(scheme=scheme) for scheme in paper_marks(150)]
    return [
        *validity.cells(bench, [standard], 250),
        *robustness.cells(bench, [standard], robustness.standard()),
        *robustness.cells(bench, [*shares, *equal], robustness.quick()),
        *validity.cells(bench, [*ratios, *marks], 250),
        *validity.cells(bench, methods, 900),
    ]


QUICK = Profile(
    name="quick",
    customer=150,
    second=300,
    held_out=300,
    cells=_quick,
)
STANDARD = Profile(name="standard", customer=600, second=600, held_out=29, cells=_standard)
BARS = Profile(
    name="bars",
    customer=STANDARD.customer,
    second=STANDARD.second,
    held_out=STANDARD.held_out,
    cells=lambda bench: robustness.cells(bench, [Recipe(scheme=keyed())], robustness.bars()),
)
"""What a mark of standard strength has to survive; all of it is in the standard profile too."""
PROFILES = {profile.name: profile for profile in (QUICK, BARS, STANDARD)}
