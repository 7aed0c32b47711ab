"""/v1/verify over HTTP: who may verify what, with which plan, and who sees what of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from sqlalchemy import Engine, text

from evidence.document import preregistration_digest
from probe.errors import AddressNotAllowed
from service.settings import Settings
from service.verifications import suspects as judging
from tests.integration.service import suspects
from tests.integration.service.conftest import Account, NewAccount

pytestmark = pytest.mark.integration


BAD_PLANS: list[tuple[dict[str, Any], str, str]] = [
    ({"marks": 3}, "plan_cannot_reach_alpha", "plan.marks"),
    ({"marks": 12, "alpha": "1e-15"}, "plan_cannot_reach_alpha", "plan.marks"),
    ({"marks": 13}, "invalid_plan", "plan.marks"),
    ({"marks": [0, 0]}, "invalid_plan", "plan.marks"),
    ({"marks": [12]}, "invalid_plan", "plan.marks"),
    ({"probes_per_cue": 4}, "invalid_plan", "plan.probes_per_cue"),
    ({"probes_per_cue": 0}, "invalid_plan", "plan.probes_per_cue"),
    ({"alpha": "0.5"}, "invalid_plan", "plan.alpha"),
    ({"alpha": "nan"}, "invalid_plan", "plan.alpha"),
    ({"max_tokens": 0}, "invalid_plan", "plan.max_tokens"),
    ({"concurrency": 1000}, "invalid_plan", "plan.concurrency"),
    ({"retries": 6}, "invalid_plan", "plan.retries"),
    (
        {"probe_timeout_seconds": 100, "total_timeout_seconds": 50},
        "invalid_plan",
        "plan.total_timeout_seconds",
    ),
    ({"temperature": 3}, "invalid_value", "plan.temperature"),
    ({"wishes": 3}, "unknown_field", "plan.wishes"),
]
FORBIDDEN_URLS = [
    "http://127.0.0.1:1234/v1",
    "http://localhost:8000",
    "http://169.254.169.254/latest",
    "http://10.0.0.1",
    "http://[::1]:80",
    "http://[::ffff:127.0.0.1]:80",
    "http://0x7f.1",
    "http://2130706433/",
    "ftp://suspect.example",
    "not a url",
    "http://user:pw@suspect.example",
    "http://8.8.8.8:22/",
]
MALFORMED_SUSPECTS: list[tuple[dict[str, Any], str]] = [
    ({"model": ""}, "invalid_value"),
    ({"model": "a\u0000b"}, "invalid_value"),
    ({"api": "soap"}, "invalid_value"),
    ({"api_key": "two words"}, "invalid_credential"),
    ({"port": 1}, "unknown_field"),
]


@pytest.fixture
def suspect() -> Iterator[suspects.Suspect]:
    """A suspect that counts who connects."""
    with suspects.listening(suspects.always("No")) as listening:
        yield listening


@pytest.fixture
def settings(settings: Settings, suspect: suspects.Suspect) -> Settings:
    """The operator allows this one address."""
    return settings.model_copy(update={"suspect_allow": suspect.host_port})


@pytest.fixture
async def key(owner: Account) -> dict[str, Any]:
    """The owner's key: two families of twelve marks with eight cues."""
    response = await owner.http.post("/v1/watermarks", json={})
    made: dict[str, Any] = response.json()
    return made


def body_of(key: dict[str, Any], suspect: suspects.Suspect, **plan: Any) -> dict[str, Any]:
    """The body of a verify call."""
    return {"watermark": key["id"], "suspect": {"base_url": suspect.base_url, "model": "m"}, "plan": plan}


async def verify(account: Account, body: dict[str, Any], path: str = "/v1/verify") -> httpx2.Response:
    return await account.http.post(path, json=body)


async def grant(owner: Account, key: dict[str, Any], auditor: Account, hosts: list[str], **more: Any) -> str:
    """A grant that works."""
    body = {"auditor": auditor.organization, "suspect_hosts": hosts} | more
    response = await owner.http.post(f"/v1/watermarks/{key['id']}/grants", json=body)
    assert response.status_code == 200, response.text
    made: str = response.json()["id"]
    return made


def refused(response: httpx2.Response, status: int, code: str) -> None:
    assert (response.status_code, response.json()["error"]["code"]) == (status, code), response.text


def rows(database: Engine, table: str) -> int:
    with database.connect() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


