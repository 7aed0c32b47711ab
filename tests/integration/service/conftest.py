"""The real application on a real Postgres and Valkey, called in process; one client for each role."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import NullPool

from service import stamping
from service.app import create_app
from service.bootstrap import bootstrap
from service.settings import Settings

DATASET_ROWS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An organization, its key, and a client that sends it."""

    organization: str
    api_key: str
    http: httpx2.AsyncClient


@pytest.fixture
def settings(postgres_url: str, valkey_url: str, tmp_path: Path) -> Settings:
    """Settings of a service of this test's own. Nothing listens where serving should be."""
    kek, token, log_key = tmp_path / "kek", tmp_path / "serving-token", tmp_path / "log-key"
    kek.write_text(base64.b64encode(os.urandom(32)).decode())
    token.write_text("internal-token")
    log_key.write_text(f"doublei.test/log\n{base64.b64encode(os.urandom(32)).decode()}\n")
    evidence_key = tmp_path / "evidence-key"
    evidence_key.write_text(base64.b64encode(os.urandom(32)).decode())
    return Settings(
        DATABASE_URL=SecretStr(postgres_url),
        REDIS_URL=SecretStr(valkey_url),
        DOUBLEI_STORAGE_DIR=tmp_path / "storage",
        DOUBLEI_KEK_FILE=kek,
        DOUBLEI_LOG_KEY_FILE=log_key,
        DOUBLEI_EVIDENCE_KEY_FILE=evidence_key,
        DOUBLEI_SERVING_URL="http://127.0.0.1:9",
        DOUBLEI_SERVING_TOKEN_FILE=token,
        DOUBLEI_MAX_FILE_BYTES=8 * 1024 * 1024,
    )


@pytest.fixture
async def app(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FastAPI]:
    """The application, started. Checkpoints are signed when a test asks for one, and not by themselves."""
    monkeypatch.setattr(stamping, "PASS_SECONDS", 3600.0)
    application = create_app(settings)
    async with application.router.lifespan_context(application):
        yield application


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    """A client without a key."""
    async with _client(app, None) as client:
        yield client


@pytest.fixture
async def accounts(app: FastAPI, settings: Settings, tmp_path: Path) -> AsyncIterator[dict[str, Account]]:
    """What the first start makes: owner, provider, auditor."""
    path = tmp_path / "credentials.json"
    bootstrap(settings, path)
    made = {
        role: Account(
            organization=entry["organization"],
            api_key=entry["api_key"],
            http=_client(app, entry["api_key"]),
        )
        for role, entry in json.loads(path.read_text()).items()
    }
    yield made
    for account in made.values():
        await account.http.aclose()


@pytest.fixture
def owner(accounts: dict[str, Account]) -> Account:
    """The first business owner."""
    return accounts["owner"]


@pytest.fixture
def provider(accounts: dict[str, Account]) -> Account:
    """The provider's operator."""
    return accounts["provider"]


@pytest.fixture
def auditor(accounts: dict[str, Account]) -> Account:
    """The first auditor."""
    return accounts["auditor"]


NewAccount = Callable[[str], Awaitable[Account]]


@pytest.fixture
async def new_account(app: FastAPI, provider: Account) -> AsyncIterator[NewAccount]:
    """A function that makes one more organization of a role."""
    made: list[Account] = []

    async def make(role: str) -> Account:
        response = await provider.http.post(
            "/v1/organizations", json={"name": f"another {role}", "role": role}
        )
        body = response.json()
        account = Account(
            organization=body["id"], api_key=body["api_key"], http=_client(app, body["api_key"])
        )
        made.append(account)
        return account

    yield make
    for account in made:
        await account.http.aclose()


@pytest.fixture
def database(settings: Settings) -> Engine:
    """The test's database, for looking behind the API's back."""
    return create_engine(settings.database_url.get_secret_value(), poolclass=NullPool)


def dataset(rows: int = DATASET_ROWS) -> bytes:
    """A small valid dataset."""
    lines = (
        json.dumps({"instruction": f"What is {n} plus {n}?", "output": f"It is {n + n}."})
        for n in range(rows)
    )
    return ("\n".join(lines) + "\n").encode()


async def upload(
    account: Account, content: bytes, filename: str = "data.jsonl", purpose: str = "fine-tune"
) -> httpx2.Response:
    """POST /v1/files as the official client does."""
    return await account.http.post(
        "/v1/files",
        data={"purpose": purpose},
        files={"file": (filename, content, "application/octet-stream")},
    )


def _client(app: FastAPI, api_key: str | None) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=app, raise_app_exceptions=False),
        base_url="http://doublei.test",
        headers={"authorization": f"Bearer {api_key}"} if api_key else {},
    )
