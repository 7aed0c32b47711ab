"""Every line is JSON, and no exception's text is in one."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from service import logs

SECRET = "zanzibar-in-an-exception"


@pytest.fixture(autouse=True)
def configured() -> Iterator[None]:
    """As a process of the service is, and as it was afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    logs.configure()
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)
    structlog.contextvars.clear_contextvars()


def said(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """What was logged."""
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_library_s_line_has_our_form_and_the_request_s_id(capsys: pytest.CaptureFixture[str]) -> None:
    structlog.contextvars.bind_contextvars(request_id="req-1", job_id="ftjob-1")
    logging.getLogger("celery.worker").warning("lost the broker at %s", "noon")
    structlog.get_logger().info("job.claimed", attempt=2)
    theirs, ours = said(capsys)
    assert theirs["event"] == "lost the broker at noon"
    assert (theirs["logger"], theirs["level"]) == ("celery.worker", "warning")
    for line in (theirs, ours):
        assert (line["request_id"], line["job_id"]) == ("req-1", "ftjob-1")
        assert line["timestamp"].endswith("Z")
    assert ours["attempt"] == 2


def test_an_exception_is_its_type_and_frames(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise ValueError(SECRET)
    except ValueError:
        logging.getLogger("asyncio").exception("it failed")
    (line,) = said(capsys)
    assert (line["event"], line["error"]) == ("it failed", "ValueError")
    assert any("test_an_exception_is_its_type_and_frames" in frame for frame in line["frames"])
    assert SECRET not in json.dumps(line)


def test_what_is_below_warning_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("httpcore").info("chatter")
    assert said(capsys) == []


def test_a_warning_of_python_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert any("old" in line["event"] for line in said(capsys))


def test_a_full_disk_ends_nothing_but_the_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Standard error is often a file."""
    with open("/dev/full", "w", buffering=1) as full:
        monkeypatch.setattr(sys, "stderr", full)
        with pytest.raises(OSError, match="No space left"):
            print("the disk is full", file=sys.stderr, flush=True)
        structlog.get_logger().error("job.run_failed")
        logging.getLogger("celery.worker").warning("lost the broker")
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            full.close()
    structlog.get_logger().error("job.crashed")
    assert [line["event"] for line in said(capsys)] == ["job.crashed"]
