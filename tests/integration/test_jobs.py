"""The lease protocol on a real database: races, fences, the reaper and its bells."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from service import leases, reaper
from service.db.engine import (
    LOCK_TIMEOUT_MS,
    WORKER_IDLE_IN_TRANSACTION_TIMEOUT_MS,
    async_engine,
    async_sessions,
)
from service.db.models import Job, JobEvent
from service.dispatch import TaskName
from service.jobs import polled, statements
from service.jobs.lifecycle import JobStatus
from worker.errors import LeaseLost
from worker.lease import Beat
from worker.record.jobs import Event, JobRun

pytestmark = pytest.mark.integration

LEASE_SECONDS = 30


@pytest.fixture
async def sessions(deployment: Any) -> AsyncIterator[async_sessionmaker[AsyncSession]]:
    """As the API has them."""
    engine = async_engine(deployment.settings)
    yield async_sessions(engine)
    await engine.dispose()


def expire(deployment: Any, job_id: str) -> None:
    """Let the lease have ended a second ago."""
    past = datetime.now(UTC) - timedelta(seconds=1)
    with deployment.sessions.begin() as session:
        session.execute(update(Job).where(Job.id == job_id).values(lease_expires_at=past))


def make_old(deployment: Any, *job_ids: str) -> None:
    """Older than the time a first message may be on its way."""
    past = datetime.now(UTC) - timedelta(minutes=1)
    with deployment.sessions.begin() as session:
        session.execute(update(Job).where(Job.id.in_(job_ids)).values(created_at=past))


def claim(deployment: Any, job_id: str) -> JobRun:
    """As a worker does."""
    run = JobRun.claim(deployment.place(), job_id)
    assert run is not None
    return run


class TestClaim:
    def test_of_many_at_once_one_wins(self, deployment: Any) -> None:
        """A message delivered to sixteen workers starts one run."""
        job_id = deployment.job()
        with ThreadPoolExecutor(16) as threads:
            runs = list(threads.map(lambda _: JobRun.claim(deployment.place(), job_id), range(16)))
        winners = [run for run in runs if run is not None]
        assert len(winners) == 1
        assert (winners[0].epoch, winners[0].attempt) == (1, 1)
        assert deployment.messages(job_id) == ["Fine-tuning job started"]
        assert deployment.read(job_id).status == "running"

    def test_a_job_that_does_not_exist(self, deployment: Any) -> None:
        """A message for a row that is gone means nothing."""
        assert JobRun.claim(deployment.place(), "ftjob-none") is None

    def test_not_a_cancelled_job(self, deployment: Any) -> None:
        """Its message may still be in the queue."""
        job_id = deployment.job()
        with deployment.sessions.begin() as session:
            session.execute(leases.cancel_queued(Job, job_id)).one()
        assert JobRun.claim(deployment.place(), job_id) is None

    def test_not_a_running_job_before_its_lease_ends(self, deployment: Any) -> None:
        """Then it is taken over, with a higher epoch."""
        job_id = deployment.job()
        claim(deployment, job_id)
        assert JobRun.claim(deployment.place(), job_id) is None
        expire(deployment, job_id)
        second = claim(deployment, job_id)
        assert (second.epoch, second.attempt) == (2, 2)
        assert deployment.messages(job_id)[-1] == "Fine-tuning job started again (attempt 2)"

    def test_not_beyond_the_last_attempt(self, deployment: Any) -> None:
        """A job that takes its worker down stops doing so."""
        job_id = deployment.job(max_attempts=2)
        for _ in range(2):
            claim(deployment, job_id)
            expire(deployment, job_id)
        assert JobRun.claim(deployment.place(), job_id) is None


class TestFence:
    def test_every_write_of_a_run_that_lost_its_lease_is_refused(self, deployment: Any) -> None:
        """A worker that was paused wakes up, and nothing it does counts."""
        job_id = deployment.job()
        old = claim(deployment, job_id)
        expire(deployment, job_id)
        claim(deployment, job_id)
        before, events = deployment.read(job_id), deployment.messages(job_id)
        assert old.beat() is Beat.lost
        with pytest.raises(LeaseLost):
            old.write(Event(message="stale"))
        with pytest.raises(LeaseLost):
            old.write(stage="stale")
        assert not old.succeed(adapter_path="x", manifest={}, trained_tokens=1)
        assert not old.fail({"code": "x", "message": "x", "param": None})
        assert not old.cancelled()
        assert not old.hand_back("stale", count_attempt=True)
        after = deployment.read(job_id)
        assert (after.status, after.stage, after.lease_epoch) == ("running", None, before.lease_epoch)
        assert after.lease_expires_at == before.lease_expires_at
        assert deployment.messages(job_id) == events

    def test_of_many_ends_at_once_one_counts(self, deployment: Any) -> None:
        """Succeeded or failed, never both, and one model."""
        job_id = deployment.job()
        run = claim(deployment, job_id)

        def end(number: int) -> bool:
            if number % 2:
                return run.succeed(adapter_path="x", manifest={}, trained_tokens=1)
            return run.fail({"code": "x", "message": "x", "param": None})

        with ThreadPoolExecutor(8) as threads:
            assert sum(threads.map(end, range(8))) == 1

    def test_what_was_cancelled_is_not_published(self, deployment: Any) -> None:
        """Even if the cancellation comes with the last step."""
        job_id = deployment.job()
        run = claim(deployment, job_id)
        with deployment.sessions.begin() as session:
            session.execute(leases.request_cancel(Job, job_id)).one()
        assert run.beat() is Beat.cancel_requested
        assert not run.succeed(adapter_path="x", manifest={}, trained_tokens=1)
        assert run.cancelled()
        assert deployment.read(job_id).status == "cancelled"

    def test_the_database_itself_refuses_to_change_an_end(self, deployment: Any) -> None:
        """Whatever statement is written one day."""
        job_id = deployment.job()
        assert claim(deployment, job_id).cancelled()
        with pytest.raises(IntegrityError, match="for good"), deployment.sessions.begin() as session:
            session.execute(update(Job).where(Job.id == job_id).values(status=JobStatus.queued))

    def test_events_can_not_be_rewritten(self, deployment: Any) -> None:
        """They are the job's history."""
        job_id = deployment.job()
        claim(deployment, job_id)
        with pytest.raises(IntegrityError, match="INSERT-only"), deployment.sessions.begin() as session:
            session.execute(update(JobEvent).values(message="other"))


