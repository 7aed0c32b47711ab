"""A short run of benchmarks/chaos: some tens of kills among some tens of jobs, and every invariant holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.chaos.checker import check
from benchmarks.chaos.run import Options, chaos, make_tiny_model

# What is killed has to start again, which on a busy machine takes its time.
pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]

OPTIONS = Options(
    seed=20,
    jobs=24,
    real=0,
    clients=2,
    lease_seconds=6,
    pace_seconds=0.4,
    kills_only=True,
)
KILLS = 12


def test_no_job_is_lost_or_done_twice_while_everything_is_killed(tmp_path: Path) -> None:
    """API, workers, trainers, Postgres and Valkey, in an order that the seed gives."""
    evidence = chaos(tmp_path, make_tiny_model(tmp_path / "model"), OPTIONS, on_start=lambda progress: None)
    broken = {
        verdict.invariant: verdict.violations[:5] or "nothing of its kind was seen"
        for verdict in check(evidence)
        if not verdict.holds
    }
    assert not broken, f"seed {OPTIONS.seed}"
    assert len(evidence.jobs) == OPTIONS.jobs
    assert len(evidence.injected) >= KILLS
    assert {one["fault"] for one in evidence.injected} >= {"F2", "F5", "F7", "F15"}
