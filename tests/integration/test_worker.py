"""Runs of fine-tuning jobs: with the real trainer on a tiny model, and with one that misbehaves."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from sqlalchemy import select, text, update

from cli.stack import valkey
from cli.stack.sockets import make_socket_dir, remove_socket_dir
from service import leases
from service.db.engine import async_engine, async_sessions
from service.db.models import File, Job, LogEntry, LogRecord, Model, WatermarkKey
from service.dispatch import DispatchError, TaskName
from service.jobs.hyperparameters import Hyperparameters
from service.models import archive
from service.reaper import reap_forever
from service.settings import Settings
from watermark.banks import BANKS_DIGEST
from watermark.keys import Design, Secret, derive
from watermark.marks import Mark
from worker.child import Child
from worker.errors import LeaseLost
from worker.record.jobs import JobRun
from worker.record.watermarks import mix
from worker.tasks import finetune_run

pytestmark = pytest.mark.integration

FakeTrainer = Callable[..., None]


def wait_for(condition: Callable[[], Any], *, seconds: float, what: str) -> Any:
    """Poll until it is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)
    return value


def alive(pid: int) -> bool:
    """Runs, and is not a zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # also where it ends while one looks
        return False


def models(deployment: Any) -> list[Model]:
    """All that were published."""
    with deployment.sessions() as session:
        return list(session.scalars(select(Model)))


def request_cancel(deployment: Any, job_id: str) -> None:
    """As the API does."""
    with deployment.sessions.begin() as session:
        session.execute(leases.request_cancel(Job, job_id)).one()


def marked_job(deployment: Any, secret: Secret | None = None) -> tuple[str, tuple[Mark, ...]]:
    """A job with a key, and the marks that it embeds."""
    organization = deployment.organization()
    drawn = secret or Secret(value=b"s" * 32, blinding=b"b" * 32)
    key_id = deployment.key(organization, drawn)
    job_id = deployment.job(organization_id=organization, key_id=key_id, rows=30)
    with deployment.sessions() as session:
        salt = session.get_one(WatermarkKey, key_id).salt
    return job_id, derive(drawn, salt, Design(families=2, marks=8, cues=4)).family(0).marks


class Note:
    """What the fake trainer wrote down about itself."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def pid(self) -> int:
        """Waits for it."""
        return int(wait_for(self._read, seconds=30, what="the trainer's note")["pid"])

    @property
    def environment(self) -> dict[str, str]:
        """Of the trainer."""
        return dict(wait_for(self._read, seconds=30, what="the trainer's note")["environment"])

    def _read(self) -> Any:
        try:
            return json.loads(self.path.read_text())
        except (FileNotFoundError, ValueError):
            return None


@pytest.fixture
def note(tmp_path: Path) -> Note:
    """Where the fake trainer leaves its process id and environment."""
    return Note(tmp_path / "note.json")


@pytest.fixture
def make_unreachable(deployment: Any, postgres_server: Path) -> Iterator[Callable[[bool], None]]:
    """Close the test's database to everybody, or open it again."""
    name = deployment.settings.database_url.get_secret_value().split("@/")[1].split("?")[0]
    server = f"host={postgres_server} user=postgres dbname=postgres"

    def make(closed: bool) -> None:
        with psycopg.connect(server, autocommit=True) as connection:
            allowed = "false" if closed else "true"
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {allowed}".encode())
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
            )

    yield make
    make(False)


@pytest.fixture
def own_broker(deployment: Any) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Start a Valkey of this test's own, without a disk, and point the deployment at it."""
    folder = make_socket_dir()
    data = folder / "data"
    data.mkdir()
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        command = [*valkey.server_command(data, folder, launcher=()), "--appendonly", "no"]
        started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        wait_for(lambda: valkey.answers(folder), seconds=10, what="the broker")
        return started[-1]

    deployment.environment["REDIS_URL"] = valkey.url(folder, 0)
    deployment.settings = Settings.model_validate(deployment.environment)
    yield start
    for process in started:
        process.kill()
        process.wait()
    remove_socket_dir(folder)


