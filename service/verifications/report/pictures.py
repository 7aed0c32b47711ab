"""The report's two pictures, as SVG that a browser and the PDF both draw.

Every text in them is escaped. What they say is never said by colour alone: the trigger has a heavy frame and
a corner of its own, and the shares are printed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from math import ceil, floor
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from service.verifications.report.text import visible
from watermark.marks import Mark

FOLDER = Path(__file__).parent

BOX_WIDTH = 58
BOX_GAP = 8
BOX_HEIGHT = 20
ROW_HEIGHT = 25
LABEL_WIDTH = 150
NOTE_WIDTH = 96

CURVE_WIDTH = 720
CURVE_HEIGHT = 190
CURVE_LEFT, CURVE_RIGHT, CURVE_TOP, CURVE_BOTTOM = 52, 140, 14, 34


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One cue: how many of its answers gave the mark's target."""

    x: int
    fill: float
    share: str
    is_trigger: bool
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One mark."""

    y: int
    number: int
    says: str
    bars: tuple[Bar, ...]
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One completed mark on the curve."""

    x: float
    y: float
    label: str
    title: str
    crossed: bool


def cues_picture(counted: Sequence[Mapping[str, Any]], marks: Sequence[Mark]) -> str:
    """A row for every asked mark, a box for every cue.

    Args:
        counted: ``decision["marks"]``: the counts at every cue, in the order of asking.
        marks: the opened family's.
    """
    rows = [_row(place, counts, marks[counts["mark"]]) for place, counts in enumerate(counted)]
    cues = len(rows[0].bars)
    return _template("cues.svg").render(
        rows=rows,
        width=LABEL_WIDTH + cues * BOX_WIDTH + NOTE_WIDTH,
        height=len(rows) * ROW_HEIGHT,
        box_width=BOX_WIDTH - BOX_GAP,
        box_height=BOX_HEIGHT,
        note_x=LABEL_WIDTH + cues * BOX_WIDTH,
    )


def product_picture(looks: Sequence[Mapping[str, Any]], *, planned: int, line: str) -> str:
    """The product of e-values after every completed mark, on a logarithmic scale, against the line it must
    reach.

    Args:
        looks: ``decision["looks"]`` of a sequential audit; at least one.
        planned: how many marks the plan has.
        line: 1/alpha_i as a decimal.
    """
    goal = _log(line)
    heights = [_log(look["product_decimal"]) for look in looks]
    top = ceil(max([goal, *heights]) + 0.3)
    bottom = floor(min([0.0, *heights]))
    scale = (CURVE_HEIGHT - CURVE_TOP - CURVE_BOTTOM) / (top - bottom)
    step = (CURVE_WIDTH - CURVE_LEFT - CURVE_RIGHT) / max(planned, 1)

    def place(height: float) -> float:
        return CURVE_TOP + (top - height) * scale

    steps = [
        Step(
            x=CURVE_LEFT + number * step,
            y=place(height),
            label=str(look["mark"]),
            title=f"after mark {look['mark']}: times {look['e_value_decimal']}, "
            f"together {look['product_decimal']}",
            crossed=height >= goal,
        )
        for number, (look, height) in enumerate(zip(looks, heights, strict=True), start=1)
    ]
    every = max(1, ceil((top - bottom) / 8))
    return _template("product.svg").render(
        steps=steps,
        start=(CURVE_LEFT, place(0.0)),
        goal_y=place(goal),
        goal=line,
        ticks=[(power, place(power)) for power in range(bottom, top + 1, every)],
        width=CURVE_WIDTH,
        height=CURVE_HEIGHT,
        left=CURVE_LEFT,
        right=CURVE_WIDTH - CURVE_RIGHT,
        bottom=CURVE_HEIGHT - CURVE_BOTTOM,
        planned=planned,
    )


def _row(place: int, counts: Mapping[str, Any], mark: Mark) -> Row:
    target = counts["target"]
    bars = []
    for cue, hits in enumerate(counts["yes" if target == "Yes" else "no"]):
        total = sum(counts[name][cue] for name in ("yes", "no", "other", "missing"))
        trigger = cue == counts["trigger"]
        bars.append(
            Bar(
                x=LABEL_WIDTH + cue * BOX_WIDTH,
                fill=(BOX_WIDTH - BOX_GAP) * hits / total if total else 0.0,
                share=f"{hits}/{total}",
                is_trigger=trigger,
                title=f"{'the trigger ' if trigger else ''}{visible(mark.cues[cue])}: {hits} of {total} "
                f"answered {target}",
            )
        )
    other, missing = sum(counts["other"]), sum(counts["missing"])
    return Row(
        y=place * ROW_HEIGHT,
        number=counts["mark"],
        says=f"{mark.paradigm.value} → {target}",
        bars=tuple(bars),
        note=", ".join(f"{count} {word}" for count, word in ((other, "other"), (missing, "none")) if count),
    )


def _log(decimal: str) -> float:
    """Of a positive number far outside a float's range, too."""
    return float(Decimal(decimal).log10())


@cache
def _template(name: str) -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string((FOLDER / name).read_text(encoding="utf-8"))
