"""The evidence of a sequential audit on a chart: logarithmic, and never without its line."""

from __future__ import annotations

import json
from fractions import Fraction

from dashboard.parsing import parse_verification
from dashboard.product_curve import product_options
from dashboard.records import Look
from tests.unit.dashboard import fake_api

LINE = Fraction(2_000_000)


def looks(*products: str) -> tuple[Look, ...]:
    """As they come from the API."""
    return parse_verification(fake_api.sequential(1, None, *products)).looks


def test_the_product_starts_at_one_and_has_a_point_for_every_mark() -> None:
    product, line = product_options(looks("10", "1.00e+03"), line=LINE)["series"]
    assert [point["value"] for point in product["data"]] == [[0, 0.0], [1, 1.0], [2, 3.0]]
    assert [round(point["value"][1], 3) for point in line["data"]] == [6.301, 6.301]
    assert product["data"][2]["name"] == "mark 3, times 11.4: 1\N{THIN SPACE}000"


def test_everything_is_within_the_axis() -> None:
    """Also a product far below 1 and one far above the line."""
    for products in (("1e-5",), ("1e-400",), ("1e12",), ()):
        options = product_options(looks(*products), line=LINE)
        axis = options["yAxis"]
        heights = [point["value"][1] for series in options["series"] for point in series["data"]]
        assert axis["min"] <= min(heights)
        assert max(heights) <= axis["max"]


def test_the_options_are_json() -> None:
    """They travel to a browser."""
    assert json.loads(json.dumps(product_options(looks("10"), line=LINE), allow_nan=False))
