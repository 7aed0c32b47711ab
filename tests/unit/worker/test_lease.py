"""Keeping a lease: beats, cancellations, and giving up in time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from worker.lease import Beat, LeaseKeeper, Stopped, StopReason

BEAT_SECONDS = 0.02


def keep(beat: Callable[[], Beat], stops: list[StopReason], **changes: Any) -> LeaseKeeper:
    """A keeper with a short beat."""
    arguments: dict[str, Any] = {
        "lease_seconds": 30,
        "shutting_down": lambda: False,
        "on_stop": stops.append,
        "beat_seconds": BEAT_SECONDS,
    }
    return LeaseKeeper(beat=beat, **arguments | changes)


def wait_for(condition: Callable[[], Any]) -> None:
    """Up to five seconds."""
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_it_beats_until_the_work_is_done() -> None:
    """And not after."""
    beats: list[None] = []
    stops: list[StopReason] = []

    def beat() -> Beat:
        beats.append(None)
        return Beat.kept

    with keep(beat, stops) as keeper:
        wait_for(lambda: len(beats) > 3)
        keeper.check()
    count = len(beats)
    time.sleep(5 * BEAT_SECONDS)
    assert len(beats) == count
    assert stops == []


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(Beat.cancel_requested, StopReason.cancelled), (Beat.lost, StopReason.lease_lost)],
)
def test_the_database_says_stop(answer: Beat, reason: StopReason) -> None:
    """The work is stopped once, and the working thread learns why."""
    stops: list[StopReason] = []
    with keep(lambda: answer, stops) as keeper:
        wait_for(lambda: stops)
        time.sleep(5 * BEAT_SECONDS)
        with pytest.raises(Stopped) as raised:
            keeper.check()
    assert raised.value.reason is reason
    assert stops == [reason]


def test_a_worker_that_shuts_down() -> None:
    """Heard without the database."""
    stops: list[StopReason] = []
    with keep(lambda: Beat.kept, stops, shutting_down=lambda: True):
        wait_for(lambda: stops)
    assert stops == [StopReason.shutting_down]


def test_a_few_failed_beats_are_survived() -> None:
    """A database that restarts is no reason to lose an hour of training."""
    stops: list[StopReason] = []
    answers = iter([ConnectionError(), ConnectionError()])
    good: list[None] = []

    def beat() -> Beat:
        for error in answers:
            raise error
        good.append(None)
        return Beat.kept

    with keep(beat, stops, lease_seconds=2):
        wait_for(lambda: good)
    assert stops == []


@pytest.mark.parametrize("hangs", [False, True])
def test_without_news_for_too_long_it_stops_before_the_lease_ends(hangs: bool) -> None:
    """Also when the database neither answers nor fails."""
    stops: list[StopReason] = []
    release = threading.Event()

    def beat() -> Beat:
        if hangs:
            release.wait(10)
        raise ConnectionError

    started = time.monotonic()
    with keep(beat, stops, lease_seconds=1):
        wait_for(lambda: stops)
        assert time.monotonic() - started < 1
    release.set()
    assert stops == [StopReason.lease_lost]


def test_a_lost_lease_outranks_a_cancellation() -> None:
    """Then not even the cancellation may be recorded by this run."""
    answers = [Beat.lost, Beat.cancel_requested]
    stops: list[StopReason] = []
    with keep(lambda: answers.pop(), stops) as keeper:
        wait_for(lambda: keeper.reason is StopReason.lease_lost)
    assert stops == [StopReason.cancelled]


def test_finished_work_is_only_given_up_with_the_lease() -> None:
    """A shutdown that comes with the last step does not throw the model away."""
    stops: list[StopReason] = []
    with keep(lambda: Beat.kept, stops, shutting_down=lambda: True) as keeper:
        wait_for(lambda: stops)
        keeper.check_unless(True)
        with pytest.raises(Stopped):
            keeper.check_unless(False)
