"""Organizations, API keys, roles, and the first start."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine, text

from service.bootstrap import bootstrap
from service.settings import Settings
from tests.integration.service.conftest import Account, NewAccount, dataset, upload

pytestmark = pytest.mark.integration


class TestAuthentication:
    async def test_no_key_is_401_and_says_how_to_send_one(self, http: httpx2.AsyncClient) -> None:
        response = await http.get("/v1/files")
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.json()["error"]["code"] == "missing_api_key"
        assert response.json()["error"]["type"] == "authentication_error"

    @pytest.mark.parametrize("change", ["unknown id", "wrong secret", "garbage", "other scheme"])
    async def test_all_wrong_keys_look_alike(
        self, http: httpx2.AsyncClient, owner: Account, change: str
    ) -> None:
        _, key_id, secret = owner.api_key.split("_")
        flipped = secret[:-1] + ("a" if secret[-1] != "a" else "b")
        header = {
            "unknown id": f"Bearer di_{'0' * 12}_{secret}",
            "wrong secret": f"Bearer di_{key_id}_{flipped}",
            "garbage": "Bearer sk-somebody-elses",
            "other scheme": f"Basic {owner.api_key}",
        }[change]
        response = await http.get("/v1/files", headers={"authorization": header})
        assert response.status_code == 401
        assert response.json()["error"]["code"] == "invalid_api_key"
        assert secret not in response.text

    async def test_an_unauthenticated_upload_is_refused_before_its_body_is_read(self, app: FastAPI) -> None:
        read = 0

        async def body() -> AsyncIterator[bytes]:
            nonlocal read
            for _ in range(1000):
                read += 1
                yield b"x" * 65536

        client = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://doublei.test")
        async with client:
            response = await client.post("/v1/files", content=body())
        assert response.status_code == 401
        assert read <= 2

    async def test_only_a_hash_of_the_secret_is_stored(self, owner: Account, database: Engine) -> None:
        secret = owner.api_key.split("_")[2]
        with database.connect() as connection:
            rows = connection.execute(text("SELECT api_keys::text FROM api_keys")).scalars().all()
        assert rows
        assert not any(secret in row or secret.encode().hex() in row for row in rows)


class TestApiKeys:
    async def test_a_key_is_shown_once(self, owner: Account) -> None:
        made = (await owner.http.post("/v1/api_keys", json={"name": "ci", "role": "owner"})).json()
        listed = await owner.http.get("/v1/api_keys")
        assert made["key"].startswith("di_")
        assert made["key"].split("_")[1] in made["id"]
        assert made["id"] in [row["id"] for row in listed.json()["data"]]
        assert made["key"] not in listed.text

    async def test_a_new_key_works_and_a_revoked_one_does_not(
        self, owner: Account, http: httpx2.AsyncClient
    ) -> None:
        made = (await owner.http.post("/v1/api_keys", json={"name": "ci", "role": "owner"})).json()
        header = {"authorization": f"Bearer {made['key']}"}
        assert (await http.get("/v1/files", headers=header)).status_code == 200
        deleted = await owner.http.delete(f"/v1/api_keys/{made['id']}")
        assert deleted.json() == {"id": made["id"], "object": "api_key", "deleted": True}
        assert (await http.get("/v1/files", headers=header)).status_code == 401
        assert (await owner.http.delete(f"/v1/api_keys/{made['id']}")).status_code == 404

    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            ("GET", "/v1/files", False),
            ("POST", "/v1/watermarks", False),
            ("GET", "/v1/api_keys", False),
            ("POST", "/v1/api_keys", False),
            ("GET", "/v1/fine_tuning/jobs", False),
            ("GET", "/v1/models", True),
            ("POST", "/v1/chat/completions", True),
            ("POST", "/v1/completions", True),
        ],
    )
    async def test_an_inference_key_reaches_models_and_completions_only(
        self, owner: Account, http: httpx2.AsyncClient, method: str, path: str, allowed: bool
    ) -> None:
        made = (await owner.http.post("/v1/api_keys", json={"name": "app", "role": "inference"})).json()
        response = await http.request(
            method, path, headers={"authorization": f"Bearer {made['key']}"}, json={}
        )
        code = response.json().get("error", {}).get("code")
        assert (code == "role_not_permitted") is not allowed

    async def test_a_key_of_a_stronger_role_can_not_be_made(self, owner: Account) -> None:
        response = await owner.http.post("/v1/api_keys", json={"name": "x", "role": "provider"})
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "role"

    async def test_another_organizations_keys_are_not_there(
        self, owner: Account, new_account: NewAccount
    ) -> None:
        other = await new_account("owner")
        made = (await other.http.post("/v1/api_keys", json={"name": "x", "role": "owner"})).json()
        assert (await owner.http.delete(f"/v1/api_keys/{made['id']}")).status_code == 404
        named = await owner.http.get("/v1/api_keys", params={"organization": other.organization})
        assert named.status_code == 404
        foreign = {"name": "x", "role": "owner", "organization": other.organization}
        assert (await owner.http.post("/v1/api_keys", json=foreign)).status_code == 404

    async def test_the_provider_makes_and_revokes_keys_for_anyone(
        self, provider: Account, owner: Account
    ) -> None:
        body = {"name": "help", "role": "owner", "organization": owner.organization}
        made = await provider.http.post("/v1/api_keys", json=body)
        assert made.status_code == 200
        assert made.json()["organization"] == owner.organization
        assert (await provider.http.delete(f"/v1/api_keys/{made.json()['id']}")).status_code == 200


class TestOrganizations:
    @pytest.mark.parametrize("role", ["owner", "auditor"])
    async def test_only_the_provider_makes_them(self, accounts: dict[str, Account], role: str) -> None:
        response = await accounts[role].http.post("/v1/organizations", json={"name": "x", "role": "owner"})
        assert response.status_code == 403
        assert response.json()["error"]["code"] == "role_not_permitted"

    async def test_a_new_tenant_gets_a_working_key(self, new_account: NewAccount) -> None:
        other = await new_account("owner")
        assert (await upload(other, dataset())).status_code == 200

    async def test_pages_go_through_all_of_them_once(
        self, provider: Account, new_account: NewAccount
    ) -> None:
        for _ in range(4):
            await new_account("auditor")
        seen: list[str] = []
        after, more = None, True
        while more:
            params = {"limit": 3} | ({"after": after} if after else {})
            body = (await provider.http.get("/v1/organizations", params=params)).json()
            seen += [row["id"] for row in body["data"]]
            after, more = body["last_id"], body["has_more"]
        assert len(seen) == len(set(seen)) == 7


class TestFirstStart:
    def test_it_is_idempotent_and_private(self, settings: Settings, tmp_path: Path) -> None:
        path = tmp_path / "private" / "credentials.json"
        assert bootstrap(settings, path) is True
        first = path.read_text()
        assert bootstrap(settings, path) is False
        assert path.read_text() == first
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert set(json.loads(first)) == {"owner", "provider", "auditor"}
        assert [p.name for p in path.parent.iterdir()] == ["credentials.json"]

    def test_a_lost_file_is_replaced_for_the_same_organizations(
        self, settings: Settings, tmp_path: Path
    ) -> None:
        path = tmp_path / "credentials.json"
        bootstrap(settings, path)
        before = json.loads(path.read_text())
        path.write_text('{"owner": {"api_key"')
        assert bootstrap(settings, path) is True
        after = json.loads(path.read_text())
        for role in before:
            assert after[role]["organization"] == before[role]["organization"]
            assert after[role]["api_key"] != before[role]["api_key"]

    def test_the_command_prints_no_key(self, settings: Settings, tmp_path: Path) -> None:
        path = tmp_path / "credentials.json"
        environment = {
            "DATABASE_URL": settings.database_url.get_secret_value(),
            "REDIS_URL": settings.redis_url.get_secret_value(),
            "DOUBLEI_STORAGE_DIR": str(settings.storage_dir),
            "DOUBLEI_KEK_FILE": str(settings.kek_file),
            "DOUBLEI_SERVING_URL": settings.serving_url,
            "DOUBLEI_SERVING_TOKEN_FILE": str(settings.serving_token_file),
            "HOME": str(tmp_path),
        }
        done = subprocess.run(
            [sys.executable, "-m", "service.bootstrap", "--credentials-file", str(path)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        keys = [entry["api_key"].split("_")[2] for entry in json.loads(path.read_text()).values()]
        assert not any(key in done.stdout + done.stderr for key in keys)
