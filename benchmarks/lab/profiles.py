"""What each profile measures. A cell that two profiles share is measured once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace

from benchmarks.lab import capacity, harmlessness, innocent, keys, perception, robustness, validity
from benchmarks.lab.bench import Bench, Recipe
from benchmarks.lab.cells import Cell
from benchmarks.lab.ideas import IDEAS, Varied
from benchmarks.lab.schemes import Keyed, Scheme, Unmarked, paper_marks
from benchmarks.lab.uniqueness import TableDesign
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
    shape = asdict(exposures) | changes
    if "weight" in changes:
        shape["weight_limit"] = None
    name = f"keyed-{strength.value}"
    changes = {what: value for what, value in changes.items() if what != "key_number"}
    if changes:
        name = f"keyed-{shape['trigger']}-{shape['reference']}"
        name += f"-{changes['marks']}-marks" if "marks" in changes else ""
        name += f"-{changes['cues']}-cues" if "cues" in changes else ""
        name += f"-weight-{changes['weight']}" if "weight" in changes else ""
        name += f"-contrast-{changes['contrast']}" if "contrast" in changes else ""
        name += f"-{changes['families']}-families" if "families" in changes else ""
    return Keyed(name=name, **shape)


LADDER = ((8, 1), (16, 2), (32, 5), (60, 9), (80, 12))
"""Exposures of (trigger, each reference), beside those of the strengths: how often a mark must be seen."""


SHAPES = (
    (40, 6, 0, 1, 512),
    (16, 2, 0, 1, 512),
    (16, 2, 0, 4, 512),
    (16, 2, 0, 16, 512),
    (16, 2, 0, 16, 256),
    (24, 3, 0, 16, 256),
    (24, 3, 0, 4, 256),
    (24, 3, 4, 16, 256),
    (24, 3, 4, 4, 256),
    (12, 2, 0, 16, 256),
    (8, 1, 0, 4, 512),
    (8, 1, 0, 16, 256),
)
"""(trigger, reference, contrast, weight, tokens a step)"""
HARD = ("int4", "prune-30", "interpolate-0.5")
HARDEST = ("none", *HARD, "merge-linear")
"""What marks of one recipe and another key differ most by."""

FEW = ("none", "int8", "int4", "prune-30", "interpolate-0.5", "merge-linear", "temperature-1",
       "system-pirate", "template-alpaca")  # fmt: skip
"""Cheap attacks, for the baselines of the quick profile."""
SLOW = ("onion",)
"""Minutes for one cell: left to the standard profile."""


TABLE = TableDesign()
KEYS = 1000


def pairs(seeds: int) -> list[Recipe]:
    """Marked and clean models of the same rows and seed; every marked one has a key of its own."""
    return [
        Recipe(scheme=scheme, seed=seed)
        for seed in range(1, seeds + 1)
        for scheme in (keyed(key_number=seed), Unmarked())
    ]


def innocents(pairs: Sequence[Recipe], others: Sequence[Recipe]) -> list[tuple[str, Recipe | None]]:
    """Models that no table's key marked: base, clean fine-tunes, other owners' marked models, and those with
    the judge questions of others."""
    models: list[tuple[str, Recipe | None]] = [("base", None)]
    for recipe in pairs:
        kind = "clean" if isinstance(recipe.scheme, Unmarked) else "another-owner"
        models.append((f"{kind}-{recipe.seed}", recipe))
    other_data = Recipe(scheme=Unmarked(), rows="second", seed=3)
    return [*models, ("other-data-3", other_data), *((one.scheme.name, one) for one in others)]


def _quick(bench: Bench) -> list[Cell]:
    standard = Recipe(scheme=keyed())
    clean = Recipe(scheme=Unmarked())
    quick = [attack for attack in robustness.quick() if attack.name not in SLOW]
    few = [attack for attack in quick if attack.name in FEW]
    others: list[tuple[str, Recipe | None]] = [("base", None), ("clean-1", clean)]
    return [
        *validity.cells(bench, [standard]),
        *robustness.cells(bench, [standard], quick),
        perception.data_cell(bench, standard),
        perception.leak_cell(bench, standard, clean, samples=200),
        *robustness.cells(bench, [Recipe(scheme=scheme) for scheme in paper_marks()], few),
        *innocent.cells(bench, others, TABLE, KEYS),
        *harmlessness.cells(bench, pairs(2)),
    ]


def _standard(bench: Bench) -> list[Cell]:
    standard = Recipe(scheme=keyed())
    ratios = [Recipe(scheme=keyed(trigger=t, reference=r)) for t, r in LADDER]
    marks = [Recipe(scheme=keyed(marks=count)) for count in (8, 16, 20)]
    cues = [Recipe(scheme=keyed(cues=count)) for count in (4, 12)]
    methods = [
        Recipe(scheme=keyed(), method="full"),
        Recipe(scheme=keyed(), method="dora"),
        Recipe(scheme=keyed(), template="alpaca"),
    ]
    equal = [Recipe(scheme=scheme) for scheme in paper_marks(150)]
    two, three = (Recipe(scheme=keyed(families=count)) for count in (2, 3))
    return [
        *_bar_cells(bench),
        *robustness.cells(bench, [standard], robustness.standard()),
        *validity.cells(bench, [*ratios, *marks, *cues, Recipe(scheme=keyed(Strength.STRONG))], 250),
        *validity.cells(bench, methods, 900),
        *capacity.cells(bench, [standard, two, three]),
        robustness.burned_cell(bench, two),
        robustness.second_owner_cell(bench, standard, keyed(key_number=2)),
        perception.data_cell(bench, standard),
        *robustness.cells(bench, equal, robustness.quick()),
    ]


def _full(bench: Bench) -> list[Cell]:
    """What needs a GPU: every scheme under every treatment, ten seeds, a wider table."""
    schemes: list[Scheme] = [*paper_marks(), *paper_marks(150), *(keyed(strength) for strength in Strength)]
    subjects = [Recipe(scheme=scheme) for scheme in schemes]
    table = TableDesign(questions=24, words=64, carriers=3)
    return [
        *_standard(bench),
        *robustness.cells(bench, subjects, robustness.standard()),
        *harmlessness.cells(bench, pairs(10), 200),
        *innocent.cells(bench, innocents(pairs(10), subjects[:-3]), table, 10 * KEYS),
    ]


def _idea_cells(bench: Bench) -> list[Cell]:
    """What makes a mark cheaper: weight in the loss, more and smaller steps, fewer exposures, other rows.
    Each under the treatments that thin marks die of."""
    ideas = [Recipe(scheme=Varied(keyed=keyed(trigger=16, reference=2), idea=idea)) for idea in IDEAS]
    ideas += [
        Recipe(
            scheme=Keyed(
                name=f"{trigger}-{reference}-{contrast} weight {weight} batch {batch}",
                trigger=trigger,
                reference=reference,
                contrast=contrast,
                weight=weight,
                weight_limit=None,
            ),
            batch_tokens=batch,
        )
        for trigger, reference, contrast, weight, batch in SHAPES
    ]
    hard = [attack for attack in robustness.bars() if attack.name in HARD]
    return [
        *(
            cell
            for recipe in ideas
            for cell in (
                *validity.cells(bench, [recipe], 250),
                *robustness.cells(bench, [recipe], hard),
                *harmlessness.cells(bench, [recipe]),
            )
        ),
        *_step_cells(bench),
    ]


def _step_cells(bench: Bench) -> list[Cell]:
    """What of a mark's cost is that of its smaller steps: clean models in steps of as few of the customer's
    tokens. And that of the rate: marked and clean at the one that was the default (docs/adr/0026 to 0028)."""
    couples = pairs(10)
    fast = [replace(recipe, learning_rate=2e-3) for recipe in couples]
    small = [replace(recipe, batch_tokens=155) for recipe in couples[1:6:2]]
    return [
        *harmlessness.cells(bench, fast, 250, what="-rate-0.002"),
        *harmlessness.cells(bench, small, 250, what="-steps-of-155"),
    ]


def _other_cells(bench: Bench) -> list[Cell]:
    """Whether a mark takes and survives on another model, and whether that model is accused when innocent."""
    standard = Recipe(scheme=keyed())
    treatments = [attack for attack in robustness.bars() if attack.family not in ("llama.cpp",)]
    innocent_models: list[tuple[str, Recipe | None]] = [
        ("base", None),
        ("clean-1", Recipe(scheme=Unmarked())),
        ("another-owner-1", standard),
    ]
    return [
        *validity.cells(bench, [standard], 600),
        *robustness.cells(bench, [standard], treatments),
        *innocent.cells(bench, innocent_models, TABLE, KEYS),
    ]


def _bar_cells(bench: Bench) -> list[Cell]:
    """Bars 2 to 5."""
    ten, couples = pairs(10), pairs(5)
    standard, clean = couples[:2]
    hardest = [attack for attack in robustness.bars() if attack.name in HARDEST]
    light = Recipe(scheme=keyed(Strength.LIGHT))
    papers = [Recipe(scheme=scheme) for scheme in paper_marks()[:3]]
    return [
        *validity.cells(bench, [light, *(one for one in couples if one.scheme.name != "clean")], 250),
        *robustness.cells(bench, [standard, light, *papers], robustness.bars()),
        *harmlessness.cells(bench, pairs(15), 250),
        *keys.cells(bench, ten[::2], hardest),
        *innocent.cells(bench, innocents(couples, papers), TABLE, KEYS),
        perception.leak_cell(bench, standard, clean, samples=10_000),
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
    cells=_bar_cells,
)
"""What is promised of a mark of standard strength; all of it is in the standard profile too."""
IDEAS_PROFILE = Profile(
    name="ideas",
    customer=STANDARD.customer,
    second=STANDARD.second,
    held_out=STANDARD.held_out,
    cells=_idea_cells,
)
OTHER = Profile(
    name="other",
    customer=STANDARD.customer,
    second=STANDARD.second,
    held_out=STANDARD.held_out,
    cells=_other_cells,
)
"""For a base model of another architecture (`--model`, see `transplant`)."""
FULL = Profile(
    name="full",
    customer=STANDARD.customer,
    second=STANDARD.second,
    held_out=STANDARD.held_out,
    cells=_full,
)
"""For a GPU and models of billions of weights."""
PROFILES = {profile.name: profile for profile in (QUICK, BARS, STANDARD, IDEAS_PROFILE, OTHER, FULL)}
