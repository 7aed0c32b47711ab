"""/v1/models: who sees which, deleting, downloading an adapter."""

from __future__ import annotations

import io
import tarfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from openai.types import Model as WireModel
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from service.db.models import File, Job, Model
from service.ids import new_id
from service.settings import Settings

pytestmark = pytest.mark.integration

BASE = "smollm2-135m-instruct"
FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"w" * 1500, "README.md": b"card"}


@pytest.fixture
def publish(database: Engine, settings: Settings) -> Any:
    """Put a model of an organization into the records and its files into storage."""

    def publish_(organization: str) -> str:
        job_id, file_id = new_id("ftjob"), new_id("file")
        model_id = f"ft:{BASE}:acme:try:{job_id[-8:]}"
        folder = settings.storage_dir / "adapters" / job_id / "1"
        folder.mkdir(parents=True)
        for name, content in FILES.items():
            (folder / name).write_bytes(content)
        with Session(database) as session, session.begin():
            session.add(
                File(
                    id=file_id,
                    organization_id=organization,
                    purpose="fine-tune",
                    filename="x",
                    bytes=1,
                    sha256="0" * 64,
                    validation={},
                )
            )
            session.flush()
            session.add(
                Job(
                    id=job_id,
                    organization_id=organization,
                    status="succeeded",
                    base_model=BASE,
                    seed=1,
                    training_file_id=file_id,
                    hyperparameters={},
                    method={},
                    metadata_={},
                )
            )
            session.flush()
            session.add(
                Model(
                    id=model_id,
                    organization_id=organization,
                    job_id=job_id,
                    base_model=BASE,
                    adapter_path=f"adapters/{job_id}/1",
                    manifest={name: sha256(content).hexdigest() for name, content in FILES.items()},
                )
            )
        return model_id

    return publish_


def folder_of(settings: Settings) -> Path:
    """Of the only adapter."""
    return next(settings.storage_dir.glob("adapters/*/1"))


async def test_base_models_and_ones_own(owner: Any, new_account: Any, publish: Any) -> None:
    """The official client's own type accepts each; another organization's is not there."""
    mine, theirs = publish(owner.organization), publish((await new_account("owner")).organization)
    listed = (await owner.http.get("/v1/models")).json()["data"]
    ids = [WireModel.model_validate(model, strict=True).id for model in listed]
    assert BASE in ids
    assert mine in ids
    assert theirs not in ids


async def test_one_by_its_name_with_colons(owner: Any, provider: Any, new_account: Any, publish: Any) -> None:
    """As the official client sends it; 404 for anybody else but the provider."""
    model_id = publish(owner.organization)
    assert (await owner.http.get(f"/v1/models/{model_id}")).json()["id"] == model_id
    assert (await owner.http.get(f"/v1/models/{BASE}")).json()["owned_by"] == "double-i"
    assert (await provider.http.get(f"/v1/models/{model_id}")).status_code == 200
    stranger = await new_account("owner")
    missing = await stranger.http.get(f"/v1/models/{model_id}")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "model_not_found"


async def test_deleted_it_is_gone(owner: Any, publish: Any, settings: Settings) -> None:
    """From the list, from use, and from the disk; a second delete finds nothing."""
    model_id = publish(owner.organization)
    folder = folder_of(settings)
    response = await owner.http.delete(f"/v1/models/{model_id}")
    assert response.json() == {"id": model_id, "object": "model", "deleted": True}
    assert (await owner.http.get(f"/v1/models/{model_id}")).status_code == 404
    assert (await owner.http.delete(f"/v1/models/{model_id}")).status_code == 404
    assert not folder.exists()


async def test_nobody_deletes_what_is_not_theirs(
    owner: Any, provider: Any, new_account: Any, publish: Any
) -> None:
    """Neither another owner, nor the provider, nor anybody a base model."""
    model_id = publish(owner.organization)
    assert (await (await new_account("owner")).http.delete(f"/v1/models/{model_id}")).status_code == 404
    assert (await provider.http.delete(f"/v1/models/{model_id}")).status_code == 403
    assert (await owner.http.delete(f"/v1/models/{BASE}")).status_code == 404


async def test_the_adapter_as_a_tar_file(owner: Any, provider: Any, publish: Any) -> None:
    """Every file, byte for byte, and the same archive each time; not for the provider."""
    model_id = publish(owner.organization)
    response = await owner.http.get(f"/v1/models/{model_id}/adapter")
    assert response.headers["content-type"] == "application/x-tar"
    with tarfile.open(fileobj=io.BytesIO(response.content)) as archive:
        found = {member.name.split("/")[1]: archive.extractfile(member) for member in archive}
        assert {name: stream.read() for name, stream in found.items() if stream} == FILES
    again = await owner.http.get(f"/v1/models/{model_id}/adapter")
    assert again.content == response.content
    assert (await provider.http.get(f"/v1/models/{model_id}/adapter")).status_code == 403


async def test_a_damaged_adapter_is_not_handed_out(owner: Any, publish: Any, settings: Settings) -> None:
    """An error before the first byte, not a wrong file."""
    model_id = publish(owner.organization)
    (folder_of(settings) / "adapter_model.safetensors").write_bytes(b"other")
    response = await owner.http.get(f"/v1/models/{model_id}/adapter")
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "adapter_damaged"
