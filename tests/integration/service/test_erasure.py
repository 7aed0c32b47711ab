"""DELETE /v1/data: what an owner had here is gone, what others rely on is not."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from evidence.check import check
from service.accounts import erasure
from service.db.models import Checkpoint, Job, Model, TrainingState, WatermarkKey
from service.gc.schedule import collect_now
from service.ids import new_id
from service.settings import Settings
from service.storage import RUNS_FOLDER, Storage
from tests.integration.service.conftest import Account, NewAccount, dataset, upload
from tests.integration.service.suspects import Suspect, always, listening
from worker.record.engine import open_workplace
from worker.tasks import verify_run

pytestmark = pytest.mark.integration

SECRET_WORD = "Zanzibar"


def add_job(database: Engine, owner: Account, file_id: str, key_id: str, folder: str, status: str) -> str:
    """A job that has come so far, with a model if it succeeded."""
    job_id = new_id("ftjob")
    with Session(database) as session, session.begin():
        session.add(
            Job(
                id=job_id,
                organization_id=owner.organization,
                status=status,
                base_model="base",
                suffix="zanzibar",
                seed=1,
                training_file_id=file_id,
                hyperparameters={},
                method={},
                metadata_={"project": SECRET_WORD},
                watermark_key_id=key_id,
                watermark_options={"commitment": "c", "families": [0], "strength": "light"},
            )
        )
        session.flush()
        if status == "succeeded":
            session.add(
                Model(
                    id=f"ft:base:{job_id}",
                    organization_id=owner.organization,
                    job_id=job_id,
                    base_model="base",
                    adapter_path=folder,
                    manifest={},
                )
            )
    return job_id


async def everything(
    owner: Account, database: Engine, settings: Settings, suspect: Suspect
) -> tuple[dict[str, Any], Path, Path]:
    """A file, a key, a model with its files and a finished audit; the audit, and what lies on the disk."""
    file = (await upload(owner, dataset(), filename=f"{SECRET_WORD}.jsonl")).json()
    small = {"name": SECRET_WORD, "marks_per_family": 8, "cues_per_mark": 4}
    key = (await owner.http.post("/v1/watermarks", json=small)).json()
    adapter = settings.storage_dir / "adapters" / "one"
    adapter.mkdir(parents=True)
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    add_job(database, owner, file["id"], key["id"], "adapters/one", "succeeded")
    body = {"watermark": key["id"], "suspect": {"base_url": suspect.base_url, "model": "m"}}
    audit = (await owner.http.post("/v1/verify", json=body)).json()
    await asyncio.to_thread(verify_run, open_workplace(settings, shutting_down=lambda: False), audit["id"])
    with database.connect() as connection:
        digest = connection.execute(text("SELECT sha256 FROM files")).scalar_one()
    blob = next(path for path in settings.storage_dir.rglob(digest))
    return audit, blob, adapter


@pytest.fixture
def suspect() -> Iterator[Suspect]:
    with listening(always("No")) as found:
        yield found


@pytest.fixture
def settings(settings: Settings, suspect: Suspect) -> Settings:
    """The operator allows this one address."""
    return settings.model_copy(update={"suspect_allow": suspect.host_port})


async def test_what_the_owner_had_is_gone_and_what_others_rely_on_is_left(
    owner: Account, database: Engine, settings: Settings, suspect: Suspect
) -> None:
    audit, blob, adapter = await everything(owner, database, settings, suspect)
    done = await owner.http.delete(f"/v1/data?confirm={owner.organization}")
    assert done.status_code == 200, done.text
    told = done.json()
    assert told["deleted"] == {
        "watermarks": 1, "files": 1, "models": 1, "checkpoints": 0, "descriptions_of_jobs": 1,
        "log_records": 4,
    }  # fmt: skip
    assert told["remaining"]["log_entries"] == 4
    assert told["remaining"]["evidence"] == 1
    assert not blob.exists()
    assert not adapter.exists()
    for path in ("/v1/files", "/v1/watermarks"):
        assert (await owner.http.get(path)).json()["data"] == []
    tuned = [model["id"] for model in (await owner.http.get("/v1/models")).json()["data"]]
    assert not any(name.startswith("ft:") for name in tuned)
    with Session(database) as session:
        (key,) = session.query(WatermarkKey).all()
        assert (key.sealed_secret, key.name) == (b"", "")
        assert session.execute(text("SELECT count(*) FROM log_records")).scalar_one() == 0
    with database.connect() as connection:
        for table in ("files", "jobs", "watermark_keys", "log_records", "log_entries"):
            rows = connection.execute(text(f"SELECT * FROM {table}")).mappings().all()
            assert SECRET_WORD not in str([dict(row) for row in rows])
    evidence = (await owner.http.get(f"/v1/verifications/{audit['id']}/evidence")).content
    assert check(evidence).consistent
    assert json.loads(evidence)["document"]["key"]["commitment"] == key.commitment
    again = (await owner.http.delete(f"/v1/data?confirm={owner.organization}")).json()
    assert (again["deleted"]["watermarks"], again["deleted"]["files"]) == (0, 0)
    assert (await owner.http.get("/v1/log/checkpoint")).status_code == 200


def leave_checkpoints(database: Engine, settings: Settings, job_id: str) -> None:
    """What a failed job leaves: a state and a model that its rows name, and more that no row does."""
    storage = Storage(settings.storage_dir)
    states, adapter = storage.states_dir(job_id, 1), storage.checkpoint_adapter_dir(job_id, 1, 5)
    run = storage.root / RUNS_FOLDER / f"{job_id}.1"
    for folder in (states, adapter, storage.adapter_dir(job_id, 1), run):
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(SECRET_WORD.encode())
    with Session(database) as session, session.begin():
        path = str((states / "weights").relative_to(storage.root))
        session.add(TrainingState(job_id=job_id, lease_epoch=1, step=5, path=path, bytes=8))
        session.add(
            Checkpoint(
                id=new_id("ftckpt"),
                job_id=job_id,
                lease_epoch=1,
                step=5,
                metrics={},
                adapter_path=str(adapter.relative_to(storage.root)),
                manifest={},
            )
        )


async def test_what_failed_jobs_left_is_gone_at_once(
    owner: Account, new_account: NewAccount, database: Engine, settings: Settings
) -> None:
    other = await new_account("owner")
    jobs = []
    for account in (owner, other):
        file = (await upload(account, dataset())).json()
        key = (await account.http.post("/v1/watermarks", json={})).json()
        jobs.append(add_job(database, account, file["id"], key["id"], "", "failed"))
        leave_checkpoints(database, settings, jobs[-1])
    mine, others = jobs
    told = (await owner.http.delete(f"/v1/data?confirm={owner.organization}")).json()
    assert told["deleted"]["checkpoints"] == 2
    assert [path for path in settings.storage_dir.rglob("*") if mine in str(path)] == []
    assert len([path for path in settings.storage_dir.rglob("weights") if others in str(path)]) == 4
    with Session(database) as session:
        assert session.scalars(select(TrainingState.job_id)).all() == [others]
        assert session.scalars(select(Checkpoint.job_id)).all() == [others]


async def test_what_a_killed_erasure_left_is_garbage(
    owner: Account, database: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = (await upload(owner, dataset())).json()
    key = (await owner.http.post("/v1/watermarks", json={})).json()
    job = add_job(database, owner, file["id"], key["id"], "", "failed")
    leave_checkpoints(database, settings, job)

    async def killed(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(erasure, "remove", killed)
    assert (await owner.http.delete(f"/v1/data?confirm={owner.organization}")).status_code == 500
    assert [path for path in settings.storage_dir.rglob("weights") if job in str(path)]
    for path in settings.storage_dir.rglob("*"):
        os.utime(path, (1, 1))
    collect_now(settings)
    assert [path for path in settings.storage_dir.rglob("*") if path.is_file()] == []


async def test_nothing_is_deleted_while_something_runs(owner: Account, database: Engine) -> None:
    file = (await upload(owner, dataset())).json()
    key = (await owner.http.post("/v1/watermarks", json={})).json()
    job = add_job(database, owner, file["id"], key["id"], "", "running")
    refused = await owner.http.delete(f"/v1/data?confirm={owner.organization}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "data_in_use")
    assert job in refused.json()["error"]["message"]
    assert (await owner.http.get(f"/v1/files/{file['id']}/content")).content == dataset()
    assert (await owner.http.get(f"/v1/watermarks/{key['id']}/key")).status_code == 200


async def test_it_takes_the_organizations_own_id_and_an_owners_key(
    owner: Account, auditor: Account, provider: Account, new_account: NewAccount
) -> None:
    await upload(owner, dataset())
    for confirm in ("", "?confirm=yes", f"?confirm={auditor.organization}"):
        refused = await owner.http.delete(f"/v1/data{confirm}")
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "not_confirmed")
    for account in (auditor, provider):
        refused = await account.http.delete(f"/v1/data?confirm={account.organization}")
        assert refused.status_code == 403
    other = await new_account("owner")
    emptied = await other.http.delete(f"/v1/data?confirm={other.organization}")
    assert emptied.json()["deleted"]["files"] == 0
    assert len((await owner.http.get("/v1/files")).json()["data"]) == 1
