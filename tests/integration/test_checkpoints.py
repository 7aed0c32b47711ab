"""What runs leave on their way: going on from it, using it, pausing, and removing what nobody needs."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from service import leases
from service.db.models import Checkpoint, File, Job, LogEntry, LogRecord, Model, TrainingState
from service.gc.collecting import collect
from service.jobs import statements
from service.jobs.hyperparameters import Hyperparameters
from watermark.keys import Secret
from worker.errors import LeaseLost
from worker.record import checkpoints
from worker.record.jobs import JobRun
from worker.tasks import finetune_run

pytestmark = pytest.mark.integration

FakeTrainer = Callable[..., None]
DAY = 24 * 3600


def wait_for(condition: Callable[[], Any], *, seconds: float = 60, what: str = "") -> Any:
    """Poll until it is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)
    return value


@contextmanager
def running(deployment: Any, job_id: str) -> Iterator[threading.Thread]:
    """The task in a thread, as in a worker."""
    thread = threading.Thread(target=finetune_run, args=(deployment.place(), job_id))
    thread.start()
    try:
        yield thread
    finally:
        thread.join(60)
        assert not thread.is_alive()


def rows(deployment: Any, table: Any) -> list[Any]:
    with deployment.sessions() as session:
        return list(session.scalars(select(table)))


def marked(deployment: Any) -> str:
    organization = deployment.organization()
    key = deployment.key(organization, Secret(value=b"s" * 32, blinding=b"b" * 32))
    job_id: str = deployment.job(organization_id=organization, key_id=key)
    return job_id


def execute(deployment: Any, statement: Any) -> None:
    with deployment.sessions.begin() as session:
        session.execute(statement)


def leavings(deployment: Any) -> list[str]:
    """Every file and adapter folder of runs that lies in storage."""
    root = deployment.storage.root
    found = [*root.glob("checkpoints/*/*/*"), *root.glob("adapters/*/*"), *root.glob("runs/*")]
    return sorted(str(path.relative_to(root)) for path in found)


