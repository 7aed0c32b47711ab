"""The doorbell when nobody is there to hear it."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from service.dispatch import QUEUES, TASK_ROUTES, Dispatcher, DispatchError, TaskName

LIMIT_SECONDS = 2
"""A ring promises about one; the machine of a test may be busy."""


def test_every_task_has_a_queue() -> None:
    """Of its own: an audit never waits behind a training."""
    assert set(QUEUES) == set(TaskName)
    assert len(set(QUEUES.values())) == len(QUEUES)
    assert {name: route["queue"] for name, route in TASK_ROUTES.items()} == QUEUES


def test_a_broker_that_is_away_is_an_error_soon(tmp_path: Path) -> None:
    """No retry in the request; the reaper does that."""
    dispatcher = Dispatcher(f"redis+socket://{tmp_path}/none?virtual_host=0")
    for call in (
        lambda: dispatcher.ring(TaskName.finetune_run, "x"),
        lambda: dispatcher.waiting(TaskName.verify_run),
    ):
        started = time.monotonic()
        with pytest.raises(DispatchError):
            call()
        assert time.monotonic() - started < LIMIT_SECONDS


def test_a_broker_that_hangs_is_an_error_soon_and_the_next_ring_fails_at_once() -> None:
    """It accepts the connection and never answers: requests must not queue up behind it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        dispatcher = Dispatcher(f"redis://127.0.0.1:{server.getsockname()[1]}/0")
        started = time.monotonic()
        with pytest.raises(DispatchError):
            dispatcher.ring(TaskName.finetune_run, "x")
        assert time.monotonic() - started < LIMIT_SECONDS
        started = time.monotonic()
        with pytest.raises(DispatchError):
            dispatcher.ring(TaskName.finetune_run, "x")
        assert time.monotonic() - started < 0.2
