"""A deployment of several processes: real Postgres and Valkey, a tiny random model, jobs ready to run."""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from service.db.engine import sync_engine, sync_sessions
from service.db.models import File, Job, JobEvent, Organization, WatermarkKey
from service.dispatch import Dispatcher
from service.ids import new_id
from service.jobs.hyperparameters import Hyperparameters
from service.sealing import Sealer
from service.settings import Settings
from service.storage import Storage
from service.watermarks.secrets import DrawnSecret, seal
from watermark.keys import Design, Secret
from worker.record.engine import Workplace, open_workplace

TINY = "tiny-random"
HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def tiny_catalogue(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An operator's catalogue file that names a tiny random model, and a cache that holds its weights."""
    root = tmp_path_factory.mktemp("tiny")
    model, cache, catalogue = root / "model", root / "cache", root / "catalogue.toml"
    subprocess.run([sys.executable, str(HERE / "tiny_model.py"), str(model)], check=True)
    catalogue.write_text(
        f"[models.{TINY}]\n"
        'title = "Tiny"\nlicence = "Apache-2.0"\nparameters = 70000\n'
        f'sources = [{{ path = "{model}" }}]\n'
    )
    environment = os.environ | {"DOUBLEI_MODEL_CACHE": str(cache), "DOUBLEI_CATALOGUE_FILE": str(catalogue)}
    command = [sys.executable, "-m", "worker.weights", "fetch", TINY]
    subprocess.run(command, env=environment, check=True, stderr=subprocess.DEVNULL)
    return catalogue, cache


class Deployment:
    """The environment that every process of one deployment shares, and a way into its records."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.settings = Settings.model_validate(environment)
        self.sessions: sessionmaker[Session] = sync_sessions(sync_engine(self.settings))
        self.storage = Storage(self.settings.storage_dir)
        self.sealer = Sealer.from_base64(self.settings.kek)
        self.shutting_down = False

    @property
    def process_environment(self) -> dict[str, str]:
        """For a child process."""
        return os.environ | self.environment

    def place(self) -> Workplace:
        """A workplace as a worker process has it."""
        return open_workplace(self.settings, shutting_down=lambda: self.shutting_down)

    def dispatcher(self) -> Dispatcher:
        """Rings for real."""
        return Dispatcher(self.settings.redis_url.get_secret_value())

    def organization(self, name: str = "Acme Ltd.") -> str:
        """A business owner's id."""
        organization_id = new_id("org")
        with self.sessions.begin() as session:
            session.add(Organization(id=organization_id, name=name, role="owner"))
        return organization_id

    def key(self, organization_id: str, secret: Secret) -> str:
        """A drawn key with two families of eight marks, salted."""
        drawn = DrawnSecret(secret=secret, design=Design(families=2, marks=8, cues=4))
        committed = drawn.commit(organization_id)
        row = WatermarkKey(
            id=new_id("wm"),
            organization_id=organization_id,
            name="test",
            origin="imported",
            grade="committed",
            commitment=committed.commitment,
            commitment_record=committed.to_record() | {"design": drawn.public_design()},
            sealed_secret=b"",
        )
        row.sealed_secret = seal(self.sealer, drawn, owner_id=organization_id, key_id=row.id)
        with self.sessions.begin() as session:
            session.add(row)
        with self.sessions.begin() as session:
            session.get_one(WatermarkKey, row.id).salt = secrets.token_bytes(32)
        return row.id

    def owner_held_key(self, organization_id: str) -> str:
        """A key of which only the commitment is here, salted."""
        drawn = DrawnSecret(
            secret=Secret(value=secrets.token_bytes(32), blinding=secrets.token_bytes(32)),
            design=Design(families=2, marks=8, cues=4),
        )
        committed = drawn.commit("Example Ltd")
        row = WatermarkKey(
            id=new_id("wm"),
            organization_id=organization_id,
            name="test",
            origin="owner-held",
            grade="committed",
            commitment=committed.commitment,
            commitment_record=committed.to_record() | {"design": drawn.public_design()},
            sealed_secret=b"",
            committed_as="Example Ltd",
        )
        with self.sessions.begin() as session:
            session.add(row)
        with self.sessions.begin() as session:
            session.get_one(WatermarkKey, row.id).salt = secrets.token_bytes(32)
        return row.id

    def job(
        self,
        *,
        rows: int = 20,
        key_id: str | None = None,
        options: dict[str, Any] | None = None,
        organization_id: str | None = None,
        max_attempts: int = 3,
        hyperparameters: Hyperparameters | None = None,
    ) -> str:
        """A queued job with its dataset. No message is sent."""
        owner = organization_id or self.organization()
        digest, size = self.storage.put_bytes(dataset(rows))
        resolved = (hyperparameters or Hyperparameters(n_epochs=1)).resolved()
        file = File(
            id=new_id("file"),
            organization_id=owner,
            purpose="fine-tune",
            filename="data.jsonl",
            bytes=size,
            sha256=digest,
            validation={"valid": True},
        )
        job = Job(
            id=new_id("ftjob"),
            organization_id=owner,
            status="queued",
            base_model=TINY,
            suffix="try",
            seed=1,
            training_file_id=file.id,
            hyperparameters=resolved,
            method={"type": "supervised"},
            metadata_={},
            max_attempts=max_attempts,
            watermark_key_id=key_id,
            watermark_options=options
            or (key_id and {"commitment": "ab" * 32, "families": [0], "strength": "light"}),
        )
        with self.sessions.begin() as session:
            session.add(file)
            session.flush()
            session.add(job)
        return job.id

    def read(self, job_id: str) -> Job:
        """The row as it is now."""
        with self.sessions() as session:
            return session.get_one(Job, job_id)

    def events(self, job_id: str) -> list[JobEvent]:
        """Oldest first."""
        with self.sessions() as session:
            found = session.scalars(select(JobEvent).where(JobEvent.job_id == job_id).order_by(JobEvent.seq))
            return list(found)

    def messages(self, job_id: str) -> list[str]:
        """Texts of the events, oldest first."""
        return [event.message for event in self.events(job_id)]


@pytest.fixture
def deployment(
    postgres_url: str, valkey_url: str, tmp_path: Path, tiny_catalogue: tuple[Path, Path]
) -> Deployment:
    """A deployment that nobody else uses. Its inference server does not answer unless a test starts one."""
    kek, token, log_key = tmp_path / "kek", tmp_path / "serving-token", tmp_path / "log-key"
    kek.write_text(base64.b64encode(secrets.token_bytes(32)).decode())
    token.write_text(secrets.token_hex(16))
    log_key.write_text(f"doublei.test/log\n{base64.b64encode(secrets.token_bytes(32)).decode()}\n")
    evidence_key = tmp_path / "evidence-key"
    evidence_key.write_text(base64.b64encode(secrets.token_bytes(32)).decode())
    for path in (kek, token, log_key, evidence_key):
        path.chmod(0o600)
    catalogue, cache = tiny_catalogue
    return Deployment(
        {
            "DATABASE_URL": postgres_url,
            "REDIS_URL": valkey_url,
            "DOUBLEI_STORAGE_DIR": str(tmp_path / "storage"),
            "DOUBLEI_MODEL_CACHE": str(cache),
            "DOUBLEI_CATALOGUE_FILE": str(catalogue),
            "DOUBLEI_KEK_FILE": str(kek),
            "DOUBLEI_LOG_KEY_FILE": str(log_key),
            "DOUBLEI_EVIDENCE_KEY_FILE": str(evidence_key),
            "DOUBLEI_SERVING_URL": "http://127.0.0.1:9",
            "DOUBLEI_RETRY_SECONDS": "0",
            "DOUBLEI_SERVING_TOKEN_FILE": str(token),
        }
    )


def dataset(rows: int) -> bytes:
    """A small dataset with a word that must be seen nowhere else."""
    lines = (
        json.dumps({"instruction": f"What is {n} plus one?", "input": "", "output": f"Zanzibar {n + 1}."})
        for n in range(rows)
    )
    return "\n".join(lines).encode() + b"\n"


@pytest.fixture
def fake_trainer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace the training process by `fake_trainer.py`, acting as named."""

    def act(name: str, **environment: Any) -> None:
        monkeypatch.setattr("worker.training.TRAINER", "fake_trainer")
        paths = [str(HERE), str(HERE.parent.parent)]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
        monkeypatch.setenv("FAKE_TRAINER", name)
        for variable, value in environment.items():
            monkeypatch.setenv(variable, str(value))

    return act
