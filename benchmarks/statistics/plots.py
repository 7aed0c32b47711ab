"""The simulations as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from math import log10
from pathlib import Path

from benchmarks.statistics.errors import ALPHAS, PAPER, Rate
from benchmarks.statistics.power import Power
from benchmarks.svg import COLOURS, Canvas

TEST_COLOURS = {
    "fixed": "#1f5fa8",
    "sequential": "#d1731a",
    "stratified Fisher": "#8a8a8a",
    "pooled Fisher": "#b3332e",
    PAPER: "#6d1611",
}
LOWEST, HIGHEST = -2.0, 3.0
"""Decades of realised / nominal rate that are shown."""


def plot_rates(rates: Sequence[Rate], path: Path) -> None:
    """Realised over nominal rate for every suspect and test, one panel per alpha, with 95% intervals."""
    suspects = list(dict.fromkeys(rate.suspect for rate in rates))
    left, top, step, panel, gap = 250.0, 86.0, 25.0, 250.0, 34.0
    width, height = left + len(ALPHAS) * (panel + gap), top + step * len(suspects) + 56
    canvas = Canvas(width, height, "False positives of innocent suspects: realised rate / alpha")
    for place, (test, colour) in enumerate(TEST_COLOURS.items()):
        canvas.dot(60 + 150 * place, 44, colour, filled="Fisher" not in test)
        canvas.text(69 + 150 * place, 48, test)
    bottom = top + step * len(suspects)
    for row, suspect in enumerate(suspects):
        canvas.text(left - 14, top + step * (row + 0.5) + 4, suspect, anchor="end")
    for column, alpha in enumerate(ALPHAS):
        start = left + column * (panel + gap)

        def at(ratio: float, start: float = start) -> float:
            decades = LOWEST if ratio <= 0 else min(max(log10(ratio), LOWEST), HIGHEST)
            return start + (decades - LOWEST) / (HIGHEST - LOWEST) * panel

        canvas.text(start + panel / 2, top - 12, f"alpha = {alpha:g}", anchor="middle", weight="bold")
        for decade in range(int(LOWEST), int(HIGHEST) + 1):
            nominal = decade == 0
            x = at(10.0**decade)
            canvas.line(
                x, top, x, bottom, colour="#222" if nominal else "#e3e3e3", dash="4 3" if nominal else ""
            )
            label = "≤ .01" if decade == LOWEST else f"{10.0**decade:g}"
            canvas.text(x, bottom + 16, label, anchor="middle", size=10, colour="#555")
        for row, suspect in enumerate(suspects):
            if column == 0 or row % 2:
                canvas.line(
                    start, top + step * (row + 1), start + panel, top + step * (row + 1), colour="#f1f1f1"
                )
            shown = [rate for rate in rates if rate.suspect == suspect and rate.alpha == alpha]
            for rate in shown:
                lane = list(TEST_COLOURS).index(rate.test)
                y = top + step * row + 4.5 + lane * (step - 9) / 4
                colour = TEST_COLOURS[rate.test]
                canvas.line(at(rate.low / alpha), y, at(rate.high / alpha), y, colour=colour, width=1.6)
                canvas.dot(at(rate.rate / alpha), y, colour, filled="Fisher" not in rate.test, radius=2.8)
    note = "Bars: 95% intervals; keys drawn after the answers. Left of the dashed line: rarer than alpha."
    canvas.text(left, bottom + 40, note, size=11, colour="#555")
    canvas.write(path)


def _frame(
    canvas: Canvas,
    start: float,
    top: float,
    width: float,
    height: float,
    ticks: Sequence[float],
    low: float,
    high: float,
    label: str,
) -> None:
    for tenth in range(0, 11, 2):
        y = top + height * (1 - tenth / 10)
        canvas.line(start, y, start + width, y)
        canvas.text(start - 8, y + 4, f"{tenth / 10:g}", anchor="end", size=10, colour="#555")
    for tick in ticks:
        x = start + (tick - low) / (high - low) * width
        canvas.line(x, top + height, x, top + height + 4, colour="#888")
        canvas.text(x, top + height + 17, f"{tick:g}", anchor="middle", size=10, colour="#555")
    canvas.text(start + width / 2, top + height + 36, label, anchor="middle", colour="#555")


def _legend(canvas: Canvas, names: Sequence[str], x: float, y: float) -> None:
    for place, name in enumerate(names):
        canvas.line(x, y + 20 * place, x + 18, y + 20 * place, colour=COLOURS[place], width=3)
        canvas.text(x + 25, y + 20 * place + 4, name)


def plot_power(found: Sequence[Power], path: Path) -> None:
    """Power of the fixed test at 1e-6 against the number of marks, 8 cues, one panel per probe count."""
    shown = [one for one in found if one.cues == 8]
    names = list(dict.fromkeys(one.suspect for one in shown))
    low, high = (float(limit) for limit in (min(one.marks for one in shown), max(one.marks for one in shown)))
    panel, height, top = 250.0, 250.0, 76.0
    canvas = Canvas(
        3 * (panel + 54) + 190, top + height + 60, "Power at alpha 1e-6 of the exact test, 8 cues a mark"
    )
    for column, probes in enumerate((1, 2, 3)):
        start = 48 + column * (panel + 54)
        ticks = sorted({float(one.marks) for one in shown})
        _frame(canvas, start, top, panel, height, ticks, low, high, "marks")
        words = f"{probes} probe{'s' if probes > 1 else ''} a cue"
        canvas.text(start + panel / 2, top - 12, words, anchor="middle", weight="bold")
        for place, name in enumerate(names):
            curve = sorted((o.marks, o.fixed) for o in shown if o.suspect == name and o.probes == probes)
            points = [
                (start + (marks - low) / (high - low) * panel, top + height * (1 - power))
                for marks, power in curve
            ]
            canvas.path(points, COLOURS[place])
            for x, y in points:
                canvas.dot(x, y, COLOURS[place], radius=2.4)
    _legend(canvas, names, 3 * (panel + 54) + 20, top + 10)
    canvas.write(path)


def plot_stopping(found: Sequence[Power], path: Path) -> None:
    """Share of sequential audits that have stopped, mark by mark: 16 marks, 8 cues, 2 probes."""
    shown = [one for one in found if (one.marks, one.cues, one.probes) == (16, 8, 2)]
    panel, height, top, start = 560.0, 300.0, 60.0, 60.0
    canvas = Canvas(panel + 260, top + height + 60, "Sequential audits that have reached 1/alpha = 1e6")
    _frame(canvas, start, top, panel, height, list(range(0, 17, 2)), 0, 16, "marks asked (8 cues, 2 probes)")
    for place, one in enumerate(shown):
        points = [(start, top + height)]
        for mark, share in enumerate(one.stopped, 1):
            x = start + mark / 16 * panel
            points += [(x, points[-1][1]), (x, top + height * (1 - share))]
        canvas.path(points, COLOURS[place])
    canvas.line(start, top + height / 2, start + panel, top + height / 2, colour="#888", dash="4 3")
    _legend(canvas, [one.suspect for one in shown], start + panel + 24, top + 10)
    canvas.write(path)
