"""The same POST again: the same answer, and nothing done twice."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from sqlalchemy import Engine, func, select, update
from sqlalchemy.orm import Session

from service import reaper
from service.api import idempotency
from service.api.idempotency import DeedRoute
from service.db.models import (
    ApiKey,
    AuditEvent,
    Base,
    File,
    IdempotencyRecord,
    Job,
    LogEntry,
    WatermarkKey,
)
from tests.integration.service.conftest import Account, NewAccount, dataset, upload

pytestmark = pytest.mark.integration

MODEL = "smollm2-135m-instruct"


def key() -> dict[str, str]:
    """A fresh Idempotency-Key."""
    return {"idempotency-key": str(uuid.uuid4())}


def count(database: Engine, table: type[Base]) -> int:
    """Rows of a table."""
    with Session(database) as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def age(database: Engine, **columns: timedelta) -> None:
    """Let the records be older."""
    with Session(database) as session, session.begin():
        values = {name: getattr(IdempotencyRecord, name) - by for name, by in columns.items()}
        session.execute(update(IdempotencyRecord).values(**values))


@pytest.fixture
async def file_id(owner: Account) -> str:
    """An uploaded dataset."""
    return str((await upload(owner, dataset())).json()["id"])


@pytest.fixture
def job_body(file_id: str) -> dict[str, Any]:
    """A job that can be created."""
    return {"model": MODEL, "training_file": file_id}


async def create(account: Account, body: Any, headers: Mapping[str, str]) -> httpx2.Response:
    """POST /v1/fine_tuning/jobs."""
    return await account.http.post("/v1/fine_tuning/jobs", json=body, headers=headers)


def test_every_post_is_carried_out_once(app: FastAPI) -> None:
    """A router that forgets the route class would take the header and not keep its promise. A witness's
    caller has no key here, and what it sends again is answered the same by itself."""
    public = "/v1/witness/add-checkpoint"
    posts = [route for route in _routes(app) if "POST" in route.methods and route.path != public]
    assert len(posts) > 10
    assert [route.path for route in posts if not isinstance(route, DeedRoute)] == []
    assert {route.path for route in posts} >= idempotency.CREATIONS


def _routes(app: FastAPI) -> list[Any]:
    found: list[Any] = []
    waiting = list(app.routes)
    while waiting:
        route = waiting.pop()
        if isinstance(route, APIRoute):
            found.append(route)
        inner = getattr(route, "routes", None) or getattr(
            getattr(route, "original_router", None), "routes", None
        )
        waiting += list(inner or ())
    return found


class TestKey:
    async def test_the_same_answer_to_the_byte_and_one_job(
        self, owner: Account, job_body: dict[str, Any], database: Engine
    ) -> None:
        headers = key()
        first = await create(owner, job_body, headers)
        again = await create(owner, job_body, headers)
        assert first.status_code == again.status_code == 200
        assert again.content == first.content
        assert "idempotent-replayed" not in first.headers
        assert again.headers["idempotent-replayed"] == "true"
        assert again.headers["x-request-id"] != first.headers["x-request-id"]
        assert count(database, Job) == 1

    async def test_another_key_is_another_job(
        self, owner: Account, job_body: dict[str, Any], database: Engine
    ) -> None:
        first, second = await create(owner, job_body, key()), await create(owner, job_body, key())
        assert first.json()["id"] != second.json()["id"]
        assert count(database, Job) == 2

    @pytest.mark.parametrize("change", [{"seed": 7}, {"metadata": {"a": "b"}}])
    async def test_another_body_is_409_that_is_not_to_be_tried_again(
        self, owner: Account, job_body: dict[str, Any], database: Engine, change: dict[str, Any]
    ) -> None:
        headers = key()
        await create(owner, job_body, headers)
        response = await create(owner, job_body | change, headers)
        assert response.status_code == 409
        assert response.headers["x-should-retry"] == "false"
        error = response.json()["error"]
        assert (error["code"], error["param"]) == ("idempotency_key_reused", "Idempotency-Key")
        assert count(database, Job) == 1

    async def test_another_route_is_409(self, owner: Account, job_body: dict[str, Any]) -> None:
        headers = key()
        job = (await create(owner, job_body, headers)).json()
        response = await owner.http.post(f"/v1/fine_tuning/jobs/{job['id']}/cancel", headers=headers)
        assert response.status_code == 409
        assert response.json()["error"]["code"] == "idempotency_key_reused"

    async def test_two_tenants_and_two_keys_of_one_may_use_the_same(
        self, owner: Account, new_account: NewAccount, database: Engine
    ) -> None:
        """Nobody gets another key's answer, which may hold what it may not see."""
        headers, body = key(), {"role": "inference", "name": "app"}
        other = await new_account("owner")
        second = (await owner.http.post("/v1/api_keys", json={"role": "owner", "name": "x"})).json()["key"]
        answers = [
            await owner.http.post("/v1/api_keys", json=body, headers=headers),
            await other.http.post("/v1/api_keys", json=body, headers=headers),
            await owner.http.post(
                "/v1/api_keys", json=body, headers=headers | {"authorization": f"Bearer {second}"}
            ),
        ]
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        assert len({answer.json()["id"] for answer in answers}) == 3

    async def test_what_failed_may_be_tried_again(
        self, owner: Account, job_body: dict[str, Any], database: Engine
    ) -> None:
        """Nothing was done, so nothing is kept: neither for a body of a wrong shape nor for a wrong name."""
        headers = key()
        assert (await create(owner, job_body | {"seed": "x"}, headers)).status_code == 400
        assert (await create(owner, job_body | {"model": "no-such"}, headers)).status_code == 404
        assert count(database, IdempotencyRecord) == 0
        assert (await create(owner, job_body, headers)).status_code == 200

    @pytest.mark.parametrize("bad", ["", "x" * 256, "caf\xe9"])
    async def test_a_key_that_is_none(self, owner: Account, job_body: dict[str, Any], bad: str) -> None:
        response = await owner.http.post(
            "/v1/fine_tuning/jobs", json=job_body, headers={b"idempotency-key": bad.encode("latin-1")}
        )
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "invalid_idempotency_key"

    async def test_ten_at_once_make_one(
        self, owner: Account, job_body: dict[str, Any], database: Engine
    ) -> None:
        """One is carried out, the others wait for its answer."""
        headers = key()
        answers = await asyncio.gather(*(create(owner, job_body, headers) for _ in range(10)))
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.content for answer in answers}) == 1
        assert sum("idempotent-replayed" in answer.headers for answer in answers) == 9
        assert count(database, Job) == 1

    async def test_one_that_takes_too_long_is_409_to_be_tried_again(
        self,
        owner: Account,
        job_body: dict[str, Any],
        database: Engine,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        from service.jobs import create as creating

        real, going_on, may_end = creating.create, asyncio.Event(), asyncio.Event()

        async def slow(*arguments: Any, **named: Any) -> Job:
            going_on.set()
            await may_end.wait()
            job: Job = await real(*arguments, **named)
            return job

        monkeypatch.setattr(creating, "create", slow)
        headers = key()
        first = asyncio.create_task(create(owner, job_body, headers))
        await going_on.wait()
        second = await create(owner, job_body, headers)
        may_end.set()
        assert second.status_code == 409
        assert second.json()["error"]["code"] == "request_in_progress"
        assert second.headers["x-should-retry"] == "true"
        assert second.headers["retry-after"] == "1"
        assert (await first).status_code == 200
        assert (await create(owner, job_body, headers)).content == (await first).content
        assert count(database, Job) == 1

    async def test_a_state_that_is_gone_does_not_matter(
        self, owner: Account, job_body: dict[str, Any]
    ) -> None:
        """What the job has become since changes nothing of the first answer."""
        job = (await create(owner, job_body, {})).json()
        path, headers = f"/v1/fine_tuning/jobs/{job['id']}/cancel", key()
        first = await owner.http.post(path, headers=headers)
        again = await owner.http.post(path, headers=headers)
        assert first.json()["status"] == "cancelled"
        assert again.content == first.content

    async def test_a_failing_commit_keeps_no_answer(
        self,
        owner: Account,
        job_body: dict[str, Any],
        database: Engine,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        from sqlalchemy.ext.asyncio import AsyncSession

        headers = key()
        with monkeypatch.context() as broken:

            async def fail(self: AsyncSession) -> None:
                raise RuntimeError("the commit fails")

            broken.setattr(AsyncSession, "commit", fail)
            assert (await create(owner, job_body, headers)).status_code == 500
        assert count(database, Job) == count(database, IdempotencyRecord) == 0
        assert (await create(owner, job_body, headers)).status_code == 200


class TestUpload:
    async def test_the_same_file_again_is_one_file(self, owner: Account, database: Engine) -> None:
        """Although each try has a boundary of its own."""
        headers = key()
        first = await send(owner, dataset(), headers)
        again = await send(owner, dataset(), headers)
        assert first.status_code == 200
        assert again.content == first.content
        assert count(database, File) == 1

    async def test_another_file_is_409(self, owner: Account, database: Engine) -> None:
        headers = key()
        await send(owner, dataset(), headers)
        response = await send(owner, dataset(13), headers)
        assert response.status_code == 409
        assert response.headers["x-should-retry"] == "false"
        assert count(database, File) == 1

    async def test_five_at_once_make_one(self, owner: Account, database: Engine) -> None:
        headers = key()
        answers = await asyncio.gather(*(send(owner, dataset(), headers) for _ in range(5)))
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.content for answer in answers}) == 1
        assert count(database, File) == 1

    async def test_two_different_ones_at_once(self, owner: Account, database: Engine) -> None:
        headers = key()
        answers = await asyncio.gather(*(send(owner, dataset(rows), headers) for rows in (12, 13)))
        assert sorted(answer.status_code for answer in answers) == [200, 409]
        assert count(database, File) == 1


