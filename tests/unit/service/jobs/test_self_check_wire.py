"""A job shows the self-check of its marks beside its other figures, once there is one."""

from __future__ import annotations

from typing import Any

import pytest

from service.api.jobs import _watermark_wire
from service.db.models import Job

CHECK = {"passed": True, "rounds": 1, "families": [{"family": 0, "marks": 12, "marks_taken": 11}]}


@pytest.mark.parametrize(
    ("report", "shown"), [(None, None), ({"rows": 9}, None), ({"rows": 9, "self_check": CHECK}, CHECK)]
)
def test_the_self_check_on_the_wire(report: dict[str, Any] | None, shown: dict[str, Any] | None) -> None:
    options = {"commitment": "ab" * 32, "families": [0], "strength": "standard"}
    wire = _watermark_wire(Job(watermark_key_id="wm-1", watermark_options=options, watermark_report=report))
    assert wire is not None
    assert wire["self_check"] == shown


def test_a_job_without_a_key_shows_none() -> None:
    assert _watermark_wire(Job(watermark_options=None, watermark_report={"rows": 9})) is None