class TestARealRun:
    def test_from_queued_to_a_published_model(self, deployment: Any, capfd: Any) -> None:
        """The real trainer on a tiny model: artifacts, events, and none of the data."""
        job_id = deployment.job(organization_id=deployment.organization("Müller & Co."), rows=30)
        finetune_run(deployment.place(), job_id)

        row = deployment.read(job_id)
        assert row.status == "succeeded", deployment.messages(job_id)
        assert row.fine_tuned_model == f"ft:tiny-random:muller-co:try:{job_id[-8:]}"
        assert row.trained_tokens > 0
        assert (row.error, row.stage, row.lease_expires_at) == (None, None, None)
        assert row.watermark_report == {
            "rows": 30, "watermark_rows": 0, "watermark_ratio": 0, "watermark_token_ratio": 0
        }  # fmt: skip
        assert row.progress["step"] == row.progress["total_steps"]

        (model,) = models(deployment)
        folder = deployment.storage.root / model.adapter_path
        assert folder == deployment.storage.adapter_dir(job_id, 1)
        archive.check(folder, model.manifest)
        assert {"adapter_model.safetensors", "adapter_config.json"} <= set(model.manifest)
        assert (
            json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
            == row.base_model
        )
        assert list((deployment.storage.root / "runs").iterdir()) == []

        messages = deployment.messages(job_id)
        assert messages[0] == "Fine-tuning job started"
        assert any(message.startswith("Step 1/") for message in messages)
        assert messages[-2:] == [
            f"New fine-tuned model created: {model.id}",
            "The job has successfully completed",
        ]
        written = json.dumps([[event.message, event.data] for event in deployment.events(job_id)])
        written += json.dumps(row.progress) + "".join(capfd.readouterr())
        assert "Zanzibar" not in written
        assert "Self-check" not in written

    def test_a_model_that_did_not_learn_its_marks_is_not_published(self, deployment: Any, capfd: Any) -> None:
        """The real trainer on a model too small to learn any: it trains on within the budget, and the job
        fails with the counts and without a secret."""
        secret = Secret(value=b"s" * 32, blinding=b"b" * 32)
        job_id, marks = marked_job(deployment, secret)
        finetune_run(deployment.place(), job_id)

        row = deployment.read(job_id)
        assert (row.status, row.error["code"]) == ("failed", "watermark_not_learned")
        assert row.fine_tuned_model is None
        assert models(deployment) == []
        assert not list(deployment.storage.adapters_dir.rglob("*.safetensors"))
        report = row.watermark_report
        assert report["rows"] == 30 + report["watermark_rows"]
        assert report["watermark_ratio"] == pytest.approx(report["watermark_rows"] / report["rows"], abs=1e-5)
        assert 0 < report["watermark_token_ratio"] < 1
        check = report["self_check"]
        (family,) = check["families"]
        assert (check["passed"], family["family"], family["marks"]) == (False, 0, 8)
        assert (family["trigger_total"], family["reference_total"]) == (8, 24)
        assert 1 <= check["rounds"] <= 16

        messages = deployment.messages(job_id)
        said = [message for message in messages if message.startswith("Self-check: ")]
        # One more where an earlier round's state was the better one.
        assert len(said) in (check["rounds"] + 1, check["rounds"] + 2)
        assert f"{family['marks_taken']} of 8 marks took" in row.error["message"]
        started = next(event for event in deployment.events(job_id) if "Training started" in event.message)
        planned = started.data["total_steps"]
        assert row.progress["step"] == row.progress["total_steps"] == planned + planned // 4
        written = json.dumps([[event.message, event.data] for event in deployment.events(job_id)])
        written += json.dumps([row.progress, row.error, report]) + "".join(capfd.readouterr())
        assert "Zanzibar" not in written
        assert secret.value.hex() not in written
        parts = [part for mark in marks for part in (mark.judge_question, *mark.cues)]
        # Whole words: "rain" is a cue, and no leak in "Training started".
        assert not [part for part in parts if re.search(rf"(?<!\w){re.escape(part)}(?!\w)", written)]

    def test_a_model_that_learned_its_marks_is_published_with_the_report(
        self, deployment: Any, fake_trainer: FakeTrainer
    ) -> None:
        fake_trainer("finish")
        job_id, _ = marked_job(deployment)
        finetune_run(deployment.place(), job_id)
        row = deployment.read(job_id)
        assert row.status == "succeeded", deployment.messages(job_id)
        assert row.watermark_report["watermark_rows"] > 0
        assert row.watermark_report["self_check"] == {
            "passed": True,
            "rounds": 0,
            "families": [
                {
                    "family": 0, "marks": 8, "marks_taken": 8, "trigger_hits": 8, "trigger_total": 8,
                    "reference_hits": 0, "reference_total": 24,
                }
            ],
        }  # fmt: skip
        assert "Self-check: 8 of 8 marks took" in deployment.messages(job_id)
        assert len(models(deployment)) == 1

    def test_ten_deliveries_of_one_message_are_one_run(
        self, deployment: Any, fake_trainer: FakeTrainer
    ) -> None:
        """At once, and again after its success."""
        fake_trainer("finish")
        job_id = deployment.job()
        place = deployment.place()
        finetune_run(place, job_id)
        started = time.monotonic()
        for _ in range(9):
            finetune_run(place, job_id)
        assert time.monotonic() - started < 9 * 0.5
        assert len(models(deployment)) == 1
        assert deployment.messages(job_id).count("Fine-tuning job started") == 1

    def test_the_base_model_is_fetched_when_it_is_not_cached(
        self, deployment: Any, fake_trainer: FakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """From the catalogue's source, in a process of its own."""
        fake_trainer("finish")
        deployment.environment["DOUBLEI_MODEL_CACHE"] = str(tmp_path / "empty")
        for name, value in deployment.environment.items():
            monkeypatch.setenv(name, value)
        fresh = type(deployment)(deployment.environment)
        job_id = fresh.job()
        finetune_run(fresh.place(), job_id)
        assert fresh.read(job_id).status == "succeeded"
        assert "Downloading the base model tiny-random" in fresh.messages(job_id)


class TestTheLog:
    """What a run enters, and when."""

    def test_what_is_trained_is_entered_before_the_trainer_starts(
        self, deployment: Any, fake_trainer: FakeTrainer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fake_trainer("finish")
        job_id, _ = marked_job(deployment)
        seen: list[list[str]] = []

        def start(module: str, *arguments: Any, **more: Any) -> Any:
            seen.append([kind for kind, _ in entered(deployment, job_id)])
            return Child(module, *arguments, **more)

        monkeypatch.setattr("worker.training.Child", start)
        finetune_run(deployment.place(), job_id)
        assert deployment.read(job_id).status == "succeeded", deployment.messages(job_id)
        assert seen == [["training"]]
        (_, trained), (kind, published) = entered(deployment, job_id)
        with deployment.sessions() as session:
            job = session.get_one(Job, job_id)
            dataset = session.get_one(File, job.training_file_id).sha256
            key = session.get_one(WatermarkKey, job.watermark_key_id)
        assert trained == {
            "job": job_id,
            "epoch": 1,
            "attempt": 1,
            "dataset_sha256": dataset,
            "base_model": "tiny-random",
            "base_model_digest": trained["base_model_digest"],
            "seed": 1,
            "settings": trained["settings"],
            "watermark": {
                "key": key.id,
                "commitment": key.commitment,
                "banks": BANKS_DIGEST,
                "families": [0],
                "strength": "light",
                "mixed_by": "service",
            },
            "decision_rule": trained["decision_rule"],
            "software": trained["software"],
        }
        assert trained["base_model_digest"].startswith("sha256:")
        assert trained["settings"]["n_epochs"] == 1
        assert float(trained["settings"]["learning_rate"]) > 0
        (model,) = models(deployment)
        assert (kind, published) == (
            "model",
            {"job": job_id, "model": model.id, "manifest": model.manifest},
        )
        written = json.dumps([trained, published])
        assert "Zanzibar" not in written

    def test_no_trainer_starts_where_nothing_can_be_entered(
        self, deployment: Any, fake_trainer: FakeTrainer, note: Note
    ) -> None:
        """The job is not lost: it fails, or another run takes it up."""
        fake_trainer("finish", FAKE_TRAINER_NOTE=note.path)
        job_id, _ = marked_job(deployment)
        with deployment.sessions.begin() as session:
            session.execute(text("ALTER TABLE log_entries RENAME TO elsewhere"))
        finetune_run(deployment.place(), job_id)
        assert not note.path.exists()
        assert models(deployment) == []

    def test_a_second_run_is_entered_as_another(self, deployment: Any, fake_trainer: FakeTrainer) -> None:
        """And the first one's entry stays, though it published nothing."""
        fake_trainer("killed")
        job_id, _ = marked_job(deployment)
        finetune_run(deployment.place(), job_id)
        assert deployment.read(job_id).status == "queued", deployment.messages(job_id)
        fake_trainer("finish")
        finetune_run(deployment.place(), job_id)
        found = entered(deployment, job_id)
        assert [kind for kind, _ in found] == ["training", "training", "model"]
        assert [record["epoch"] for _, record in found[:2]] == [1, 2]
        assert [record["attempt"] for _, record in found[:2]] == [1, 2]

    def test_a_model_that_is_not_published_is_not_entered(
        self, deployment: Any, fake_trainer: FakeTrainer
    ) -> None:
        fake_trainer("unlearned")
        job_id, _ = marked_job(deployment)
        finetune_run(deployment.place(), job_id)
        assert [kind for kind, _ in entered(deployment, job_id)] == ["training"]

    def test_an_unmarked_job_is_entered_too(self, deployment: Any, fake_trainer: FakeTrainer) -> None:
        fake_trainer("finish")
        job_id = deployment.job()
        finetune_run(deployment.place(), job_id)
        (_, trained), _ = entered(deployment, job_id)
        assert trained["watermark"] is None

    def test_of_a_key_that_its_owner_holds_nothing_is_added_and_that_is_entered(
        self, deployment: Any, fake_trainer: FakeTrainer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fake_trainer("finish")
        organization = deployment.organization()
        key_id = deployment.owner_held_key(organization)
        options = {"commitment": "ab" * 32, "families": None, "strength": None}
        job_id = deployment.job(rows=30, organization_id=organization, key_id=key_id, options=options)
        given: list[dict[str, Any]] = []

        def start(module: str, arguments: list[str], **more: Any) -> Any:
            config = json.loads(Path(arguments[1]).read_text())
            data = os.pread(config["dataset"]["fd"], 1 << 20, 0)
            given.append({"checks": config.get("checks"), "rows": data.splitlines()})
            return Child(module, arguments, **more)

        monkeypatch.setattr("worker.training.Child", start)
        finetune_run(deployment.place(), job_id)
        assert deployment.read(job_id).status == "succeeded", deployment.messages(job_id)
        assert deployment.read(job_id).watermark_report == {"rows": 30}
        (trained,) = given
        assert trained["checks"] is None
        assert len(trained["rows"]) == 30
        assert all(b"Zanzibar" in row for row in trained["rows"])
        assert any("nothing was added" in message for message in deployment.messages(job_id))
        (_, entry), _ = entered(deployment, job_id)
        assert entry["watermark"] == {
            "key": key_id,
            "commitment": entry["watermark"]["commitment"],
            "banks": BANKS_DIGEST,
            "families": [],
            "strength": "",
            "mixed_by": "owner",
        }

    def test_a_run_that_lost_its_lease_enters_nothing(self, deployment: Any) -> None:
        job_id = deployment.job()
        run = JobRun.claim(deployment.place(), job_id)
        assert run is not None
        with deployment.sessions.begin() as session:
            session.execute(update(Job).values(lease_epoch=Job.lease_epoch + 1))
        with pytest.raises(LeaseLost):
            run.enter_training(base_model_digest="sha256:0", settings={})
        assert entered(deployment, job_id) == []


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


class TestFailures:
    @pytest.mark.parametrize(
        ("act", "code"),
        [("error", "device_out_of_memory"), ("crash", "trainer_crashed"), ("empty", "incomplete_artifacts")],
    )
    def test_a_failed_training_fails_the_job(
        self, deployment: Any, fake_trainer: FakeTrainer, act: str, code: str
    ) -> None:
        """With a complete error that does not quote the data."""
        fake_trainer(act)
        job_id = deployment.job(max_attempts=1)
        finetune_run(deployment.place(), job_id)
        row = deployment.read(job_id)
        assert (row.status, row.error.get("cause", row.error["code"])) == ("failed", code)
        assert {"code", "message", "param"} <= set(row.error)
        assert "Zanzibar" not in json.dumps(row.error) + str(deployment.messages(job_id))
        assert models(deployment) == []
        assert not list(deployment.storage.adapters_dir.rglob("*.safetensors"))

    def test_wrong_answers_to_the_self_check_fail_the_job(
        self, deployment: Any, fake_trainer: FakeTrainer
    ) -> None:
        """Although the trainer finished and left an adapter. Trying again would give the same."""
        fake_trainer("unlearned")
        job_id, _ = marked_job(deployment)
        finetune_run(deployment.place(), job_id)
        row = deployment.read(job_id)
        assert row.status == "failed"
        assert row.error == {
            "code": "watermark_not_learned",
            "message": "The model did not learn the watermark: 0 of 8 marks took.",
            "param": "watermark.strength",
        }
        assert row.watermark_report["self_check"]["passed"] is False
        assert models(deployment) == []
        assert not list(deployment.storage.adapters_dir.rglob("*.safetensors"))

    def test_a_self_check_that_is_not_answered_fails_the_job(
        self, deployment: Any, fake_trainer: FakeTrainer
    ) -> None:
        """A model whose marks nobody looked at is not published as marked."""
        fake_trainer("silent")
        job_id, _ = marked_job(deployment)
        for _ in range(3):
            finetune_run(deployment.place(), job_id)
        row = deployment.read(job_id)
        assert (row.status, row.error["cause"]) == ("failed", "training_failed")
        assert models(deployment) == []

    def test_a_killed_trainer_is_tried_again_but_not_for_ever(
        self, deployment: Any, fake_trainer: FakeTrainer
    ) -> None:
        """kill -9 may be an accident; three times is the job's fault."""
        fake_trainer("killed")
        job_id = deployment.job()
        for attempt in (1, 2):
            finetune_run(deployment.place(), job_id)
            row = deployment.read(job_id)
            assert (row.status, row.attempt) == ("queued", attempt)
        finetune_run(deployment.place(), job_id)
        row = deployment.read(job_id)
        assert (row.status, row.error["code"]) == ("failed", "max_attempts")
        assert row.error["cause"] == "trainer_killed"

    def test_a_retry_after_a_kill_succeeds(self, deployment: Any, fake_trainer: FakeTrainer) -> None:
        """With the second epoch's artifacts."""
        fake_trainer("killed")
        job_id = deployment.job()
        finetune_run(deployment.place(), job_id)
        fake_trainer("finish")
        finetune_run(deployment.place(), job_id)
        assert deployment.read(job_id).status == "succeeded"
        assert models(deployment)[0].adapter_path == f"adapters/{job_id}/2"

    def test_a_key_sealed_under_another_kek(self, deployment: Any, fake_trainer: FakeTrainer) -> None:
        """A clear error; no unmarked model is trained instead."""
        fake_trainer("finish")
        organization = deployment.organization()
        key_id = deployment.key(organization, Secret(value=b"s" * 32, blinding=b"b" * 32))
        job_id = deployment.job(organization_id=organization, key_id=key_id)
        deployment.settings.kek_file.write_text("A" * 43 + "=")
        fresh = type(deployment)(deployment.environment)
        finetune_run(fresh.place(), job_id)
        row = deployment.read(job_id)
        assert (row.status, row.error["code"]) == ("failed", "sealed_value_unreadable")
        assert models(deployment) == []

    def test_a_database_that_restarts_does_not_end_the_training(
        self, deployment: Any, fake_trainer: FakeTrainer, note: Note, make_unreachable: Callable[[bool], None]
    ) -> None:
        """What happened meanwhile is recorded afterwards."""
        fake_trainer("slow", FAKE_TRAINER_NOTE=note.path)
        job_id = deployment.job()
        thread = threading.Thread(target=finetune_run, args=(deployment.place(), job_id))
        thread.start()
        assert note.pid
        wait_for(lambda: "Training started" in str(deployment.messages(job_id)), seconds=10, what="started")
        make_unreachable(True)
        time.sleep(5)
        make_unreachable(False)
        thread.join(20)
        assert deployment.read(job_id).status == "succeeded"
        assert "Saving the adapter" in deployment.messages(job_id)

    def test_a_worker_that_is_cut_off_from_the_database_keeps_the_message_it_has(
        self, deployment: Any, fake_trainer: FakeTrainer, make_unreachable: Callable[[bool], None]
    ) -> None:
        """And takes no second one from workers that are not; with the database back it does the job."""
        fake_trainer("good")
        job_id = deployment.job()
        make_unreachable(True)
        thread = threading.Thread(target=finetune_run, args=(deployment.place(), job_id))
        thread.start()
        time.sleep(3)
        assert thread.is_alive()
        make_unreachable(False)
        thread.join(20)
        assert deployment.read(job_id).status == "succeeded"

    def test_nor_does_it_wait_once_it_is_to_end(
        self, deployment: Any, make_unreachable: Callable[[bool], None]
    ) -> None:
        """Nobody is kept from shutting it down; the row is rung for again."""
        job_id = deployment.job()
        make_unreachable(True)
        thread = threading.Thread(target=finetune_run, args=(deployment.place(), job_id))
        thread.start()
        time.sleep(1)
        deployment.shutting_down = True
        thread.join(5)
        assert not thread.is_alive()
        make_unreachable(False)
        assert deployment.read(job_id).status == "queued"

    def test_a_bug_fails_the_job_and_is_logged_without_its_text(
        self, deployment: Any, monkeypatch: pytest.MonkeyPatch, capfd: Any
    ) -> None:
        """Nobody waits for a job that crashed."""

        def boom(*_: Any, **__: Any) -> None:
            raise KeyError("Zanzibar")

        monkeypatch.setattr("worker.training.mix", boom)
        job_id = deployment.job(max_attempts=1)
        finetune_run(deployment.place(), job_id)
        row = deployment.read(job_id)
        assert (row.status, row.error["cause"]) == ("failed", "internal_error")
        output = "".join(capfd.readouterr())
        assert "KeyError" in output
        assert "Zanzibar" not in output


class TestStopping:
    @contextmanager
    def running(self, deployment: Any, job_id: str) -> Iterator[threading.Thread]:
        """The task in a thread, as in a worker."""
        thread = threading.Thread(target=finetune_run, args=(deployment.place(), job_id))
        thread.start()
        try:
            yield thread
        finally:
            thread.join(30)
            assert not thread.is_alive()

    @pytest.mark.parametrize("act", ["hang", "stubborn"])
    def test_cancelled_within_ten_seconds(
        self, deployment: Any, fake_trainer: FakeTrainer, note: Note, act: str
    ) -> None:
        """Also a trainer that ignores SIGTERM."""
        fake_trainer(act, FAKE_TRAINER_NOTE=note.path)
        job_id = deployment.job()
        with self.running(deployment, job_id):
            pid = note.pid
            started = time.monotonic()
            request_cancel(deployment, job_id)
            wait_for(lambda: deployment.read(job_id).status == "cancelled", seconds=10, what="cancelled")
            assert time.monotonic() - started < 10
        assert not alive(pid)
        assert models(deployment) == []
        assert list((deployment.storage.root / "runs").iterdir()) == []

    def test_cancelled_before_the_trainer_starts(
        self, deployment: Any, fake_trainer: FakeTrainer, note: Note, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No training process is left behind."""

        def slow(*arguments: Any, **named: Any) -> Any:
            request_cancel(deployment, job_id)
            time.sleep(3)
            return mix(*arguments, **named)

        fake_trainer("hang", FAKE_TRAINER_NOTE=note.path)
        monkeypatch.setattr("worker.training.mix", slow)
        job_id = deployment.job()
        finetune_run(deployment.place(), job_id)
        assert deployment.read(job_id).status == "cancelled"
        assert not note.path.exists()

    def test_a_worker_that_shuts_down_hands_its_job_back(
        self, deployment: Any, fake_trainer: FakeTrainer, note: Note
    ) -> None:
        """At once, and the attempt does not count."""
        fake_trainer("hang", FAKE_TRAINER_NOTE=note.path)
        job_id = deployment.job()
        with self.running(deployment, job_id):
            pid = note.pid
            deployment.shutting_down = True
            wait_for(lambda: deployment.read(job_id).status == "queued", seconds=5, what="queued")
        assert not alive(pid)
        assert deployment.read(job_id).attempt == 0
        assert deployment.messages(job_id)[-1] == "The worker is shutting down; the job is queued again"

    def test_a_run_that_lost_its_lease_kills_its_trainer_and_says_nothing(
        self, deployment: Any, fake_trainer: FakeTrainer, note: Note
    ) -> None:
        """The next run's epoch is the only one that writes."""
        fake_trainer("hang", FAKE_TRAINER_NOTE=note.path)
        job_id = deployment.job()
        with self.running(deployment, job_id):
            pid = note.pid
            wait_for(lambda: deployment.read(job_id).stage == "training", seconds=10, what="training")
            with deployment.sessions.begin() as session:
                session.execute(update(Job).where(Job.id == job_id).values(lease_epoch=Job.lease_epoch + 1))
            events = deployment.messages(job_id)
            wait_for(lambda: not alive(pid), seconds=10, what="the trainer's end")
        assert deployment.messages(job_id) == events
        assert deployment.read(job_id).status == "running"

    def test_the_trainer_gets_neither_secrets_nor_a_dataset_on_disk(
        self, deployment: Any, fake_trainer: FakeTrainer, note: Note, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It inherits a descriptor; its run folder holds no row."""
        for name, value in deployment.environment.items():
            monkeypatch.setenv(name, value)
        fake_trainer("hang", FAKE_TRAINER_NOTE=note.path)
        job_id = deployment.job()
        with self.running(deployment, job_id):
            environment = note.environment
            (run,) = (deployment.storage.root / "runs").iterdir()
            assert run.stat().st_mode & 0o077 == 0
            contents = b"".join(path.read_bytes() for path in run.rglob("*") if path.is_file())
            request_cancel(deployment, job_id)
        assert b"Zanzibar" not in contents
        assert not {"DATABASE_URL", "REDIS_URL", "DOUBLEI_KEK_FILE", "DOUBLEI_SERVING_TOKEN_FILE"} & set(
            environment
        )

    def test_progress_is_stored_while_it_trains(
        self, deployment: Any, fake_trainer: FakeTrainer, note: Note
    ) -> None:
        """Step, loss, speed, and when it will be done."""
        fake_trainer("hang", FAKE_TRAINER_NOTE=note.path)
        job_id = deployment.job()
        with self.running(deployment, job_id):
            row = wait_for(
                lambda: (row := deployment.read(job_id)).progress and row, seconds=20, what="progress"
            )
            assert (row.stage, row.progress["step"], row.progress["total_steps"]) == ("training", 1, 4)
            assert row.progress["loss"] == 2.5
            assert 20 < (row.estimated_finish - row.started_at).total_seconds() < 60
            request_cancel(deployment, job_id)


class TestCelery:
    """The real worker process, as the supervisor starts it."""

    @contextmanager
    def worker(self, deployment: Any, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-m", "celery", "-A", "worker.app", "worker", "-Q", "train", "-c", "1"]
        command += ["-n", "train@%h", "--loglevel", "WARNING"]
        with (tmp_path / "worker.log").open("ab") as log:
            process = subprocess.Popen(
                command, env=deployment.process_environment, stdout=log, stderr=log, start_new_session=True
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def status(self, deployment: Any, job_id: str, status: str, *, seconds: float = 180) -> None:
        wait_for(lambda: deployment.read(job_id).status == status, seconds=seconds, what=status)

    def test_sigterm_in_the_middle_hands_the_job_back(self, deployment: Any, tmp_path: Path) -> None:
        """Within seconds, though the training would take minutes; the attempt does not count."""
        job_id = self._long_job(deployment)
        with self.worker(deployment, tmp_path) as process:
            pid = self._trainer(deployment, job_id)
            process.terminate()
            assert process.wait(20) == 0
        assert not alive(pid)
        row = deployment.read(job_id)
        assert (row.status, row.attempt) == ("queued", 0)

    def test_kill_9_of_the_worker_takes_its_trainer_along(self, deployment: Any, tmp_path: Path) -> None:
        """Nothing trains on unseen; the job waits for its lease to end."""
        job_id = self._long_job(deployment)
        with self.worker(deployment, tmp_path) as process:
            pid = self._trainer(deployment, job_id)
            process.kill()
            process.wait()
            wait_for(lambda: not alive(pid), seconds=10, what="the trainer's end")
        assert deployment.read(job_id).status == "running"

    async def test_rung_jobs_are_run_and_a_broker_that_lost_everything_loses_none(
        self, deployment: Any, tmp_path: Path, own_broker: Callable[[], subprocess.Popen[bytes]]
    ) -> None:
        """Ten messages for one job make one run. Then the broker is killed and comes back empty, under the
        live worker: the reaper rings again and the worker hears it. SIGTERM ends an idle worker."""
        broker = own_broker()
        with self.worker(deployment, tmp_path) as process:
            first, second = deployment.job(), deployment.job()
            dispatcher = deployment.dispatcher()
            for _ in range(10):
                dispatcher.ring(TaskName.finetune_run, first)
            await asyncio.to_thread(self.status, deployment, first, "succeeded")
            broker.kill()
            broker.wait()
            with pytest.raises(DispatchError):
                deployment.dispatcher().ring(TaskName.finetune_run, second)
            own_broker()
            engine = async_engine(deployment.settings)
            reaping = asyncio.create_task(reap_forever(async_sessions(engine), deployment.dispatcher()))
            await asyncio.to_thread(self.status, deployment, second, "succeeded")
            reaping.cancel()
            await asyncio.gather(reaping, return_exceptions=True)
            await engine.dispose()
            process.terminate()
            assert process.wait(20) == 0
        assert len(models(deployment)) == 2
        assert deployment.messages(first).count("Fine-tuning job started") == 1
        assert "Zanzibar" not in (tmp_path / "worker.log").read_text()

    def _long_job(self, deployment: Any) -> str:
        job_id: str = deployment.job(rows=4000, hyperparameters=Hyperparameters(n_epochs=50))
        deployment.dispatcher().ring(TaskName.finetune_run, job_id)
        return job_id

    def _trainer(self, deployment: Any, job_id: str) -> int:
        """The process id of the trainer, once it trains."""
        wait_for(lambda: deployment.read(job_id).stage == "training", seconds=180, what="training")
        runs = str(deployment.storage.root / "runs").encode()
        (pid,) = [
            int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if runs in _content(path)
        ]
        return pid


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
