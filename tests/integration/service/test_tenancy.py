"""What belongs to somebody else looks exactly like what does not exist, on every route there is.

The routes come from the application itself: one that is added later is tested without a change here, and
one with an unknown kind of id fails until this file knows how to make such a thing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine, text

from service.app import create_app
from service.settings import Settings
from tests.integration.service.conftest import Account, NewAccount, dataset, upload

pytestmark = pytest.mark.integration

PROVIDER_SEES = (
    "/v1/fine_tuning/jobs/",
    "/v1/models/",
    "/v1/verifications/",
    "/v1/campaigns/",
    "/v1/api_keys/",
)
"""By contract the provider's operator sees these of every organization (never transcripts or evidence)."""

NOWHERE = {
    "api_key": "key-000000000000",
    "file": "file-000000000000000000000000",
    "watermark": "wm-000000000000000000000000",
    "grant": "grant-000000000000000000000000",
    "job": "ftjob-000000000000000000000000",
    "model": "ft:base:org:suffix:000000",
    "verification": "verif-000000000000000000000000",
    "campaign": "camp-000000000000000000000000",
}


def kind_of(path: str, parameter: str) -> str:
    """What the id in a route's path names."""
    if parameter == "key_id":
        return "api_key" if path.startswith("/v1/api_keys") else "watermark"
    return parameter.removesuffix("_id")


def routes(settings: Settings) -> Iterator[tuple[str, str, list[str]]]:
    """(method, path, parameters) of every route that names something by its id."""
    paths = create_app(settings.model_copy(update={"public_docs": True})).openapi()["paths"]
    for path, methods in paths.items():
        parameters = [part[1:-1] for part in path.split("/") if part.startswith("{")]
        for method in methods if parameters else ():
            yield method.upper(), path, parameters


@pytest.fixture
async def belongings(owner: Account, auditor: Account, database: Engine) -> dict[str, str]:
    """One thing of every kind, the first owner's."""
    file_id = (await upload(owner, dataset())).json()["id"]
    key_id = (await owner.http.post("/v1/watermarks", json={})).json()["id"]
    grant = await owner.http.post(
        f"/v1/watermarks/{key_id}/grants",
        json={"auditor": auditor.organization, "suspect_hosts": ["a.example:443"]},
    )
    things = {
        "api_key": f"key-{owner.api_key.split('_')[1]}",
        "file": file_id,
        "watermark": key_id,
        "grant": grant.json()["id"],
        "job": "ftjob-111111111111111111111111",
        "model": "ft:base:org:suffix:111111",
        "verification": "verif-111111111111111111111111",
        "campaign": "camp-111111111111111111111111",
    }
    with database.begin() as connection:
        for statement in (
            "INSERT INTO jobs (id, organization_id, status, base_model, seed, training_file_id,"
            " hyperparameters, method, metadata)"
            " VALUES (:job, :organization, 'queued', 'base', 0, :file, '{}', '{}', '{}')",
            "INSERT INTO models (id, organization_id, job_id, base_model, adapter_path, manifest)"
            " VALUES (:model, :organization, :job, 'base', 'adapters/x', '{}')",
            "INSERT INTO campaigns (id, organization_id, key_id, audit_index, size, alpha_i)"
            " VALUES (:campaign, :organization, :watermark, 1, 1, '1/2')",
            "INSERT INTO verifications (id, organization_id, key_id, status, suspect, plan)"
            " VALUES (:verification, :organization, :watermark, 'queued', '{}', '{}')",
            "INSERT INTO preregistrations (verification_id, key_id, audit_index, canonical_bytes, sha256,"
            " service_nonce) VALUES (:verification, :watermark, 1, '{}', 'x', 'x')",
        ):
            connection.execute(text(statement), things | {"organization": owner.organization})
    return things


async def ask(account: Account, method: str, path: str, ids: dict[str, str]) -> tuple[int, Any]:
    """Status and error of a call, without what may differ (the ids and the request id)."""
    url = path
    for part in path.split("/"):
        if part.startswith("{"):
            url = url.replace(part, ids[kind_of(path, part[1:-1])])
    body: dict[str, Any] | None = None
    if method == "POST":
        grant = {"auditor": "org-x", "suspect_hosts": ["a.example:443"]}
        body = {"nonce": "0" * 64} if path.endswith("/nonce") else grant
    response = await account.http.request(method, url, json=body)
    shown = response.text
    for value in ids.values():
        shown = shown.replace(value, "ID")
    return response.status_code, shown


@pytest.mark.parametrize("stranger", ["owner", "auditor", "provider"])
async def test_foreign_and_nonexistent_are_the_same(
    settings: Settings, provider: Account, new_account: NewAccount, belongings: dict[str, str], stranger: str
) -> None:
    account = provider if stranger == "provider" else await new_account(stranger)
    asked = 0
    for method, path, parameters in routes(settings):
        assert all(kind_of(path, parameter) in NOWHERE for parameter in parameters), path
        if stranger == "provider" and path.startswith(PROVIDER_SEES):
            continue
        nowhere = await ask(account, method, path, NOWHERE)
        assert await ask(account, method, path, belongings) == nowhere, (method, path)
        assert nowhere[0] in (403, 404), (method, path, nowhere)
        asked += 1
    assert asked >= 8


async def test_everything_is_still_there(
    settings: Settings, owner: Account, new_account: NewAccount, belongings: dict[str, str]
) -> None:
    """A stranger's calls, destructive ones too, changed nothing of the owner's."""
    stranger = await new_account("owner")
    for method, path, _ in routes(settings):
        await ask(stranger, method, path, belongings)
    assert (await owner.http.get(f"/v1/files/{belongings['file']}/content")).content == dataset()
    assert (await owner.http.get(f"/v1/watermarks/{belongings['watermark']}")).status_code == 200
    (grant,) = (await owner.http.get(f"/v1/watermarks/{belongings['watermark']}/grants")).json()["data"]
    assert grant["revoked_at"] is None
    job = (await owner.http.get(f"/v1/fine_tuning/jobs/{belongings['job']}")).json()
    assert job["status"] == "queued"


async def test_without_a_key_every_route_is_401(
    http: httpx2.AsyncClient, app: FastAPI, settings: Settings, belongings: dict[str, str]
) -> None:
    nobody = Account(organization="", api_key="", http=http)
    for method, path, _ in routes(settings):
        status, _ = await ask(nobody, method, path, belongings)
        assert status == 401, (method, path)


async def test_an_inference_key_opens_none_of_them(
    owner: Account, http: httpx2.AsyncClient, settings: Settings, belongings: dict[str, str]
) -> None:
    """Not even its own organization's things."""
    made = (await owner.http.post("/v1/api_keys", json={"name": "app", "role": "inference"})).json()
    http.headers["authorization"] = f"Bearer {made['key']}"
    account = Account(organization=owner.organization, api_key=made["key"], http=http)
    for method, path, _ in routes(settings):
        status, _ = await ask(account, method, path, belongings)
        assert status == 403, (method, path)