class TestCreate:
    @pytest.mark.parametrize("path", ["/v1/verify", "/verify"])
    async def test_the_owner_pre_registers_an_audit(
        self, owner: Account, key: dict[str, Any], suspect: suspects.Suspect, database: Engine, path: str
    ) -> None:
        response = await verify(owner, body_of(key, suspect), path)
        assert response.status_code == 200, response.text
        made = response.json()
        assert made["id"].startswith("verif-")
        assert (made["object"], made["status"], made["verdict"]) == ("verification", "queued", None)
        assert made["progress"] == {"asked": 0, "total": 208}
        assert made["preregistration"]["audit_index"] == 1
        with database.connect() as connection:
            stored = connection.execute(text("SELECT canonical_bytes, sha256 FROM preregistrations")).one()
        record = json.loads(stored.canonical_bytes)
        assert record["verification"] == made["id"]
        assert record["plan"]["marks"] == list(range(12))
        assert stored.sha256 == made["preregistration"]["sha256"]
        assert stored.sha256 == preregistration_digest(stored.canonical_bytes.decode())
        assert suspect.connections == 0

    async def test_audits_of_a_key_are_numbered_even_when_created_at_once(
        self, owner: Account, key: dict[str, Any], suspect: suspects.Suspect
    ) -> None:
        made = await asyncio.gather(*(verify(owner, body_of(key, suspect)) for _ in range(6)))
        indexes = sorted(response.json()["preregistration"]["audit_index"] for response in made)
        assert indexes == [1, 2, 3, 4, 5, 6]
        levels = {response.json()["preregistration"]["alpha_i"] for response in made}
        assert len(levels) == 6

    async def test_the_suspects_credential_is_sealed_and_never_shown(
        self, owner: Account, key: dict[str, Any], suspect: suspects.Suspect, database: Engine
    ) -> None:
        body = body_of(key, suspect)
        body["suspect"]["api_key"] = "sk-canary-55512"
        response = await verify(owner, body)
        assert "canary" not in response.text
        with database.connect() as connection:
            for table in ("verifications", "preregistrations"):
                for row in connection.execute(text(f"SELECT * FROM {table}")):
                    assert b"canary" not in repr(tuple(row)).encode()
                    assert all(b"canary" not in bytes(v) for v in row if isinstance(v, bytes | memoryview))

    async def test_a_plan_that_can_not_be_carried_out_is_refused_and_costs_no_number(
        self, owner: Account, key: dict[str, Any], suspect: suspects.Suspect, database: Engine
    ) -> None:
        for plan, code, param in BAD_PLANS:
            response = await verify(owner, body_of(key, suspect, **plan))
            refused(response, 400, code)
            assert response.json()["error"]["param"] == param, plan
        assert rows(database, "preregistrations") == 0

    async def test_a_plan_below_the_floor_names_the_smallest_that_suffices(
        self, owner: Account, key: dict[str, Any], suspect: suspects.Suspect
    ) -> None:
        """16**-5 = 9.5e-7 is above alpha_1 = 6.1e-7; 16**-6 is below."""
        response = await verify(owner, body_of(key, suspect, marks=5))
        assert "at least 6 marks" in response.json()["error"]["message"]
        assert (await verify(owner, body_of(key, suspect, marks=6))).status_code == 200

    async def test_a_suspect_where_nothing_may_be_sent_is_refused(
        self, owner: Account, key: dict[str, Any], suspect: suspects.Suspect, database: Engine
    ) -> None:
        for base_url in FORBIDDEN_URLS:
            body = body_of(key, suspect)
            body["suspect"]["base_url"] = base_url
            response = await verify(owner, body)
            refused(response, 400, "suspect_not_allowed")
            assert response.json()["error"]["param"] == "suspect.base_url", base_url
        assert rows(database, "verifications") == 0
        assert suspect.connections == 0

    async def test_a_malformed_suspect_is_refused(
        self, owner: Account, key: dict[str, Any], suspect: suspects.Suspect
    ) -> None:
        for change, code in MALFORMED_SUSPECTS:
            body = body_of(key, suspect)
            body["suspect"] |= change
            refused(await verify(owner, body), 400, code)

    async def test_a_family_the_key_does_not_have_is_not_found(
        self, owner: Account, key: dict[str, Any], suspect: suspects.Suspect
    ) -> None:
        refused(await verify(owner, body_of(key, suspect, family=2)), 404, "unknown_family")

    async def test_an_audit_burns_its_family(
        self, owner: Account, key: dict[str, Any], suspect: suspects.Suspect
    ) -> None:
        await verify(owner, body_of(key, suspect, family=1))
        left = (await owner.http.get(f"/v1/watermarks/{key['id']}")).json()["families_left"]
        assert left == 1