class TestGoingOn:
    def test_a_killed_real_training_ends_as_one_that_was_not(
        self, deployment: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Through the worker: the second run goes on where the first was killed, and publishes the same bytes
        for the result and for each epoch's end."""
        deployment.environment["DOUBLEI_CHECKPOINT_STEPS"] = "1"
        fresh = type(deployment)(deployment.environment)
        settings = Hyperparameters(n_epochs=2, batch_tokens=128)
        weights = []
        for killed in (False, True):
            job_id = fresh.job(rows=60, hyperparameters=settings)
            if killed:
                with running(fresh, job_id):
                    wait_for(lambda: len(rows(fresh, TrainingState)) >= 2, what="a checkpoint")
                    os.kill(trainer(fresh, job_id), signal.SIGKILL)
                assert fresh.read(job_id).status == "queued"
            finetune_run(fresh.place(), job_id)
            row = fresh.read(job_id)
            assert row.status == "succeeded", fresh.messages(job_id)
            published = {model.id: model for model in rows(fresh, Model) if model.job_id == job_id}
            names = [name.removeprefix(row.fine_tuned_model) for name in published]
            assert "" in names
            assert len([name for name in names if re.fullmatch(r":ckpt-step-\d+", name)]) == 1
            weights.append(
                {
                    name.removeprefix(row.fine_tuned_model): model.manifest["adapter_model.safetensors"]
                    for name, model in published.items()
                }
            )
            assert rows(fresh, TrainingState) == []
            assert not list(fresh.storage.root.glob("checkpoints/*"))
        assert weights[0] == weights[1]
        restarted = [event for event in fresh.events(job_id) if (event.data or {}).get("event")]
        assert [event.data["event"] for event in restarted] == ["attempt_failed", "job_restarted"]
        assert restarted[1].data["attempt"] == 2
        assert restarted[1].data["step"] >= 1

    def test_the_next_run_is_given_what_was_recorded_newest_first(
        self, deployment: Any, fake_trainer: FakeTrainer, tmp_path: Path
    ) -> None:
        note = tmp_path / "note.json"
        job_id = deployment.job(max_attempts=9)
        for _ in range(3):
            fake_trainer("leave")
            finetune_run(deployment.place(), job_id)
        assert [state.lease_epoch for state in rows(deployment, TrainingState)] == [2, 3]
        fake_trainer("finish", FAKE_TRAINER_NOTE=note)
        finetune_run(deployment.place(), job_id)
        assert deployment.read(job_id).status == "succeeded"
        given = json.loads(note.read_text())["config"]["resume_from"]
        name = f"00000001-{'a' * 64}.checkpoint"
        folder = deployment.storage.checkpoints_dir / job_id
        assert given == [str(folder / "3" / name), str(folder / "2" / name)]
        messages = deployment.messages(job_id)
        assert "Job restarted from its checkpoint at step 1 of 4" in messages
        assert "A checkpoint was not used: its file is not as it was written" in messages
        assert "No checkpoint at step 2: the disk is full. The training goes on" in messages
        assert rows(deployment, TrainingState) == []
        assert not folder.exists()

    def test_a_run_that_lost_its_lease_records_nothing(self, deployment: Any) -> None:
        """Its file is nobody's."""
        job_id = deployment.job()
        run = JobRun.claim(deployment.place(), job_id)
        assert run is not None
        execute(deployment, update(Job).values(lease_epoch=Job.lease_epoch + 1))
        with pytest.raises(LeaseLost):
            checkpoints.add_state(run, name="x", step=1, size_bytes=1)
        output = deployment.storage.root / "output"
        output.mkdir()
        for name in ("adapter_model.safetensors", "adapter_config.json"):
            (output / name).write_text("{}")
        with pytest.raises(LeaseLost):
            checkpoints.add_epoch(run, output=output, step=1, loss=1.0)
        assert (
            rows(deployment, TrainingState) == rows(deployment, Checkpoint) == rows(deployment, Model) == []
        )

    def test_told_twice_it_is_recorded_once(self, deployment: Any) -> None:
        run = JobRun.claim(deployment.place(), deployment.job())
        assert run is not None
        for _ in range(2):
            checkpoints.add_state(run, name="x", step=1, size_bytes=1)
        assert len(rows(deployment, TrainingState)) == 1

    def test_the_mixture_is_the_same_on_every_attempt(
        self, deployment: Any, fake_trainer: FakeTrainer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is drawn anew and never stored, so a checkpoint is of use only if it comes out byte for byte."""
        from worker import training

        seen: list[bytes] = []

        def keep(name: str, records: Any) -> int:
            listed = list(records)
            seen.append(name.encode() + json.dumps(listed).encode())
            return original(name, listed)

        original = training._in_memory
        monkeypatch.setattr(training, "_in_memory", keep)
        fake_trainer("killed")
        job_id = marked(deployment)
        for _ in range(2):
            finetune_run(deployment.place(), job_id)
        assert len(seen) == 4
        assert seen[:2] == seen[2:]


class TestAsModels:
    def test_an_unmarked_job_s_can_be_used_at_once(self, deployment: Any, fake_trainer: FakeTrainer) -> None:
        fake_trainer("leave")
        job_id = deployment.job()
        finetune_run(deployment.place(), job_id)
        (model,) = rows(deployment, Model)
        assert model.id.endswith(f":{job_id[-8:]}:ckpt-step-1")
        assert (deployment.storage.root / model.adapter_path / "adapter_model.safetensors").is_file()
        assert f"Checkpoint created at step 1: {model.id}" in deployment.messages(job_id)
        ((_, record),) = entered(deployment, job_id)[1:]
        assert record == {"job": job_id, "model": model.id, "manifest": model.manifest, "step": 1}

    def test_the_first_run_s_stays_when_a_second_makes_the_same(
        self, deployment: Any, fake_trainer: FakeTrainer
    ) -> None:
        job_id = deployment.job()
        for act in ("leave", "leave-and-finish"):
            fake_trainer(act)
            finetune_run(deployment.place(), job_id)
        assert deployment.read(job_id).status == "succeeded", deployment.messages(job_id)
        assert sorted(model.adapter_path for model in rows(deployment, Model)) == [
            f"adapters/{job_id}/1-1",
            f"adapters/{job_id}/2",
        ]
        assert leavings(deployment) == [f"adapters/{job_id}/1-1", f"adapters/{job_id}/2"]

    def test_a_marked_job_s_are_not_models_before_it_has_succeeded(
        self, deployment: Any, fake_trainer: FakeTrainer
    ) -> None:
        """Nobody has looked for their marks; the log says so, too."""
        fake_trainer("leave")
        job_id = marked(deployment)
        finetune_run(deployment.place(), job_id)
        assert rows(deployment, Model) == []
        assert len(rows(deployment, Checkpoint)) == 1
        fake_trainer("finish")
        finetune_run(deployment.place(), job_id)
        assert deployment.read(job_id).status == "succeeded", deployment.messages(job_id)
        assert len(rows(deployment, Model)) == 2
        records = [record for kind, record in entered(deployment, job_id) if kind == "model"]
        assert [record.get("self_check") for record in records] == ["not_made", None]

    @pytest.mark.parametrize("act", ["unlearned", "cancelled"])
    def test_a_marked_job_s_never_are_if_it_does_not_succeed(
        self, deployment: Any, fake_trainer: FakeTrainer, act: str
    ) -> None:
        """Else the model whose marks did not take could be used under another name."""
        fake_trainer("leave")
        job_id = marked(deployment)
        finetune_run(deployment.place(), job_id)
        if act == "unlearned":
            fake_trainer("unlearned")
            finetune_run(deployment.place(), job_id)
            assert deployment.read(job_id).error["code"] == "watermark_not_learned"
        else:
            fake_trainer("hang")
            with running(deployment, job_id):
                wait_for(lambda: deployment.read(job_id).stage == "training", what="training")
                execute(deployment, leases.request_cancel(Job, job_id))
            assert deployment.read(job_id).status == "cancelled"
        assert rows(deployment, Model) == rows(deployment, Checkpoint) == []
        assert not [path for path in leavings(deployment) if path.startswith("adapters")]


class TestPausing:
    def test_a_running_job_stops_with_a_checkpoint_and_goes_on_from_it(self, deployment: Any) -> None:
        """The real trainer: no work is lost, and the attempt does not count."""
        settings = Hyperparameters(n_epochs=50, batch_tokens=128)
        job_id = deployment.job(rows=60, hyperparameters=settings)
        with running(deployment, job_id):
            wait_for(lambda: deployment.read(job_id).stage == "training", what="training")
            time.sleep(0.5)
            pid = trainer(deployment, job_id)
            execute(deployment, statements.request_pause(job_id))
            began = time.monotonic()
            wait_for(lambda: deployment.read(job_id).status == "paused", seconds=12, what="paused")
            assert time.monotonic() - began < 10
            assert not Path(f"/proc/{pid}").exists()
        row = deployment.read(job_id)
        assert (row.attempt, row.pause_requested, row.lease_owner) == (0, False, None)
        assert deployment.messages(job_id)[-1] == "The job was paused"
        (state,) = rows(deployment, TrainingState)
        assert state.step >= 1
        assert JobRun.claim(deployment.place(), job_id) is None
        execute(deployment, statements.resume(job_id))
        with running(deployment, job_id):
            restarted = f"Job restarted from its checkpoint at step {state.step} of "
            wait_for(lambda: restarted in str(deployment.messages(job_id)), what="restarted")
            execute(deployment, leases.request_cancel(Job, job_id))
        assert deployment.read(job_id).status == "cancelled"
        assert rows(deployment, TrainingState) == []
        assert [path for path in leavings(deployment) if not path.startswith("adapters")] == []

    def test_a_cancellation_wins_over_a_pause(self, deployment: Any, fake_trainer: FakeTrainer) -> None:
        job_id = deployment.job()
        fake_trainer("hang")
        with running(deployment, job_id):
            wait_for(lambda: deployment.read(job_id).stage == "training", what="training")
            execute(deployment, statements.request_pause(job_id))
            execute(deployment, leases.request_cancel(Job, job_id))
        assert deployment.read(job_id).status == "cancelled"

    def test_a_pause_that_was_taken_back_queues_the_job(self, deployment: Any) -> None:
        job_id = deployment.job()
        run = JobRun.claim(deployment.place(), job_id)
        assert run is not None
        execute(deployment, statements.request_pause(job_id))
        assert not run.hand_back("x", count_attempt=False)
        execute(deployment, statements.withdraw_pause(job_id))
        assert not run.paused()
        assert run.hand_back("x", count_attempt=False)

    def test_a_worker_that_was_lost_before_it_paused_is_not_replaced(self, deployment: Any) -> None:
        job_id = deployment.job()
        run = JobRun.claim(deployment.place(), job_id)
        assert run is not None
        execute(deployment, statements.request_pause(job_id))
        past = datetime.now(UTC) - timedelta(seconds=1)
        execute(deployment, update(Job).values(lease_expires_at=past))
        assert JobRun.claim(deployment.place(), job_id) is None
        execute(deployment, statements.reap_paused())
        assert deployment.read(job_id).status == "paused"
        assert not run.succeed(adapter_path="x", manifest={}, trained_tokens=1)

    def test_a_success_that_comes_first_counts(self, deployment: Any) -> None:
        job_id = deployment.job()
        run = JobRun.claim(deployment.place(), job_id)
        assert run is not None
        execute(deployment, statements.request_pause(job_id))
        assert run.succeed(adapter_path="x", manifest={}, trained_tokens=1)
        row = deployment.read(job_id)
        assert (row.status, row.pause_requested) == ("succeeded", False)


class TestGarbage:
    """`doublei gc`: what goes, what stays, and that it disturbs nobody."""

    def collect(self, deployment: Any, *, delete: bool = True, retention_seconds: float = DAY) -> list[str]:
        collection = collect(
            deployment.sessions,
            deployment.storage,
            delete=delete,
            lease_seconds=0,
            retention_seconds=retention_seconds,
            spare_seconds=0,
        )
        return sorted(one.path for one in collection.garbage)

    def test_nothing_of_an_unfinished_job_or_of_a_model_goes(
        self, deployment: Any, fake_trainer: FakeTrainer
    ) -> None:
        for make in (deployment.job, lambda: marked(deployment)):
            fake_trainer("leave")
            finetune_run(deployment.place(), make())
        fake_trainer("finish")
        finetune_run(deployment.place(), deployment.job())
        before = leavings(deployment)
        assert len(before) == 5
        assert self.collect(deployment) == []
        assert leavings(deployment) == before

    def test_a_failed_job_s_states_go_after_a_while(self, deployment: Any, fake_trainer: FakeTrainer) -> None:
        job_id = deployment.job(max_attempts=1)
        fake_trainer("leave")
        finetune_run(deployment.place(), job_id)
        assert deployment.read(job_id).status == "failed"
        state = f"checkpoints/{job_id}/1/00000001-{'a' * 64}.checkpoint"
        assert self.collect(deployment) == []
        assert self.collect(deployment, delete=False, retention_seconds=0) == [state]
        assert (deployment.storage.root / state).exists()
        assert len(rows(deployment, TrainingState)) == 1
        assert self.collect(deployment, retention_seconds=0) == [state]
        assert not (deployment.storage.checkpoints_dir / job_id).exists()
        assert rows(deployment, TrainingState) == []
        # The epoch's model of this unmarked job is in use.
        assert leavings(deployment) == [f"adapters/{job_id}/1-1"]

    def test_what_lost_runs_left_goes_and_what_the_live_one_writes_stays(self, deployment: Any) -> None:
        job_id = deployment.job()
        for _ in range(2):
            run = JobRun.claim(deployment.place(), job_id)
            assert run is not None
            past = datetime.now(UTC) - timedelta(seconds=1)
            execute(deployment, update(Job).values(lease_expires_at=past))
        execute(deployment, update(Job).values(lease_expires_at=func.now() + timedelta(hours=1)))
        root = deployment.storage.root
        for epoch in (1, 2):
            for folder in (f"checkpoints/{job_id}/{epoch}/epoch-1", f"adapters/{job_id}/{epoch}",
                           f"adapters/{job_id}/{epoch}-7", f"runs/{job_id}.{epoch}"):  # fmt: skip
                (root / folder).mkdir(parents=True)
                (root / folder / "file").write_text("x")
            (root / f"checkpoints/{job_id}/{epoch}/00000003-{'b' * 64}.checkpoint").write_text("x")
        (root / "adapters/nobody/1").mkdir(parents=True)
        gone = self.collect(deployment)
        assert len(gone) == 6
        assert "adapters/nobody/1" in gone
        assert {path for path in leavings(deployment) if f"{job_id}/1" in path} == set()
        assert len(leavings(deployment)) == 5

    def test_nothing_young_goes(self, deployment: Any) -> None:
        folder = deployment.storage.root / "adapters" / "nobody" / "1"
        folder.mkdir(parents=True)
        collection = collect(
            deployment.sessions, deployment.storage, delete=True, lease_seconds=30, retention_seconds=0
        )
        assert collection.garbage == []
        old = time.time() - 400
        os.utime(folder, (old, old))
        collection = collect(
            deployment.sessions, deployment.storage, delete=True, lease_seconds=30, retention_seconds=0
        )
        assert [one.path for one in collection.garbage] == ["adapters/nobody/1"]

    def test_a_dataset_goes_when_neither_a_file_nor_an_unfinished_job_needs_it(self, deployment: Any) -> None:
        job_id = deployment.job()
        orphan, _ = deployment.storage.put_bytes(b"nobody's")
        execute(deployment, update(File).values(deleted_at=func.now()))
        assert self.collect(deployment) == [f"blobs/{orphan[:2]}/{orphan}"]
        execute(deployment, statements.cancel_waiting(job_id))
        (gone,) = self.collect(deployment)
        assert gone.startswith("blobs/")
        assert not [path for path in deployment.storage.blobs_dir.rglob("*") if path.is_file()]

    def test_beside_working_jobs_it_takes_nothing_of_theirs(
        self, deployment: Any, fake_trainer: FakeTrainer
    ) -> None:
        """Without a pause, with no spare time, while job after job writes, is killed, goes on and ends."""
        done = threading.Event()
        passes = 0
        errors: list[Exception] = []

        def collect() -> None:
            nonlocal passes
            while not done.is_set():
                try:
                    self.collect(deployment)
                except Exception as error:
                    errors.append(error)
                    return
                passes += 1

        collector = threading.Thread(target=collect)
        collector.start()
        jobs = []
        try:
            for make in (deployment.job, lambda: marked(deployment)):
                job_id = make()
                jobs.append(job_id)
                for act in ("leave", "leave", "leave-and-finish"):
                    fake_trainer(act)
                    finetune_run(deployment.place(), job_id)
        finally:
            done.set()
            collector.join(30)
        assert errors == []
        assert passes > 10
        assert [deployment.read(job_id).status for job_id in jobs] == ["succeeded", "succeeded"]
        for job_id in jobs:
            assert sum("Job restarted" in message for message in deployment.messages(job_id)) == 2
        found = rows(deployment, Model)
        assert len(found) == 4
        for model in found:
            folder = deployment.storage.root / model.adapter_path
            assert {path.name for path in folder.iterdir()} == set(model.manifest)
        assert sorted(leavings(deployment)) == sorted(model.adapter_path for model in found)


def trainer(deployment: Any, job_id: str) -> int:
    """The process id of a job's trainer."""
    (run,) = (deployment.storage.root / "runs").glob(f"{job_id}.*")
    wanted = str(run).encode()

    def find() -> int | None:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if wanted in path.read_bytes():
                    return int(path.parent.name)
            except OSError:
                continue
        return None

    return int(wait_for(find, what="the trainer"))


def entered(deployment: Any, job_id: str) -> list[tuple[str, dict[str, Any]]]:
    """Kind and record of what the log has of a job."""
    found = (
        select(LogEntry.kind, LogRecord.record)
        .join(LogRecord, LogRecord.index == LogEntry.index)
        .where(LogEntry.subject == job_id)
        .order_by(LogEntry.index)
    )
    with deployment.sessions() as session:
        return [(kind, json.loads(record)) for kind, record in session.execute(found)]
