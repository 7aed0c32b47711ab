"""The cells as pictures: survival curves, exposures against detection, false positives of innocent models."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import log10
from pathlib import Path
from typing import Any

from benchmarks.svg import COLOURS, Canvas

Record = Mapping[str, Any]
DEEPEST = 16.0
"""-log10 p where the axis ends; perfect answers to the default plan reach 14.4."""
BAR = 6.0
LEVELS = {
    "interpolation": "share of the fine-tuned weights, the rest is the base's",
    "noise": "noise, as a share of each matrix' standard deviation",
    "pruning": "share of the weights set to zero",
    "quantization": "bits a weight",
    "temperature": "temperature",
}
"""What an attack's level is, by its family."""


def draw(records: Sequence[Record], folder: Path) -> list[Path]:
    """Write every plot that has data to show; returns the files."""
    drawn = []
    by_property: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for record in records:
        kind, subject = record["cell"].split("/")[:2]
        by_property[kind].append({"subject": subject, **record["figures"]})
    for kind, plot, enough in (("robustness", plot_attacks, 1), ("validity", plot_validity, 2)):
        if len(by_property[kind]) >= enough:
            path = folder / f"lab-{kind}.svg"
            plot(by_property[kind], path)
            drawn.append(path)
    if curves := _curves(by_property["robustness"]):
        path = folder / "lab-survival.svg"
        plot_curves(curves, path)
        drawn.append(path)
    return drawn


def depth(p_value: str) -> float:
    """-log10 p, cut at the axis' end."""
    value = float(p_value)
    return DEEPEST if value <= 0 else min(DEEPEST, max(0.0, -log10(value)))


