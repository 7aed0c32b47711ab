"""Every failure is OpenAI's envelope, nothing is announced before it is durable, and nothing secret leaks."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.pool import NullPool

from service.api.dependencies import DbSession, Doorbell
from service.app import create_app
from service.dispatch import Dispatcher, TaskName
from service.settings import Settings
from tests.integration.service.conftest import Account

pytestmark = pytest.mark.integration


def check_envelope(response: httpx2.Response) -> dict[str, Any]:
    """Assert the shape of an error and return it."""
    error: dict[str, Any] = response.json()["error"]
    assert {"message", "type", "param", "code"} <= set(error)
    assert error["message"]
    assert error["code"]
    assert response.headers["x-request-id"]
    return error


class RecordingDispatcher:
    """Stands in for the broker at the process's edge."""

    def __init__(self, error: Exception | None = None) -> None:
        self.rung: list[tuple[str, str]] = []
        self._error = error

    def ring(self, task: TaskName, row_id: str) -> None:
        """Note it, or fail as a broker does."""
        if self._error is not None:
            raise self._error
        self.rung.append((task, row_id))


@pytest.fixture
def bell(app: FastAPI) -> RecordingDispatcher:
    """A route that writes a row and rings for it, and what was rung."""

    @app.post("/test/rows")
    async def write(session: DbSession, doorbell: Doorbell, fail: bool = False) -> dict[str, str]:
        await session.execute(
            text("INSERT INTO organizations (id, name, role) VALUES ('org-t', 't', 'owner')")
        )
        doorbell.ring(TaskName.finetune_run, "org-t")
        if fail:
            raise RuntimeError("a secret that must not be shown")
        return {"id": "org-t"}

    dispatcher = RecordingDispatcher()
    app.state.dispatcher = _closable(dispatcher)
    return dispatcher


def _closable(dispatcher: RecordingDispatcher) -> Any:
    dispatcher.close = lambda: None  # type: ignore[attr-defined]
    return dispatcher


def rows(database: Engine) -> int:
    """Rows that the test route wrote."""
    with database.connect() as connection:
        return int(
            connection.execute(text("SELECT count(*) FROM organizations WHERE id = 'org-t'")).scalar_one()
        )


class TestEnvelope:
    async def test_unknown_route_and_method(self, http: httpx2.AsyncClient) -> None:
        missing = await http.get("/v1/nothing/here")
        assert missing.status_code == 404
        assert check_envelope(missing)["code"] == "not_found"
        wrong = await http.put("/v1/files")
        assert wrong.status_code == 405
        assert check_envelope(wrong)["code"] == "method_not_allowed"
        assert "POST" in wrong.headers["allow"] or "GET" in wrong.headers["allow"]

    @pytest.mark.parametrize(
        ("body", "param", "code"),
        [
            (b"{", None, "invalid_json"),
            (b"[" * 200_000, None, "invalid_request"),
            (b"{}", "role", "missing_field"),
            (b'{"role": "king"}', "role", "invalid_value"),
            (b'{"role": "owner", "colour": 1}', "colour", "unknown_field"),
            (b'{"role": "owner", "name": ""}', "name", "invalid_value"),
            (b'{"role": "owner", "name": "a\\u0000b"}', None, "invalid_value"),
            (b'{"role": "owner", "name": "a\\ud800b"}', "name", "invalid_value"),
            (b"", None, "missing_field"),
        ],
    )
    async def test_bad_bodies_are_400_and_name_the_field(
        self, owner: Account, body: bytes, param: str | None, code: str
    ) -> None:
        response = await owner.http.post(
            "/v1/api_keys", content=body, headers={"content-type": "application/json"}
        )
        assert response.status_code == 400
        error = check_envelope(response)
        assert (error["param"], error["code"]) == (param, code)
        assert error["type"] == "invalid_request_error"

    async def test_a_nul_in_a_path_is_no_crash(self, owner: Account) -> None:
        response = await owner.http.get("/v1/files/%00")
        assert response.status_code in (400, 404)
        check_envelope(response)

    @pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=99999999999999999999"])
    async def test_bad_query_values_name_the_parameter(self, owner: Account, query: str) -> None:
        response = await owner.http.get(f"/v1/api_keys?{query}")
        assert response.status_code == 400
        assert check_envelope(response)["param"] == "limit"

    async def test_a_large_json_body_is_413(self, owner: Account) -> None:
        body = json.dumps({"role": "owner", "name": "x" * (5 << 20)}).encode()
        declared = await owner.http.post(
            "/v1/api_keys", content=body, headers={"content-type": "application/json"}
        )
        assert declared.status_code == 413
        assert check_envelope(declared)["code"] == "too_large"

        async def chunks() -> Any:
            for start in range(0, len(body), 65536):
                yield body[start : start + 65536]

        streamed = await owner.http.post(
            "/v1/api_keys", content=chunks(), headers={"content-type": "application/json"}
        )
        assert streamed.status_code == 413
        assert check_envelope(streamed)["code"] == "too_large"

    async def test_request_ids_go_in_and_out(self, http: httpx2.AsyncClient) -> None:
        given = await http.get("/healthz", headers={"x-request-id": "trace-42"})
        assert given.headers["x-request-id"] == "trace-42"
        odd = await http.get("/healthz", headers={"x-request-id": "two words\tand more"})
        assert odd.headers["x-request-id"].startswith("req-")

    async def test_docs_are_off_unless_a_setting_says_so(
        self, http: httpx2.AsyncClient, settings: Settings
    ) -> None:
        for path in ("/docs", "/redoc", "/openapi.json"):
            assert (await http.get(path)).status_code == 404
        public = create_app(settings.model_copy(update={"public_docs": True}))
        assert public.openapi_url == "/openapi.json"
        assert "/v1/files" in public.openapi()["paths"]