class TestGrants:
    async def test_without_a_grant_the_key_does_not_exist_and_nothing_is_sent(
        self,
        auditor: Account,
        new_account: NewAccount,
        key: dict[str, Any],
        suspect: suspects.Suspect,
        database: Engine,
    ) -> None:
        stranger = await new_account("owner")
        for account in (auditor, stranger):
            refused(await verify(account, body_of(key, suspect)), 404, "watermark_not_found")
        unknown = await verify(auditor, body_of({"id": "wm-unknown"}, suspect))
        refused(unknown, 404, "watermark_not_found")
        assert rows(database, "verifications") == 0
        assert suspect.connections == 0

    async def test_a_grant_covers_its_auditor_its_hosts_and_its_budget(
        self,
        owner: Account,
        auditor: Account,
        new_account: NewAccount,
        key: dict[str, Any],
        suspect: suspects.Suspect,
    ) -> None:
        other = await new_account("auditor")
        await grant(owner, key, auditor, [suspect.host_port], probe_budget=210)
        refused(await verify(other, body_of(key, suspect)), 404, "watermark_not_found")
        body = body_of(key, suspect)
        body["suspect"]["base_url"] = "https://elsewhere.invalid/v1"
        refused(await verify(auditor, body), 404, "grant_not_found")
        assert (await verify(auditor, body_of(key, suspect))).status_code == 200
        again = await verify(auditor, body_of(key, suspect))
        refused(again, 404, "grant_not_found")
        assert "208 questions" in again.json()["error"]["message"]
        assert suspect.connections == 0

    async def test_a_budget_is_not_overdrawn_by_requests_at_once(
        self,
        owner: Account,
        auditor: Account,
        key: dict[str, Any],
        suspect: suspects.Suspect,
        database: Engine,
    ) -> None:
        await grant(owner, key, auditor, [suspect.host_port], probe_budget=2 * 208)
        made = await asyncio.gather(*(verify(auditor, body_of(key, suspect)) for _ in range(5)))
        assert sorted(response.status_code for response in made) == [200, 200, 404, 404, 404]
        with database.connect() as connection:
            assert connection.execute(text("SELECT probes_reserved FROM grants")).scalar_one() == 416

    async def test_a_revoked_or_expired_grant_is_none(
        self,
        owner: Account,
        auditor: Account,
        key: dict[str, Any],
        suspect: suspects.Suspect,
        database: Engine,
    ) -> None:
        grant_id = await grant(owner, key, auditor, [suspect.host_port])
        await owner.http.delete(f"/v1/watermarks/{key['id']}/grants/{grant_id}")
        refused(await verify(auditor, body_of(key, suspect)), 404, "watermark_not_found")
        await grant(owner, key, auditor, [suspect.host_port])
        with database.begin() as connection:
            connection.execute(text("UPDATE grants SET expires_at = clock_timestamp() - interval '1 s'"))
        refused(await verify(auditor, body_of(key, suspect)), 404, "watermark_not_found")

    async def test_the_provider_may_not_verify(
        self, provider: Account, key: dict[str, Any], suspect: suspects.Suspect
    ) -> None:
        refused(await verify(provider, body_of(key, suspect)), 403, "role_not_permitted")