async def send(account: Account, content: bytes, headers: Mapping[str, str]) -> httpx2.Response:
    """POST /v1/files."""
    return await account.http.post(
        "/v1/files",
        data={"purpose": "fine-tune"},
        files={"file": ("data.jsonl", content, "application/octet-stream")},
        headers=headers,
    )


class TestSecrets:
    async def test_an_answer_with_a_secret_comes_again_and_lies_sealed(
        self, owner: Account, database: Engine
    ) -> None:
        headers = key()
        first = (await owner.http.post("/v1/watermarks", json={"name": "k"}, headers=headers)).json()
        again = (await owner.http.post("/v1/watermarks", json={"name": "k"}, headers=headers)).json()
        assert again == first
        assert len(first["secret"]) == 64
        assert count(database, WatermarkKey) == 1
        with Session(database) as session:
            stored = session.scalars(select(IdempotencyRecord)).one()
            everything = b"".join(
                value if isinstance(value, bytes) else str(value).encode()
                for value in (getattr(stored, column.key) for column in stored.__table__.columns)
            )
        for secret in (first["secret"], first["blinding"]):
            assert secret.encode() not in everything
            assert bytes.fromhex(secret) not in everything
        assert headers["idempotency-key"].encode() not in everything

    async def test_it_is_gone_with_the_secret(self, owner: Account, database: Engine) -> None:
        headers = key()
        made = (await owner.http.post("/v1/watermarks", json={"name": "k"}, headers=headers)).json()
        assert count(database, IdempotencyRecord) == 1
        assert (await owner.http.delete(f"/v1/watermarks/{made['id']}")).status_code == 200
        assert count(database, IdempotencyRecord) == 0

    async def test_no_key_of_the_request_is_logged(
        self, owner: Account, job_body: dict[str, Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        headers = key()
        await create(owner, job_body, headers)
        await create(owner, job_body, headers)
        logged = capsys.readouterr().err
        assert "request.finished" in logged
        assert headers["idempotency-key"] not in logged

    async def test_a_key_broken_off_between_its_two_transactions(
        self, owner: Account, database: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of a watermark the commitment is committed before the salt. Who asks again at once waits; later the
        key is made afresh, and the first one is found by nobody."""
        from service.watermarks import statements

        headers = key()
        with monkeypatch.context() as broken:

            def fail(*_: Any) -> None:
                raise RuntimeError("killed here")

            broken.setattr(statements, "set_salt", fail)
            response = await owner.http.post("/v1/watermarks", json={"name": "k"}, headers=headers)
            assert response.status_code == 500
        soon = await owner.http.post("/v1/watermarks", json={"name": "k"}, headers=headers)
        assert soon.status_code == 409
        assert soon.headers["x-should-retry"] == "true"
        age(database, started_at=timedelta(minutes=1))
        later = await owner.http.post("/v1/watermarks", json={"name": "k"}, headers=headers)
        assert later.status_code == 200
        listed = (await owner.http.get("/v1/watermarks")).json()["data"]
        assert [row["id"] for row in listed] == [later.json()["id"]]


class TestTime:
    async def test_after_a_day_the_name_is_free(
        self, owner: Account, job_body: dict[str, Any], database: Engine
    ) -> None:
        headers = key()
        first = await create(owner, job_body, headers)
        age(database, expires_at=timedelta(hours=23, minutes=59))
        assert (await create(owner, job_body, headers)).content == first.content
        age(database, expires_at=timedelta(minutes=2))
        second = await create(owner, job_body | {"seed": 3}, headers)
        assert second.status_code == 200
        assert second.json()["id"] != first.json()["id"]

    async def test_the_reaper_deletes_what_is_over(
        self, app: FastAPI, owner: Account, job_body: dict[str, Any], database: Engine
    ) -> None:
        await create(owner, job_body, key())
        await reaper.sweep(app.state.sessionmaker)
        assert count(database, IdempotencyRecord) == 1
        age(database, expires_at=timedelta(days=2))
        await create(owner, job_body, key())
        await reaper.sweep(app.state.sessionmaker)
        assert count(database, IdempotencyRecord) == 1
        assert count(database, Job) == 2


def nth(number: int) -> dict[str, str]:
    """What the official client says of its tries."""
    return {"x-stainless-retry-count": str(number)}


class TestOfficialClient:
    async def test_a_second_try_gets_the_answer_of_the_first(
        self, owner: Account, job_body: dict[str, Any], database: Engine
    ) -> None:
        first = await create(owner, job_body, nth(0))
        for number in (1, 2):
            again = await create(owner, job_body, nth(number))
            assert again.content == first.content
        assert count(database, Job) == 1

    async def test_two_first_tries_are_two_jobs(
        self, owner: Account, job_body: dict[str, Any], database: Engine
    ) -> None:
        """The same call twice is meant; a try of the second gets the second's answer."""
        first, second = await create(owner, job_body, nth(0)), await create(owner, job_body, nth(0))
        assert first.json()["id"] != second.json()["id"]
        assert (await create(owner, job_body, nth(1))).content == second.content
        assert count(database, Job) == 2

    async def test_a_second_try_whose_first_never_came_is_carried_out(
        self, owner: Account, job_body: dict[str, Any], database: Engine
    ) -> None:
        first = await create(owner, job_body, nth(1))
        assert (await create(owner, job_body, nth(2))).content == first.content
        assert count(database, Job) == 1

    async def test_a_first_try_that_was_overtaken(
        self, owner: Account, job_body: dict[str, Any], database: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It was stuck after its arrival while the second was carried out."""
        real, arrived, may_go = idempotency.claimed, asyncio.Event(), asyncio.Event()

        async def stuck(request: Any, *rest: Any) -> None:
            if request.headers["x-stainless-retry-count"] == "0":
                arrived.set()
                await may_go.wait()
            await real(request, *rest)

        monkeypatch.setattr(idempotency, "claimed", stuck)
        first = asyncio.create_task(create(owner, job_body, nth(0)))
        await arrived.wait()
        second = await create(owner, job_body, nth(1))
        may_go.set()
        assert (await first).content == second.content
        assert count(database, Job) == 1
        third = await create(owner, job_body, nth(0))
        assert third.json()["id"] != second.json()["id"]

    async def test_first_and_second_at_once(
        self, owner: Account, job_body: dict[str, Any], database: Engine
    ) -> None:
        """Whichever comes first."""
        for _ in range(5):
            before = count(database, Job)
            both = await asyncio.gather(*(create(owner, job_body, nth(n)) for n in (0, 1, 2)))
            assert {answer.status_code for answer in both} == {200}
            made = count(database, Job) - before
            assert made == 1, [answer.json()["id"] for answer in both]
            age(database, expires_at=timedelta(days=1))

    async def test_after_half_an_hour_it_is_a_new_request(
        self, owner: Account, job_body: dict[str, Any], database: Engine
    ) -> None:
        await create(owner, job_body, nth(0))
        age(database, expires_at=timedelta(minutes=31))
        await create(owner, job_body, nth(1))
        assert count(database, Job) == 2

    async def test_another_tenant_is_another_request(
        self, owner: Account, new_account: NewAccount, database: Engine
    ) -> None:
        other = await new_account("owner")
        body = {"name": "k"}
        first = await owner.http.post("/v1/watermarks", json=body, headers=nth(0))
        second = await other.http.post("/v1/watermarks", json=body, headers=nth(1))
        assert first.json()["id"] != second.json()["id"]

    async def test_a_cancel_is_always_carried_out(
        self, owner: Account, job_body: dict[str, Any], database: Engine
    ) -> None:
        """An old answer must not stand in for a new wish."""
        job = (await create(owner, job_body, nth(0))).json()
        path = f"/v1/fine_tuning/jobs/{job['id']}/cancel"
        await owner.http.post(path, headers=nth(0))
        again = await owner.http.post(path, headers=nth(1))
        assert again.status_code == 200
        assert "idempotent-replayed" not in again.headers

    async def test_an_upload(self, owner: Account, database: Engine) -> None:
        first = await send(owner, dataset(), nth(0))
        assert (await send(owner, dataset(), nth(1))).content == first.content
        await send(owner, dataset(), nth(0))
        assert count(database, File) == 2


async def test_a_key_counts_one_deed_in_log_and_trail(owner: Account, database: Engine) -> None:
    """What else a deed writes is not written twice either."""
    headers = key()
    await owner.http.post("/v1/watermarks", json={"name": "k"}, headers=headers)
    before = count(database, LogEntry), count(database, AuditEvent), count(database, ApiKey)
    await owner.http.post("/v1/watermarks", json={"name": "k"}, headers=headers)
    assert (count(database, LogEntry), count(database, AuditEvent), count(database, ApiKey)) == before
