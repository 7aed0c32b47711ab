"""The evidence of a sequential audit, mark by mark: a small chart on a logarithmic scale."""

from __future__ import annotations

from fractions import Fraction
from math import ceil, floor
from typing import Any

from dashboard import wording
from dashboard.curve import AXIS_COLOR, GRID_COLOR, LOSS_COLOR
from dashboard.records import Look, log10_of

LINE_COLOR = "#e8953a"


def product_options(looks: tuple[Look, ...], *, line: Fraction) -> dict[str, Any]:
    """ECharts options: the product after each completed mark, from 1 on, and the line that ends the audit.

    The axis holds powers of ten, because a product may be smaller than any number a browser knows. Both
    series are always there: ECharts merges options by position.

    Args:
        line: 1/alpha_i.
    """
    goal = log10_of(line)
    heights = [0.0, *(look.height for look in looks)]
    last = max(len(looks), 1)
    return {
        "animation": False,
        "textStyle": {"fontFamily": "Inter, Roboto, system-ui, sans-serif"},
        "grid": {"left": 52, "right": 18, "top": 24, "bottom": 42},
        "legend": {"show": False},
        "tooltip": {
            "trigger": "item",
            "confine": True,
            "formatter": "{b}",
            "backgroundColor": "rgba(20,24,33,0.94)",
            "borderWidth": 0,
            "textStyle": {"color": "#fff", "fontSize": 12},
        },
        "xAxis": {
            "type": "value",
            "name": "completed marks",
            "nameLocation": "middle",
            "nameGap": 26,
            "nameTextStyle": {"color": AXIS_COLOR},
            "min": 0,
            "max": last,
            "minInterval": 1,
            "axisLine": {"lineStyle": {"color": GRID_COLOR}},
            "axisTick": {"show": False},
            "axisLabel": {"color": AXIS_COLOR, "hideOverlap": True},
            "splitLine": {"show": False},
        },
        "yAxis": {
            "type": "value",
            "min": floor(min(heights)),
            "max": ceil(max(goal, *heights) + 0.2),
            "minInterval": 1,
            "axisLine": {"show": False},
            "axisTick": {"show": False},
            "axisLabel": {"color": AXIS_COLOR, "formatter": "1e{value}"},
            "splitLine": {"lineStyle": {"color": GRID_COLOR}},
        },
        "series": [
            {
                "name": "product of e-values",
                "type": "line",
                "data": [
                    {"value": [0, 0.0], "name": "before the first mark: 1", "symbolSize": 0},
                    *(_point(number, look) for number, look in enumerate(looks, start=1)),
                ],
                "symbol": "circle",
                "symbolSize": 8,
                "lineStyle": {"width": 2, "color": LOSS_COLOR},
                "itemStyle": {"color": LOSS_COLOR},
            },
            {
                "name": "enough",
                "type": "line",
                "data": [
                    {"value": [0, goal], "name": f"enough: {wording.evidence(line)}"},
                    {"value": [last, goal], "name": f"enough: {wording.evidence(line)}"},
                ],
                "showSymbol": False,
                "lineStyle": {"width": 2, "type": "dashed", "color": LINE_COLOR},
                "itemStyle": {"color": LINE_COLOR},
            },
        ],
    }


def _point(number: int, look: Look) -> dict[str, Any]:
    factor = f", times {wording.evidence(look.factor)}" if look.factor is not None else ""
    return {
        "value": [number, round(look.height, 4)],
        "name": f"mark {wording.NOTHING if look.mark is None else look.mark}{factor}: "
        f"{wording.evidence(look.product)}",
    }
