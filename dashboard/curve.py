"""The loss curve: from a job's events to a chart of bounded size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dashboard.records import Event

MAX_POINTS = 600
"""More can't be told apart on a screen, and each poll sends them all."""

LOSS_COLOR = "#6d5ef6"
RATE_COLOR = "#e8953a"
AXIS_COLOR = "#8b93a3"
GRID_COLOR = "rgba(139,147,163,0.18)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One training step."""

    step: int
    train_loss: float | None
    learning_rate: float | None


def curve(newest_first: Iterable[Event]) -> list[Point]:
    """The steps of the latest attempt, by step.

    A job whose worker died starts again at an earlier step: points that the new attempt passes
    again are replaced by its own.
    """
    points: list[Point] = []
    for event in reversed(list(newest_first)):
        if event.type != "metrics" or event.step is None:
            continue
        while points and points[-1].step >= event.step:
            points.pop()
        points.append(Point(step=event.step, train_loss=event.train_loss, learning_rate=event.learning_rate))
    return points


def thinned(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """At most ``limit`` of the points, evenly spread, the first and the newest among them."""
    if len(points) <= limit:
        return list(points)
    last = len(points) - 1
    return [points[round(index * last / (limit - 1))] for index in range(limit)]


def chart_options(points: Sequence[Point], *, learning_rate: bool) -> dict[str, Any]:
    """ECharts options: the loss, and on demand the learning rate on an axis of its own.

    The colours are legible on a light and on a dark ground, so that the chart needs no redrawing
    when the theme changes. Both series are always there: ECharts merges options by position.
    """
    return {
        "animation": False,
        "textStyle": {"fontFamily": "Inter, Roboto, system-ui, sans-serif"},
        "grid": {
            "left": 52,
            "right": 62 if learning_rate else 18,
            "top": 34 if learning_rate else 12,
            "bottom": 42,
        },
        "legend": {"show": False},
        "tooltip": {
            "trigger": "axis",
            "confine": True,
            "backgroundColor": "rgba(20,24,33,0.94)",
            "borderWidth": 0,
            "textStyle": {"color": "#fff", "fontSize": 12},
        },
        "xAxis": {
            "type": "value",
            "name": "step",
            "nameLocation": "middle",
            "nameGap": 26,
            "nameTextStyle": {"color": AXIS_COLOR},
            "min": "dataMin",
            "max": "dataMax",
            "minInterval": 1,
            "axisLine": {"lineStyle": {"color": GRID_COLOR}},
            "axisTick": {"show": False},
            "axisLabel": {"color": AXIS_COLOR, "hideOverlap": True},
            "splitLine": {"show": False},
        },
        "yAxis": [
            _axis("", scale=True, grid=True),
            {**_axis("learning rate", scale=True, grid=False), "show": learning_rate},
        ],
        "series": [
            {
                **_line("training loss", LOSS_COLOR, [[p.step, p.train_loss] for p in points]),
                "areaStyle": {"color": LOSS_COLOR, "opacity": 0.09},
            },
            {
                **_line(
                    "learning rate",
                    RATE_COLOR,
                    [[p.step, p.learning_rate] for p in points] if learning_rate else [],
                ),
                "yAxisIndex": 1,
            },
        ],
    }


def _axis(name: str, *, scale: bool, grid: bool) -> dict[str, Any]:
    return {
        "type": "value",
        "name": name,
        "nameTextStyle": {"color": AXIS_COLOR, "align": "left" if grid else "right"},
        "scale": scale,
        "axisLine": {"show": False},
        "axisTick": {"show": False},
        "axisLabel": {"color": AXIS_COLOR},
        "splitLine": {"show": grid, "lineStyle": {"color": GRID_COLOR}},
    }


def _line(name: str, color: str, data: list[list[float | int | None]]) -> dict[str, Any]:
    return {
        "name": name,
        "type": "line",
        "data": data,
        "showSymbol": len(data) < 2,
        "symbolSize": 6,
        "connectNulls": True,
        "lineStyle": {"width": 2, "color": color},
        "itemStyle": {"color": color},
    }