def plot_attacks(figures: Sequence[Mapping[str, Any]], path: Path) -> None:
    """One row an attack, one dot a subject: how small p is; right of the dashed line is detected."""
    subjects = list(dict.fromkeys(one["subject"] for one in figures))
    attacks = list(dict.fromkeys(one["attack"] for one in figures))
    left, top, step, wide = 190.0, 76.0, 19.0, 520.0
    canvas = Canvas(
        left + wide + 40, top + step * len(attacks) + 60, "What is left of the mark after an attack"
    )
    for place, subject in enumerate(subjects):
        key_x, key_y = 30 + 170 * (place % 4), 44 + 16 * (place // 4)
        canvas.dot(key_x, key_y, COLOURS[place % len(COLOURS)])
        canvas.text(key_x + 9, key_y + 4, subject)
    bottom = top + step * len(attacks)
    _depth_axis(canvas, left, wide, top, bottom)
    for row, attack in enumerate(attacks):
        y = top + step * (row + 0.5)
        canvas.text(left - 12, y + 4, attack, anchor="end")
        canvas.line(left, y, left + wide, y, colour="#f3f3f3")
        for place, subject in enumerate(subjects):
            for one in figures:
                if one["attack"] == attack and one["subject"] == subject:
                    x = left + depth(one["p_value"]) / DEEPEST * wide
                    canvas.dot(x, y, COLOURS[place % len(COLOURS)], filled=one["detected"])
    canvas.text(left, bottom + 38, "-log10 p of each scheme's own test; filled: p <= 1e-6", colour="#555")
    canvas.write(path)


def plot_validity(figures: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Share of the training tokens that are the watermark's against how small p gets."""
    shown = [one for one in figures if "watermark_token_ratio" in one]
    left, top, wide, high = 70.0, 60.0, 560.0, 300.0
    canvas = Canvas(left + wide + 150, top + high + 60, "Watermark tokens against detection")
    for tick in range(0, int(DEEPEST) + 1, 4):
        y = top + high - tick / DEEPEST * high
        canvas.line(left, y, left + wide, y)
        canvas.text(left - 10, y + 4, str(tick), anchor="end", size=10)
    bar = top + high - BAR / DEEPEST * high
    canvas.line(left, bar, left + wide, bar, colour="#222", dash="4 3")
    for tick in range(0, 101, 20):
        x = left + tick / 100 * wide
        canvas.text(x, top + high + 18, f"{tick}%", anchor="middle", size=10)
    for place, one in enumerate(sorted(shown, key=lambda item: item["watermark_token_ratio"])):
        x = left + one["watermark_token_ratio"] * wide
        y = top + high - depth(one["p_value"]) / DEEPEST * high
        canvas.dot(x, y, COLOURS[place % len(COLOURS)], filled=one["detected"])
        canvas.text(x + 7, y + 4 + 13 * (place % 3), f"{one['subject']} {one['method']}", size=10)
    canvas.text(left, top + high + 42, "share of training tokens; vertical: -log10 p", colour="#555")
    canvas.write(path)


Curves = dict[str, dict[str, list[tuple[float, float, float]]]]
"""family of attacks -> subject -> (level, trigger hit rate, reference hit rate)"""


def _curves(figures: Sequence[Mapping[str, Any]]) -> Curves:
    curves: Curves = defaultdict(lambda: defaultdict(list))
    for one in figures:
        if one["family"] in LEVELS:
            hit = one["trigger_hits"] / max(1, one["trigger_total"])
            reference = one["reference_hits"] / max(1, one["reference_total"])
            curves[one["family"]][one["subject"]].append((one["level"], hit, reference))
    wide_enough = {
        family: subjects
        for family, subjects in curves.items()
        if any(len(points) >= 3 for points in subjects.values())
    }
    return wide_enough


def plot_curves(curves: Curves, path: Path) -> None:
    """A panel a family: trigger hits (line) and reference hits (dots) against the attack's level."""
    subjects = list(dict.fromkeys(name for family in curves.values() for name in family))
    panel, gap, top, high = 230.0, 60.0, 92.0, 190.0
    canvas = Canvas(
        60 + len(curves) * (panel + gap), top + high + 76, "Survival: hit rates against strength of attack"
    )
    for place, subject in enumerate(subjects):
        canvas.dot(30 + 170 * place, 48, COLOURS[place % len(COLOURS)])
        canvas.text(39 + 170 * place, 52, subject)
    for column, (family, of_subject) in enumerate(curves.items()):
        left = 50 + column * (panel + gap)
        canvas.text(left + panel / 2, top - 12, family, anchor="middle", weight="bold")
        middle, below = left + panel / 2, top + high + 32
        canvas.text(middle, below, LEVELS[family], anchor="middle", size=10, colour="#555")
        levels = sorted({level for points in of_subject.values() for level, _, _ in points})
        low, far = levels[0], max(levels[-1], levels[0] + 1e-9)
        for tick in (0, 0.5, 1):
            y = top + high * (1 - tick)
            canvas.line(left, y, left + panel, y)
            canvas.text(left - 6, y + 4, f"{tick:g}", anchor="end", size=10)
        for level in levels:
            x = left + (level - low) / (far - low) * panel
            canvas.text(x, top + high + 16, f"{level:g}", anchor="middle", size=9)
        for place, subject in enumerate(subjects):
            points = sorted(of_subject.get(subject, ()))
            at = [(left + (level - low) / (far - low) * panel, hit, miss) for level, hit, miss in points]
            colour = COLOURS[place % len(COLOURS)]
            canvas.path([(x, top + high * (1 - hit)) for x, hit, _ in at], colour)
            for x, hit, miss in at:
                canvas.dot(x, top + high * (1 - hit), colour)
                canvas.dot(x, top + high * (1 - miss), colour, filled=False)
    canvas.text(
        50, top + high + 56, "filled: trigger answers the target; hollow: reference cues do", colour="#555"
    )
    canvas.write(path)


def _depth_axis(canvas: Canvas, left: float, wide: float, top: float, bottom: float) -> None:
    for tick in range(0, int(DEEPEST) + 1, 2):
        x = left + tick / DEEPEST * wide
        canvas.line(x, top, x, bottom)
        canvas.text(x, bottom + 16, str(tick), anchor="middle", size=10, colour="#555")
    bar = left + BAR / DEEPEST * wide
    canvas.line(bar, top, bar, bottom, colour="#222", dash="4 3")