class TestDurability:
    async def test_commit_then_bell_then_response(
        self, http: httpx2.AsyncClient, bell: RecordingDispatcher, database: Engine
    ) -> None:
        response = await http.post("/test/rows")
        assert response.status_code == 200
        assert bell.rung == [("finetune.run", "org-t")]
        assert rows(database) == 1

    async def test_a_commit_that_fails_is_5xx_and_rings_nothing(
        self,
        http: httpx2.AsyncClient,
        bell: RecordingDispatcher,
        database: Engine,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        async def fail(self: AsyncSession) -> None:
            raise OSError("the disk is full")

        monkeypatch.setattr(AsyncSession, "commit", fail)
        response = await http.post("/test/rows")
        assert response.status_code == 500
        assert check_envelope(response)["code"] == "internal_error"
        assert bell.rung == []
        assert rows(database) == 0

    async def test_a_handler_that_fails_rolls_back_and_rings_nothing(
        self,
        http: httpx2.AsyncClient,
        bell: RecordingDispatcher,
        database: Engine,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        response = await http.post("/test/rows", params={"fail": True})
        assert response.status_code == 500
        error = check_envelope(response)
        assert response.headers["x-request-id"] in error["message"]
        assert bell.rung == []
        assert rows(database) == 0
        logged = capsys.readouterr().err
        assert "RuntimeError" in logged
        assert response.headers["x-request-id"] in logged
        assert "a secret that must not be shown" not in response.text + logged

    async def test_a_failing_broker_does_not_fail_the_request(
        self, app: FastAPI, http: httpx2.AsyncClient, bell: RecordingDispatcher, database: Engine
    ) -> None:
        app.state.dispatcher = _closable(RecordingDispatcher(ConnectionError("no broker")))
        assert (await http.post("/test/rows")).status_code == 200
        assert rows(database) == 1

    async def test_a_terminated_connection_is_503_or_healed_never_a_false_success(
        self, owner: Account, database: Engine
    ) -> None:
        with database.connect() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name = 'doublei-api' AND datname = current_database()"
                )
            )
        response = await owner.http.get("/v1/files")
        assert response.status_code in (200, 503)

    async def test_a_database_that_is_away_is_503_with_retry_after(
        self, settings: Settings, owner: Account
    ) -> None:
        away = settings.model_copy(
            update={"database_url": SecretStr("postgresql+psycopg://postgres@/nowhere?host=/nonexistent")}
        )
        app = create_app(away)
        async with app.router.lifespan_context(app):
            transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
            async with httpx2.AsyncClient(transport=transport, base_url="http://doublei.test") as client:
                response = await client.get("/v1/files", headers={"authorization": f"Bearer {owner.api_key}"})
        assert response.status_code == 503
        assert check_envelope(response)["code"] == "unavailable"
        assert response.headers["retry-after"]


class TestHealth:
    async def test_alive_needs_nothing(self, http: httpx2.AsyncClient) -> None:
        assert (await http.get("/healthz")).json() == {"status": "ok"}

    async def test_ready_without_serving_and_says_so(self, http: httpx2.AsyncClient) -> None:
        response = await http.get("/readyz")
        assert response.status_code == 200
        checks = {"database": "ok", "migrations": "ok", "broker": "ok", "serving": "missing"}
        assert response.json() == {"status": "ready", "checks": checks, "degraded": ["serving"]}

    async def test_ready_without_a_broker(self, settings: Settings) -> None:
        """Postgres is the queue of record."""
        away = settings.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:9/0")})
        app = create_app(away)
        async with app.router.lifespan_context(app):
            transport = httpx2.ASGITransport(app=app)
            async with httpx2.AsyncClient(transport=transport, base_url="http://doublei.test") as client:
                response = await client.get("/readyz")
        assert response.status_code == 200
        assert response.json()["degraded"] == ["broker", "serving"]

    async def test_not_ready_on_an_older_schema(self, http: httpx2.AsyncClient, settings: Settings) -> None:
        engine = create_engine(settings.database_url.get_secret_value(), poolclass=NullPool)
        with engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
        response = await http.get("/readyz")
        assert response.status_code == 503
        error = check_envelope(response)
        assert error["code"] == "not_ready"
        assert error["checks"]["migrations"] == "missing"
        assert "migrations" in error["message"]
        assert (await http.get("/healthz")).status_code == 200

    async def test_ready_when_all_answer(self, settings: Settings) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        app = create_app(settings.model_copy(update={"serving_url": f"http://127.0.0.1:{port}"}))
        async with server, app.router.lifespan_context(app):
            transport = httpx2.ASGITransport(app=app)
            async with httpx2.AsyncClient(transport=transport, base_url="http://doublei.test") as client:
                response = await client.get("/readyz")
        assert response.status_code == 200
        assert response.json()["status"] == "ready"


async def test_no_key_is_in_any_log_line(
    owner: Account, http: httpx2.AsyncClient, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither a good key nor a bad one, nor what a request carried."""
    await owner.http.get("/v1/files")
    await http.get("/v1/files", headers={"authorization": f"Bearer {owner.api_key}x"})
    await owner.http.post("/v1/api_keys", json={"role": "owner", "name": "canary-name"})
    logged = capsys.readouterr().err
    assert "request.finished" in logged
    assert owner.organization in logged
    assert owner.api_key.split("_")[2] not in logged
    assert "canary-name" not in logged


def test_the_real_dispatcher_is_what_the_app_uses(app: FastAPI) -> None:
    assert isinstance(app.state.dispatcher, Dispatcher)
