"""Faults in a real training: what the job says of them, and whether it is tried again."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import shutil
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

import worker.training
from service import leases
from service.db.models import Job, Model, TrainingState
from service.jobs import failures, statements
from service.jobs.hyperparameters import Hyperparameters
from tests.integration.conftest import HERE, TINY, Deployment
from worker.finetune.device import device_name
from worker.record import artifacts
from worker.record.jobs import JobRun
from worker.tasks import finetune_run

pytestmark = pytest.mark.integration

FakeTrainer = Callable[..., None]
Inject = Callable[..., None]

SETTINGS = Hyperparameters(n_epochs=2, batch_tokens=128)
"""A dozen steps in two epochs, of a second in all."""


@pytest.fixture
def deployment(deployment: Deployment) -> Deployment:
    """With a checkpoint after every step."""
    deployment.environment["DOUBLEI_CHECKPOINT_STEPS"] = "1"
    return Deployment(deployment.environment)


@pytest.fixture
def patient(deployment: Deployment) -> Deployment:
    """One whose jobs wait 40 s after their first failed attempt."""
    return Deployment(deployment.environment | {"DOUBLEI_RETRY_SECONDS": "40"})


@pytest.fixture
def inject(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Inject:
    """Put a fault into the real trainer; see `faulty_trainer`."""

    def put(fault: str, *, times: int = 99) -> None:
        monkeypatch.setattr("worker.training.TRAINER", "faulty_trainer")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parent.parent)]))
        monkeypatch.setenv("FAULT", fault)
        monkeypatch.setenv("FAULT_TIMES", str(times))
        monkeypatch.setenv("FAULT_COUNTER", str(tmp_path / "faults"))

    return put


def run_once(deployment: Deployment, **job: Any) -> Job:
    """A job with one attempt, after it."""
    job_id = deployment.job(rows=12, hyperparameters=SETTINGS, **{"max_attempts": 1, **job})
    finetune_run(deployment.place(), job_id)
    return deployment.read(job_id)


def told(deployment: Deployment, row: Job) -> dict[str, Any]:
    """The job's error as the API shows it; complete, and without a row of the data or a path."""
    assert row.status == "failed", deployment.messages(row.id)
    error = failures.on_the_wire(row.error)
    assert error is not None
    assert all(error[name] for name in ("code", "message", "category", "hint"))
    said = json.dumps(error) + json.dumps(deployment.messages(row.id))
    assert "Zanzibar" not in said
    assert str(deployment.storage.root.parent) not in said
    assert (row.stage, row.estimated_finish, row.lease_owner) == (None, None, None)
    return error


def models(deployment: Deployment) -> list[Model]:
    with deployment.sessions() as session:
        return list(session.scalars(select(Model)))


def events_named(deployment: Deployment, job_id: str, name: str) -> list[dict[str, Any]]:
    """Data of the job's events of that name."""
    found = [event.data or {} for event in deployment.events(job_id)]
    return [data for data in found if data.get("event") == name]


