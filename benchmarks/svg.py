"""Plots as plain SVG: no plotting library is needed for points, lines and labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

COLOURS = (
    "#1f5fa8",
    "#d1731a",
    "#2d8a57",
    "#8b4fa0",
    "#b3332e",
    "#6b6b6b",
    "#b99a1d",
    "#1a8f98",
    "#d05a92",
    "#5b6fd6",
    "#3a3a3a",
)


class Canvas:
    """An SVG document, written piece by piece."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self._head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
            f'height="{height:g}" font-family="system-ui, sans-serif" font-size="12">'
            f"<title>{escape(title)}</title>"
        )
        self._parts = [f'<rect width="{width:g}" height="{height:g}" fill="white"/>']
        self.text(16, 24, title, size=15, weight="bold")

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        anchor: str = "start",
        size: int = 12,
        colour: str = "#222",
        weight: str = "normal",
    ) -> None:
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}" '
            f'font-weight="{weight}">{escape(words)}</text>'
        )

    def line(
        self,
        x1: float,
        y1: float,
        x2: float,
        y2: float,
        *,
        colour: str = "#ddd",
        width: float = 1,
        dash: str = "",
    ) -> None:
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self._parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
            f'stroke-width="{width:g}"{dashes}/>'
        )

    def dot(self, x: float, y: float, colour: str, *, filled: bool = True, radius: float = 3.2) -> None:
        fill = colour if filled else "white"
        self._parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" fill="{fill}" stroke="{colour}" '
            'stroke-width="1.3"/>'
        )

    def path(self, points: Sequence[tuple[float, float]], colour: str) -> None:
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._parts.append(f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2"/>')

    def write(self, path: Path) -> None:
        path.write_text("\n".join([self._head, *self._parts, "</svg>"]) + "\n", encoding="utf-8")
