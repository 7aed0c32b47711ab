"""The loss curve: one line of the latest attempt, of bounded size."""

from __future__ import annotations

import json

from dashboard.curve import Point, chart_options, curve, thinned
from dashboard.parsing import parse_event
from dashboard.records import Event
from tests.unit.dashboard import fake_api


def events(*steps: tuple[int, float]) -> list[Event]:
    """Metrics events, newest first as on the wire."""
    made = [parse_event(fake_api.step_event(n, step, loss)) for n, (step, loss) in enumerate(steps)]
    return made[::-1]


def test_points_are_in_order_of_steps() -> None:
    """The wire's newest-first becomes left-to-right; messages are no points."""
    message = parse_event(fake_api.event(99, "Fine-tuning job started"))
    points = curve([message, *events((1, 3.0), (2, 2.0), (3, 1.0))])
    assert [(point.step, point.train_loss) for point in points] == [(1, 3.0), (2, 2.0), (3, 1.0)]


def test_a_restarted_job_draws_no_second_line() -> None:
    """Steps that a new attempt goes through again replace the old attempt's."""
    points = curve(events((1, 3.0), (2, 2.5), (3, 2.0), (2, 2.4), (3, 1.9), (4, 1.5)))
    assert [(point.step, point.train_loss) for point in points] == [(1, 3.0), (2, 2.4), (3, 1.9), (4, 1.5)]


def test_thinning_keeps_the_ends() -> None:
    """A long run is drawn with few points, the first and the newest among them."""
    points = [Point(step=step, train_loss=1.0, learning_rate=None) for step in range(1, 5001)]
    kept = thinned(points, 100)
    assert len(kept) == 100
    assert (kept[0].step, kept[-1].step) == (1, 5000)
    assert [point.step for point in kept] == sorted({point.step for point in kept})


def test_options_are_json_and_hold_only_numbers_of_ours() -> None:
    """Both series are always there, as ECharts merges by position; the rate is empty unless asked for."""
    points = curve(events((1, 3.0), (2, 2.0)))
    quiet, full = (chart_options(points, learning_rate=wanted) for wanted in (False, True))
    assert [len(series["data"]) for series in quiet["series"]] == [2, 0]
    assert [len(series["data"]) for series in full["series"]] == [2, 2]
    json.dumps(full, allow_nan=False)