class TestOfTheTrainer:
    @pytest.mark.parametrize(
        ("fault", "code", "category", "again"),
        [
            ("memory_allocation", "out_of_memory", "capacity", True),
            ("device_memory", "device_out_of_memory", "capacity", False),
            ("device_failure", "device_failed", "server", True),
            ("disk_full", "disk_full", "capacity", True),
            ("dataset_unreadable", "unreadable_dataset", "server", True),
            ("killed", "trainer_killed", "server", True),
            ("bug", "internal_error", "server", True),
        ],
    )
    def test_each_fault_has_a_name(
        self, deployment: Deployment, inject: Inject, fault: str, code: str, category: str, again: bool
    ) -> None:
        """One that another attempt may not have ends this job for want of attempts, with it as the cause."""
        inject(fault)
        error = told(deployment, run_once(deployment))
        assert (error.get("cause") if again else error["code"]) == code
        assert (error["code"] == "max_attempts") is again
        assert (error["category"], failures.of(code).restarts) == (category, again)
        assert failures.of(code).message in error["message"]
        assert [model for model in models(deployment) if model.checkpoint_id is None] == []
        assert not list((deployment.storage.root / "runs").iterdir())

    def test_what_is_the_owners_matter_is_never_tried_again(
        self, deployment: Deployment, inject: Inject
    ) -> None:
        inject("not_finite")
        row = run_once(deployment, max_attempts=3)
        error = told(deployment, row)
        assert error["code"] == "loss_not_finite"
        assert error["message"] == "The loss is not a finite number any more: at step 2."
        assert error["param"] == "hyperparameters.learning_rate_multiplier"
        assert (row.attempt, deployment.read(row.id).attempt) == (1, 1)

    def test_another_attempt_goes_on_from_the_newest_checkpoint(
        self, deployment: Deployment, inject: Inject
    ) -> None:
        inject("device_failure", times=1)
        row = run_once(deployment, max_attempts=3)
        assert (row.status, row.attempt, row.error) == ("queued", 1, None)
        assert (row.progress, row.stage, row.estimated_finish) == (None, None, None)
        (failed,) = events_named(deployment, row.id, "attempt_failed")
        assert (failed["code"], failed["attempt"], failed["max_attempts"]) == ("device_failed", 1, 3)
        assert "CUDA error: unspecified launch failure;" in str(deployment.messages(row.id))
        finetune_run(deployment.place(), row.id)
        row = deployment.read(row.id)
        assert row.status == "succeeded", deployment.messages(row.id)
        (restarted,) = events_named(deployment, row.id, "job_restarted")
        assert restarted == {"event": "job_restarted", "step": 1, "attempt": 2}
        assert row.error is None

    def test_it_waits_before_it_is_tried_again_and_longer_each_time(
        self, patient: Deployment, fake_trainer: FakeTrainer
    ) -> None:
        """Nobody rings for it meanwhile, and a message that comes nevertheless starts nothing."""
        deployment = patient
        fake_trainer("killed")
        row = run_once(deployment, max_attempts=3)
        assert (row.status, row.attempt, row.lease_owner) == ("queued", 1, None)
        assert "; the job is queued again, to be tried in 40 s" in str(deployment.messages(row.id))
        for waits in (40, 320):
            with deployment.sessions() as session:
                left: Any = session.scalars(select(Job.lease_expires_at - func.clock_timestamp())).one()
                due = session.scalars(leases.overdue(Job, older_than_seconds=0, limit=9)).all()
            assert waits - 30 < left.total_seconds() <= waits
            assert due == []
            finetune_run(deployment.place(), row.id)
            assert deployment.read(row.id).status == "queued"
            with deployment.sessions.begin() as session:
                session.execute(update(Job).values(lease_expires_at=func.clock_timestamp()))
                assert session.scalars(leases.overdue(Job, older_than_seconds=0, limit=9)).all() == [row.id]
            finetune_run(deployment.place(), row.id)
        assert deployment.read(row.id).status == "failed"
        waited = [data["wait_seconds"] for data in events_named(deployment, row.id, "attempt_failed")]
        assert waited == [40, 320]

    def test_one_that_was_paused_meanwhile_goes_on_when_it_is_resumed(
        self, patient: Deployment, fake_trainer: FakeTrainer
    ) -> None:
        fake_trainer("killed")
        row = run_once(patient, max_attempts=3)
        with patient.sessions.begin() as session:
            assert session.execute(statements.pause_queued(row.id)).first() is not None
        with patient.sessions.begin() as session:
            assert session.execute(statements.resume(row.id)).first() is not None
        fake_trainer("finish")
        finetune_run(patient.place(), row.id)
        assert patient.read(row.id).status == "succeeded"

    def test_one_that_waits_can_be_cancelled(self, patient: Deployment, fake_trainer: FakeTrainer) -> None:
        fake_trainer("killed")
        row = run_once(patient, max_attempts=3)
        with patient.sessions.begin() as session:
            assert session.execute(statements.cancel_waiting(row.id)).first() is not None
        assert patient.read(row.id).status == "cancelled"

    def test_a_job_whose_trainer_is_killed_each_time_ends(
        self, deployment: Deployment, inject: Inject
    ) -> None:
        """And says what its last attempt died of. It is not claimed again."""
        inject("killed")
        row = run_once(deployment, max_attempts=3)
        for _ in range(5):
            finetune_run(deployment.place(), row.id)
        row = deployment.read(row.id)
        assert row.attempt == 3
        assert told(deployment, row) == {
            "code": "max_attempts",
            "message": "No attempts are left. The last one: The training process was killed: SIGKILL.",
            "param": None,
            "cause": "trainer_killed",
            "category": "server",
            "hint": failures.of("trainer_killed").hint,
        }
        assert len(events_named(deployment, row.id, "attempt_failed")) == 2
        # The others go on from the first one's checkpoint and die at their own first step.
        assert [data["step"] for data in events_named(deployment, row.id, "job_restarted")] == [1, 1]
        assert deployment.messages(row.id)[-1].startswith("The job failed: No attempts are left.")

    def test_without_a_checkpoint_it_restarts_from_its_beginning(
        self, deployment: Deployment, fake_trainer: FakeTrainer
    ) -> None:
        fake_trainer("killed")
        row = run_once(deployment, max_attempts=2)
        fake_trainer("finish")
        finetune_run(deployment.place(), row.id)
        assert deployment.read(row.id).status == "succeeded", deployment.messages(row.id)
        (restarted,) = events_named(deployment, row.id, "job_restarted")
        assert (restarted["step"], restarted["attempt"]) == (0, 2)
        assert "Job restarted from its beginning" in deployment.messages(row.id)

    def test_a_full_disk_at_checkpoints_does_not_end_the_training(
        self, deployment: Deployment, inject: Inject
    ) -> None:
        inject("disk_full_at_checkpoints")
        row = run_once(deployment)
        assert row.status == "succeeded", deployment.messages(row.id)
        missed = events_named(deployment, row.id, "checkpoint_not_written")
        assert {data["reason"] for data in missed} == {"disk_full"}
        with deployment.sessions() as session:
            assert list(session.scalars(select(TrainingState))) == []

    def test_a_device_that_stays_taken(self, deployment: Deployment, inject: Inject) -> None:
        import torch

        folder = deployment.storage.root / "devices"
        folder.mkdir()
        inject("impatient")
        with (folder / f"{device_name(torch.device('cpu'))}.0.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            error = told(deployment, run_once(deployment))
        assert (error["cause"], error["category"]) == ("device_busy", "capacity")


class TestOfTheWorker:
    """What the system refuses the worker itself."""

    @pytest.mark.parametrize(
        ("number", "code"),
        [(errno.ENOSPC, "disk_full"), (errno.EDQUOT, "disk_full"), (errno.EIO, "storage_failed")],
    )
    def test_the_result_can_not_be_kept(
        self,
        deployment: Deployment,
        fake_trainer: FakeTrainer,
        monkeypatch: pytest.MonkeyPatch,
        number: int,
        code: str,
    ) -> None:
        def refuse(path: Path) -> str:
            raise OSError(number, os.strerror(number), str(path))

        fake_trainer("finish")
        monkeypatch.setattr(artifacts, "_synced_sha256", refuse)
        row = run_once(deployment, max_attempts=2)
        assert row.status == "queued"
        assert events_named(deployment, row.id, "attempt_failed")[0]["code"] == code
        finetune_run(deployment.place(), row.id)
        error = told(deployment, deployment.read(row.id))
        assert error["cause"] == code
        assert models(deployment) == []
        assert list(deployment.storage.adapters_dir.rglob("*.safetensors")) == []

    def test_an_epochs_model_that_can_not_be_kept_ends_nothing(
        self, deployment: Deployment, fake_trainer: FakeTrainer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        synced = artifacts._synced_sha256

        def refuse(path: Path) -> str:
            if "epoch-" in str(path):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return synced(path)

        fake_trainer("leave-and-finish")
        monkeypatch.setattr(artifacts, "_synced_sha256", refuse)
        row = run_once(deployment)
        assert row.status == "succeeded", deployment.messages(row.id)
        assert "No checkpoint at step 1: the disk is full. The training goes on" in deployment.messages(
            row.id
        )
        assert len(models(deployment)) == 1

    def test_no_room_for_the_runs_folder(
        self, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: Any, **__: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr("worker.training.artifacts.run_folder", refuse)
        assert told(deployment, run_once(deployment))["cause"] == "disk_full"

    @pytest.mark.parametrize("what", ["gone", "unreadable", "damaged"])
    def test_the_dataset(self, deployment: Deployment, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
        job_id = deployment.job(max_attempts=1)
        (blob,) = [path for path in deployment.storage.blobs_dir.rglob("*") if path.is_file()]
        if what == "gone":
            blob.unlink()
        elif what == "unreadable":
            blob.unlink()
            blob.mkdir()
        else:
            content = bytearray(blob.read_bytes())
            content[content.index(b"Zanzibar")] ^= 1
            blob.write_bytes(content)
        finetune_run(deployment.place(), job_id)
        error = told(deployment, deployment.read(job_id))
        code = {"gone": "missing", "unreadable": "unreadable", "damaged": "damaged"}[what]
        assert error.get("cause", error["code"]) == f"training_file_{code}"
        assert (error["param"], error["category"]) == ("training_file", "server")

    def test_a_trainer_that_the_kernel_killed_for_want_of_memory(
        self, deployment: Deployment, inject: Inject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """The kernel's counter says so; SIGKILL alone may be anybody's."""
        counter = tmp_path / "vmstat"
        counter.write_text("nr_free_pages 1\noom_kill 3\n")
        monkeypatch.setattr("worker.child.VMSTAT", counter)
        inject("killed")
        job_id = deployment.job(rows=12, hyperparameters=SETTINGS, max_attempts=1)
        note = threading.Thread(target=self._count_one, args=(deployment, job_id, counter))
        note.start()
        finetune_run(deployment.place(), job_id)
        note.join()
        error = told(deployment, deployment.read(job_id))
        assert (error["cause"], error["category"]) == ("out_of_memory", "capacity")

    def _count_one(self, deployment: Deployment, job_id: str, counter: Path) -> None:
        deadline = time.monotonic() + 60
        while deployment.read(job_id).stage != "loading" and time.monotonic() < deadline:
            time.sleep(0.05)
        counter.write_text("nr_free_pages 1\noom_kill 4\n")

    def test_a_cancellation_wins_over_a_failure(
        self, deployment: Deployment, fake_trainer: FakeTrainer
    ) -> None:
        """The run finds out about both at once."""
        job_id = deployment.job()
        run = JobRun.claim(deployment.place(), job_id)
        assert run is not None
        with deployment.sessions.begin() as session:
            session.execute(leases.request_cancel(Job, job_id)).one()
        assert not run.fail(failures.record("loss_not_finite"))
        assert run.cancelled()
        assert deployment.read(job_id).status == "cancelled"


class TestTheBaseModel:
    """The weights in the cache, and the source they come from."""

    @pytest.fixture
    def own(
        self,
        deployment: Deployment,
        tiny_catalogue: tuple[Path, Path],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> tuple[Deployment, Path, Path]:
        """A deployment whose source and cache can be spoilt; the source's folder and the cached model's."""
        catalogue, _ = tiny_catalogue
        source = tmp_path / "source"
        shutil.copytree(catalogue.parent / "model", source)
        mine = tmp_path / "catalogue.toml"
        mine.write_text(catalogue.read_text().replace(str(catalogue.parent / "model"), str(source)))
        deployment.environment |= {
            "DOUBLEI_CATALOGUE_FILE": str(mine),
            "DOUBLEI_MODEL_CACHE": str(tmp_path / "cache"),
        }
        for name, value in deployment.environment.items():
            monkeypatch.setenv(name, value)
        fresh = Deployment(deployment.environment)
        return fresh, source, tmp_path / "cache" / TINY

    @pytest.mark.parametrize("damage", ["flipped", "truncated", "tokenizer"])
    def test_a_damaged_copy_is_fetched_anew(
        self,
        own: tuple[Deployment, Path, Path],
        damage: str,
        fake_trainer: FakeTrainer,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A changed byte is found by the trainer, then mended; anything else is seen before it starts."""
        deployment, _, cached = own
        trainer = worker.training.TRAINER
        fake_trainer("finish")
        first = run_once(deployment)
        assert first.status == "succeeded", deployment.messages(first.id)
        spoil(cached, damage)
        if damage == "flipped":
            monkeypatch.setattr("worker.training.TRAINER", trainer)
        row = run_once(deployment, max_attempts=2)
        if damage == "flipped":
            assert row.status == "queued"
            (failed,) = events_named(deployment, row.id, "attempt_failed")
            assert failed["code"] == "corrupt_base_model"
            assert "model.safetensors does not have the recorded SHA-256" in str(deployment.messages(row.id))
            finetune_run(deployment.place(), row.id)
            row = deployment.read(row.id)
        assert row.status == "succeeded", deployment.messages(row.id)
        assert str(cached) not in json.dumps(deployment.messages(row.id))

    @pytest.mark.parametrize("damage", ["truncated", "tokenizer"])
    def test_a_damaged_source(self, own: tuple[Deployment, Path, Path], damage: str) -> None:
        """What it gives is fetched as it is, and can't be used."""
        deployment, source, _ = own
        spoil(source, damage)
        error = told(deployment, run_once(deployment))
        assert error["cause"] in ("corrupt_base_model", "base_model_unavailable")
        assert (error["category"], error["param"]) == ("server", "model")

    def test_no_room_for_it(self, own: tuple[Deployment, Path, Path]) -> None:
        """The kernel refuses the process that fetches the weights to write them."""
        deployment, _, cached = own
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, hard))
        try:
            row = run_once(deployment)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        error = told(deployment, row)
        assert (error["cause"], error["category"]) == ("disk_full", "capacity")
        assert "the base model could not be stored" in error["message"]
        assert not cached.exists()


def spoil(model: Path, damage: str) -> None:
    weights = model / "model.safetensors"
    if damage == "flipped":
        content = bytearray(weights.read_bytes())
        content[-100] ^= 1
        weights.write_bytes(content)
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    else:
        (model / "tokenizer.json").unlink()


class TestProgress:
    def test_estimated_finish_is_known_from_the_first_step_and_stays_put_between_two(
        self, deployment: Deployment, fake_trainer: FakeTrainer
    ) -> None:
        """A beat without news of the training says nothing new of its end."""
        job_id = deployment.job()
        run = JobRun.claim(deployment.place(), job_id)
        assert run is not None
        run.beat()
        row = deployment.read(job_id)
        assert (row.progress, row.estimated_finish) == (None, None)
        run.latest, run.finish_at = {"step": 1, "total_steps": 4, "eta_seconds": 30.0}, time.monotonic() + 30
        seen: list[datetime] = []
        for _ in range(3):
            run.beat()
            told = deployment.read(job_id).estimated_finish
            assert told is not None
            seen.append(told)
            time.sleep(0.4)
        assert (max(seen) - min(seen)).total_seconds() < 0.2

    def test_a_run_that_takes_a_lost_one_over_shows_none_of_its_progress(
        self, deployment: Deployment
    ) -> None:
        job_id = deployment.job()
        first = JobRun.claim(deployment.place(), job_id)
        assert first is not None
        first.latest, first.finish_at = (
            {"step": 3, "total_steps": 4, "eta_seconds": 9.0},
            time.monotonic() + 9,
        )
        first.write(stage="training")
        first.beat()
        assert deployment.read(job_id).progress == first.latest
        with deployment.sessions.begin() as session:
            session.execute(update(Job).values(lease_expires_at=Job.created_at))
        assert JobRun.claim(deployment.place(), job_id) is not None
        row = deployment.read(job_id)
        assert (row.attempt, row.progress, row.stage, row.estimated_finish) == (2, None, None, None)