class TestHandBack:
    @pytest.mark.parametrize(("count_attempt", "attempt"), [(True, 1), (False, 0)])
    def test_the_job_can_be_claimed_again(self, deployment: Any, count_attempt: bool, attempt: int) -> None:
        """With a new epoch; an attempt that was not the job's fault is given back."""
        job_id = deployment.job()
        run = claim(deployment, job_id)
        run.write(stage="training")
        assert run.hand_back("The worker is shutting down", count_attempt=count_attempt)
        row = deployment.read(job_id)
        assert (row.status, row.stage, row.lease_expires_at, row.attempt) == ("queued", None, None, attempt)
        assert claim(deployment, job_id).epoch == 2

    def test_not_once_its_cancellation_was_asked_for(self, deployment: Any) -> None:
        """Nobody could claim it, so it would wait for ever."""
        job_id = deployment.job()
        run = claim(deployment, job_id)
        with deployment.sessions.begin() as session:
            session.execute(leases.request_cancel(Job, job_id)).one()
        assert not run.hand_back("The worker is shutting down", count_attempt=False)


class TestReaper:
    async def test_an_expired_lease_goes_back_to_the_queue(self, deployment: Any, sessions: Any) -> None:
        """And the queue hears of it in the same pass."""
        job_id = deployment.job()
        make_old(deployment, job_id)
        claim(deployment, job_id)
        expire(deployment, job_id)
        dispatcher = deployment.dispatcher()
        await reaper.reap_once(sessions, dispatcher)
        assert deployment.read(job_id).status == "queued"
        assert dispatcher.waiting(TaskName.finetune_run) == 1
        assert deployment.messages(job_id)[-1] == "The worker was lost; the job is queued again"

    async def test_a_live_lease_is_left_alone(self, deployment: Any, sessions: Any) -> None:
        """However old the job is."""
        job_id = deployment.job()
        make_old(deployment, job_id)
        claim(deployment, job_id)
        await reaper.sweep(sessions)
        assert deployment.read(job_id).status == "running"

    async def test_a_row_that_somebody_writes_to_holds_up_nobody_elses(
        self, deployment: Any, sessions: Any
    ) -> None:
        """A worker that is stopped in the middle of a transaction keeps its row locked."""
        held, lost = deployment.job(), deployment.job()
        for job_id in (held, lost):
            claim(deployment, job_id)
            expire(deployment, job_id)
        with deployment.sessions.begin() as session:
            session.execute(statements.lock_while_held(held, epoch=1)).one()
            started = time.monotonic()
            await reaper.sweep(sessions)
            assert time.monotonic() - started < LOCK_TIMEOUT_MS / 1000
            assert deployment.read(lost).status == "queued"
            assert deployment.read(held).status == "running"
        await reaper.sweep(sessions)
        assert deployment.read(held).status == "queued"

    def test_a_worker_that_falls_silent_in_a_transaction_loses_it_soon(self, deployment: Any) -> None:
        """Sooner than its lease ends, so that whoever waits for its locks goes on."""
        with deployment.sessions() as session:
            setting = session.scalar(
                text(
                    "SELECT setting::int FROM pg_settings WHERE name = 'idle_in_transaction_session_timeout'"
                )
            )
        assert setting == WORKER_IDLE_IN_TRANSACTION_TIMEOUT_MS < LEASE_SECONDS * 1000

    async def test_no_attempts_left(self, deployment: Any, sessions: Any) -> None:
        """The job fails, with a complete error."""
        job_id = deployment.job(max_attempts=1)
        claim(deployment, job_id)
        expire(deployment, job_id)
        await reaper.sweep(sessions)
        row = deployment.read(job_id)
        assert row.status == "failed"
        assert (row.error["code"], row.error["cause"]) == ("max_attempts", "worker_lost")
        assert row.error["message"] == "No attempts are left. The last one: The worker was lost."

    async def test_a_cancellation_that_its_worker_did_not_live_to_see(
        self, deployment: Any, sessions: Any
    ) -> None:
        """Cancelled, not tried again."""
        job_id = deployment.job()
        claim(deployment, job_id)
        with deployment.sessions.begin() as session:
            session.execute(leases.request_cancel(Job, job_id)).one()
        expire(deployment, job_id)
        await reaper.sweep(sessions)
        assert deployment.read(job_id).status == "cancelled"

    async def test_lost_messages_are_sent_again_but_never_pile_up(
        self, deployment: Any, sessions: Any
    ) -> None:
        """As many messages as waiting rows, however many passes there are."""
        jobs = [deployment.job() for _ in range(3)]
        make_old(deployment, *jobs)
        dispatcher = deployment.dispatcher()
        dispatcher.ring(TaskName.finetune_run, jobs[2])
        for _ in range(4):
            await reaper.reap_once(sessions, dispatcher)
            assert dispatcher.waiting(TaskName.finetune_run) == 3

    async def test_a_young_row_is_not_rung_for(self, deployment: Any, sessions: Any) -> None:
        """Its first message is on its way."""
        deployment.job()
        dispatcher = deployment.dispatcher()
        await reaper.reap_once(sessions, dispatcher)
        assert dispatcher.waiting(TaskName.finetune_run) == 0

    async def test_of_many_passes_at_once_one_runs(self, deployment: Any, sessions: Any) -> None:
        """Several API processes, one reaper."""
        async with sessions() as session, session.begin():
            assert await session.scalar(leases.try_reaper_lock())
            assert await asyncio.gather(*(reaper.sweep(sessions) for _ in range(3))) == [None] * 3
        assert await reaper.sweep(sessions) is not None

    async def test_a_broker_that_is_away_does_not_stop_it(
        self, deployment: Any, sessions: Any, tmp_path: Any
    ) -> None:
        """Leases are still reaped."""
        job_id = deployment.job()
        make_old(deployment, job_id)
        claim(deployment, job_id)
        expire(deployment, job_id)
        away = type(deployment.dispatcher())(f"redis+socket://{tmp_path}/none?virtual_host=0")
        await reaper.reap_once(sessions, away)
        assert deployment.read(job_id).status == "queued"


def test_an_events_page_follows_its_cursor(deployment: Any) -> None:
    """Newest first, each once."""
    job_id = deployment.job()
    run = claim(deployment, job_id)
    for number in range(5):
        run.write(Event(message=str(number)))
    with deployment.sessions() as session:
        query = polled.events(job_id, after=None, limit=2)
        first = session.execute(query.statement, query.values).all()
        query = polled.events(job_id, after=first[1].id, limit=9)
        second = session.execute(query.statement, query.values).all()
    assert [event.message for event in first] == ["4", "3", "2"]
    assert [event.message for event in second] == ["2", "1", "0", "Fine-tuning job started"]
