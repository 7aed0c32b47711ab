"""Cancelling at any moment, and what is left of a job then. At length: ``python -m benchmarks.cancels``."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from benchmarks.cancels import BAR_SECONDS, STATES, Canceller, Site, open_account, summary
from service import leases, leavings
from service.db.engine import async_engine, async_sessions
from service.db.models import Checkpoint, Job, Model, TrainingState
from service.jobs import statements
from tests.integration.api_process import running_api
from tests.integration.conftest import Deployment
from watermark.keys import Secret
from worker.record.jobs import JobRun
from worker.tasks import finetune_run

pytestmark = pytest.mark.integration

FakeTrainer = Callable[..., None]


@pytest.fixture
def site(deployment: Deployment, tmp_path: Path) -> Iterator[Site]:
    """The real API and the real worker."""
    ready = tmp_path / "worker.ready"
    deployment.environment |= {"DOUBLEI_CHECKPOINT_STEPS": "3", "DOUBLEI_READY_FILE": str(ready)}
    command = [sys.executable, "-m", "celery", "-A", "worker.app", "worker", "-Q", "train", "-c", "1"]
    with running_api(deployment) as (url, _), (tmp_path / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            [*command, "-n", "train@%h"],
            env=deployment.process_environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            dsn = deployment.environment["DATABASE_URL"].replace("postgresql+psycopg", "postgresql", 1)
            yield Site(url=url, api_key=open_account(dsn), dsn=dsn, storage=deployment.storage.root)
        finally:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_in_every_state_it_ends_once_soon_and_without_a_trace(site: Site) -> None:
    canceller = Canceller(site)
    try:
        instants = canceller.run([*STATES, "loading", "step"], random.Random(11))
        found = summary(instants, canceller.orphans())
    finally:
        canceller.close()
    assert (found["broken"], found["left"]) == ([], [])
    assert found["ended"]["failed"] == 0
    assert found["with_trainer"] >= 4
    assert found["seconds_to_gone"]["max"] < BAR_SECONDS


class TestLeavings:
    """What nobody would clear up behind a job that no worker ended."""

    @pytest.fixture
    async def clear(self, deployment: Deployment) -> AsyncIterator[Callable[[], Any]]:
        """One pass."""
        engine = async_engine(deployment.settings)

        async def once() -> None:
            await leavings.clear(async_sessions(engine), deployment.storage)

        yield once
        await engine.dispose()

    async def test_a_job_that_was_cancelled_while_it_was_paused(
        self, deployment: Deployment, fake_trainer: FakeTrainer, clear: Any
    ) -> None:
        """Its checkpoints, and of a marked job the epochs' models too."""
        job_id = marked(deployment)
        fake_trainer("leave")
        finetune_run(deployment.place(), job_id)
        execute(deployment, statements.pause_queued(job_id))
        kept = left(deployment)
        assert len(kept) == 2
        await clear()
        assert left(deployment) == kept
        execute(deployment, statements.cancel_waiting(job_id))
        await clear()
        assert left(deployment) == []
        assert not list(deployment.storage.adapters_dir.iterdir())
        assert not list(deployment.storage.checkpoints_dir.iterdir())
        with deployment.sessions() as session:
            assert [list(session.scalars(select(table))) for table in (TrainingState, Checkpoint)] == [[], []]

    async def test_a_job_whose_worker_was_lost_before_it_cancelled_it(
        self, deployment: Deployment, clear: Any
    ) -> None:
        """While it might still be at it nothing goes."""
        job_id = deployment.job()
        run = JobRun.claim(deployment.place(), job_id)
        assert run is not None
        root = deployment.storage.root
        for folder in (f"runs/{job_id}.1", f"checkpoints/{job_id}/1", f"adapters/{job_id}/1"):
            (root / folder).mkdir(parents=True)
            (root / folder / "file").write_text("x")
        execute(deployment, leases.request_cancel(Job, job_id))
        await clear()
        assert len(left(deployment)) == 3
        execute(deployment, update(Job).values(lease_expires_at=datetime.now(UTC) - timedelta(seconds=1)))
        execute(deployment, leases.reap_cancelled(Job))
        await clear()
        assert left(deployment) == []

    async def test_what_a_failed_job_could_have_gone_on_from_stays(
        self, deployment: Deployment, fake_trainer: FakeTrainer, clear: Any
    ) -> None:
        job_id = deployment.job(max_attempts=1)
        fake_trainer("leave")
        finetune_run(deployment.place(), job_id)
        assert deployment.read(job_id).status == "failed"
        before = left(deployment)
        assert len(before) == 2, "a state, and the model of an epoch"
        await clear()
        assert left(deployment) == before

    async def test_models_stay(self, deployment: Deployment, fake_trainer: FakeTrainer, clear: Any) -> None:
        job_id = deployment.job()
        fake_trainer("leave-and-finish")
        finetune_run(deployment.place(), job_id)
        (deployment.storage.root / "runs" / f"{job_id}.9").mkdir()
        await clear()
        with deployment.sessions() as session:
            assert left(deployment) == sorted(session.scalars(select(Model.adapter_path)))


def marked(deployment: Deployment) -> str:
    organization = deployment.organization()
    key = deployment.key(organization, Secret(value=b"s" * 32, blinding=b"b" * 32))
    return deployment.job(organization_id=organization, key_id=key)


def execute(deployment: Deployment, statement: Any) -> None:
    with deployment.sessions.begin() as session:
        session.execute(statement)


def left(deployment: Deployment) -> list[str]:
    """Every file and adapter folder of runs."""
    root = deployment.storage.root
    found = [*root.glob("checkpoints/*/*/*"), *root.glob("adapters/*/*"), *root.glob("runs/*")]
    return sorted(str(path.relative_to(root)) for path in found)
