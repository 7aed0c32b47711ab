"""The job's state machine."""

from __future__ import annotations

import pickle
from itertools import product

import pytest
from sqlalchemy import CheckConstraint

from service.db.models import Job
from service.jobs.lifecycle import TERMINAL, TRANSITIONS, IllegalTransition, JobStatus, advance


def test_openais_words() -> None:
    """Clients know these, and a paused job's."""
    known = {"validating_files", "queued", "running", "succeeded", "failed", "cancelled"}
    assert set(JobStatus) == known | {"paused"}


def test_the_table_lists_the_same_statuses() -> None:
    """Its CHECK constraint comes from the enumeration, and a migrated database is compared elsewhere."""
    (check,) = [
        str(constraint.sqltext)
        for constraint in Job.metadata.tables["jobs"].constraints
        if isinstance(constraint, CheckConstraint) and str(constraint.name).endswith("_status")
    ]
    assert {part for part in check.split("'") if part in set(JobStatus)} == set(JobStatus)


@pytest.mark.parametrize(("current", "to"), list(product(JobStatus, JobStatus)))
def test_every_move_is_in_the_table_or_refused(current: JobStatus, to: JobStatus) -> None:
    """And nothing leaves a terminal state."""
    if to in TRANSITIONS[current]:
        assert current not in TERMINAL
        advance(current, to)
    else:
        with pytest.raises(IllegalTransition):
            advance(current, to)


def test_every_state_can_reach_an_end() -> None:
    """No job can get stuck by construction."""
    for status in JobStatus:
        reached, frontier = {status}, {status}
        while frontier := {to for at in frontier for to in TRANSITIONS[at]} - reached:
            reached |= frontier
        assert reached & TERMINAL


def test_the_refusal_survives_pickling() -> None:
    """Exceptions cross process borders."""
    error = pickle.loads(pickle.dumps(IllegalTransition(JobStatus.failed, JobStatus.queued)))  # noqa: S301
    assert (error.current, error.to) == (JobStatus.failed, JobStatus.queued)
