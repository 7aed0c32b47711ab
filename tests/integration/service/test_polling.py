"""Who polls with the tag of what it has is sent something only when that has changed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import Engine, text

from tests.integration.service.conftest import Account, NewAccount, dataset, upload

pytestmark = pytest.mark.integration

JOBS = "/v1/fine_tuning/jobs"


@pytest.fixture
async def job(owner: Account) -> dict[str, Any]:
    """A queued one."""
    file_id = (await upload(owner, dataset())).json()["id"]
    body = {"model": "smollm2-135m-instruct", "training_file": file_id}
    made: dict[str, Any] = (await owner.http.post(JOBS, json=body)).json()
    return made


@pytest.mark.parametrize("what", ["{job}", "", "{job}/events"])
async def test_304_until_it_changes(owner: Account, job: dict[str, Any], database: Engine, what: str) -> None:
    path = f"{JOBS}/{what.format(job=job['id'])}".rstrip("/")
    first = await owner.http.get(path)
    tag = first.headers["etag"]
    assert first.headers["cache-control"] == "private, no-cache"
    for header in (tag, f'"other", W/{tag}', "*"):
        same = await owner.http.get(path, headers={"if-none-match": header})
        assert (same.status_code, same.content) == (304, b"")
        assert same.headers["etag"] == tag
        assert same.headers["x-request-id"]
    other = await owner.http.get(path, headers={"if-none-match": '"other"'})
    assert (other.status_code, other.json()) == (200, first.json())
    with database.begin() as connection:
        connection.execute(text("UPDATE jobs SET stage = 'loading' WHERE id = :id"), {"id": job["id"]})
        connection.execute(
            text(
                "INSERT INTO job_events (id, job_id, level, type, message)"
                " VALUES ('ftevent-x', :id, 'info', 'message', 'x')"
            ),
            {"id": job["id"]},
        )
    changed = await owner.http.get(path, headers={"if-none-match": tag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != tag


async def test_a_tag_opens_nothing(owner: Account, job: dict[str, Any], new_account: NewAccount) -> None:
    """Another tenant's poll is 404 whatever it names."""
    tag = (await owner.http.get(f"{JOBS}/{job['id']}")).headers["etag"]
    other = await new_account("owner")
    for header in (tag, "*"):
        response = await other.http.get(f"{JOBS}/{job['id']}", headers={"if-none-match": header})
        assert response.status_code == 404
        assert "etag" not in response.headers


async def test_a_download_is_not_tagged_by_its_page(owner: Account, job: dict[str, Any]) -> None:
    """A file's bytes are streamed and keep the tag of their own."""
    response = await owner.http.get(f"/v1/files/{job['training_file']}/content")
    again = await owner.http.get(f"/v1/files/{job['training_file']}/content", headers={"if-none-match": "*"})
    assert response.status_code == again.status_code == 200
    assert again.content == dataset()


async def test_connections_that_were_cut(owner: Account, job: dict[str, Any], database: Engine) -> None:
    """One that lay idle is looked at first, so nobody notices. One that was used a moment ago is 503, to be
    tried again, and the next request is well."""
    path = f"{JOBS}/{job['id']}"

    def cut() -> None:
        with database.begin() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND application_name = 'doublei-api'"
                )
            )

    assert (await owner.http.get(path)).status_code == 200
    cut()
    await asyncio.sleep(1.2)
    assert (await owner.http.get(path)).status_code == 200
    cut()
    response = await owner.http.get(path)
    assert response.status_code in (200, 503)
    assert response.status_code == 200 or response.headers["retry-after"]
    for _ in range(3):
        last = (await owner.http.get(path)).status_code
    assert last == 200