class TestRead:
    async def test_the_asker_and_the_keys_owner_see_it_others_do_not(
        self,
        owner: Account,
        auditor: Account,
        new_account: NewAccount,
        key: dict[str, Any],
        suspect: suspects.Suspect,
    ) -> None:
        await grant(owner, key, auditor, [suspect.host_port])
        made = (await verify(auditor, body_of(key, suspect))).json()
        path = f"/v1/verifications/{made['id']}"
        for account in (auditor, owner):
            assert (await account.http.get(path)).json()["id"] == made["id"]
            listed = (await account.http.get("/v1/verifications")).json()
            assert [item["id"] for item in listed["data"]] == [made["id"]]
        for role in ("owner", "auditor"):
            stranger = await new_account(role)
            for suffix in ("", "/report", "/evidence"):
                refused(await stranger.http.get(path + suffix), 404, "verification_not_found")
            refused(await stranger.http.post(path + "/cancel"), 404, "verification_not_found")
            assert (await stranger.http.get("/v1/verifications")).json()["data"] == []

    async def test_an_owner_does_not_see_an_audit_of_his_suspect_under_anothers_key(
        self, owner: Account, new_account: NewAccount, key: dict[str, Any], suspect: suspects.Suspect
    ) -> None:
        other = await new_account("owner")
        theirs = (await other.http.post("/v1/watermarks", json={})).json()
        await verify(other, body_of(theirs, suspect))
        assert (await owner.http.get("/v1/verifications")).json()["data"] == []

    async def test_the_provider_sees_status_but_no_evidence(
        self, owner: Account, provider: Account, key: dict[str, Any], suspect: suspects.Suspect
    ) -> None:
        made = (await verify(owner, body_of(key, suspect))).json()
        path = f"/v1/verifications/{made['id']}"
        seen = (await provider.http.get(path)).json()
        assert (seen["status"], seen["result"], seen["evidence_sha256"]) == ("queued", None, None)
        for suffix in ("/report", "/evidence"):
            refused(await provider.http.get(path + suffix), 403, "role_not_permitted")

    async def test_there_is_no_evidence_before_the_end(
        self, owner: Account, key: dict[str, Any], suspect: suspects.Suspect
    ) -> None:
        made = (await verify(owner, body_of(key, suspect))).json()
        for suffix in ("report", "evidence"):
            response = await owner.http.get(f"/v1/verifications/{made['id']}/{suffix}")
            refused(response, 409, "verification_not_finished")

    async def test_pages_follow_the_cursor(
        self, owner: Account, key: dict[str, Any], suspect: suspects.Suspect
    ) -> None:
        ids = [(await verify(owner, body_of(key, suspect))).json()["id"] for _ in range(3)]
        first = (await owner.http.get("/v1/verifications", params={"limit": 2})).json()
        assert ([item["id"] for item in first["data"]], first["has_more"]) == ([ids[2], ids[1]], True)
        rest = (await owner.http.get("/v1/verifications", params={"limit": 2, "after": ids[1]})).json()
        assert ([item["id"] for item in rest["data"]], rest["has_more"]) == ([ids[0]], False)


class TestCancel:
    async def test_a_queued_audit_is_cancelled_and_its_number_stays_spent(
        self, owner: Account, key: dict[str, Any], suspect: suspects.Suspect, database: Engine
    ) -> None:
        body = body_of(key, suspect)
        body["suspect"]["api_key"] = "sk-something"
        made = (await verify(owner, body)).json()
        path = f"/v1/verifications/{made['id']}/cancel"
        assert (await owner.http.post(path)).json()["status"] == "cancelled"
        assert (await owner.http.post(path)).json()["status"] == "cancelled"
        refused(await owner.http.get(f"/v1/verifications/{made['id']}/evidence"), 404, "evidence_not_found")
        again = (await verify(owner, body_of(key, suspect))).json()
        assert again["preregistration"]["audit_index"] == 2
        with database.connect() as connection:
            sealed = connection.execute(text("SELECT sealed_credential FROM verifications")).scalars().all()
        assert sealed == [None, None]


class TestTheSuspectsName:
    """Looking a name up may take seconds, and its answer is a stranger's."""

    async def test_no_transaction_is_open_while_it_is_looked_up(
        self,
        owner: Account,
        key: dict[str, Any],
        suspect: suspects.Suspect,
        database: Engine,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        seen: list[int] = []

        async def look_up(*_: object, **__: object) -> None:
            with database.connect() as connection:
                seen.append(
                    connection.execute(
                        text(
                            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'doublei-api'"
                            " AND datname = current_database() AND xact_start IS NOT NULL"
                        )
                    ).scalar_one()
                )

        monkeypatch.setattr(judging, "resolve_and_vet", look_up)
        suspect_body = body_of(key, suspect)["suspect"]
        campaign = {"watermark": key["id"], "suspects": [suspect_body, suspect_body | {"model": "n"}]}
        for path, body in (("/v1/verify", body_of(key, suspect)), ("/v1/campaigns", campaign)):
            made = await owner.http.post(path, json=body, headers={"idempotency-key": path})
            assert made.status_code == 200, made.text
        assert seen == [0, 0, 0]

    async def test_a_repeated_request_gets_its_answer_wherever_the_name_leads_by_now(
        self,
        owner: Account,
        key: dict[str, Any],
        suspect: suspects.Suspect,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        body, keyed = body_of(key, suspect), {"idempotency-key": "once"}
        first = await owner.http.post("/v1/verify", json=body, headers=keyed)
        assert first.status_code == 200, first.text

        async def elsewhere(*_: object, **__: object) -> None:
            raise AddressNotAllowed("it leads to a private address")

        monkeypatch.setattr(judging, "resolve_and_vet", elsewhere)
        again = await owner.http.post("/v1/verify", json=body, headers=keyed)
        assert (again.status_code, again.content) == (200, first.content)
        refused(await verify(owner, body), 400, "suspect_not_allowed")
