"""/v1/audit_trail: what is written, what survives a refusal, and who reads what of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DatabaseError

from service.settings import Settings
from tests.integration.service import suspects
from tests.integration.service.conftest import Account, NewAccount
from worker.record.engine import Workplace, open_workplace
from worker.tasks import verify_run

pytestmark = pytest.mark.integration

PLAN = {"probes_per_cue": 1}


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
def place(settings: Settings) -> Workplace:
    """A worker process's place."""
    return open_workplace(settings, shutting_down=lambda: False)


@pytest.fixture
async def key(owner: Account) -> dict[str, Any]:
    """The owner's key."""
    made: dict[str, Any] = (await owner.http.post("/v1/watermarks", json={})).json()
    return made


async def grant(
    owner: Account, key: dict[str, Any], auditor: Account, *hosts: str, **more: Any
) -> dict[str, Any]:
    """A grant that works."""
    body = {"auditor": auditor.organization, "suspect_hosts": list(hosts)} | more
    response = await owner.http.post(f"/v1/watermarks/{key['id']}/grants", json=body)
    assert response.status_code == 200, response.text
    made: dict[str, Any] = response.json()
    return made


async def verify(account: Account, key: dict[str, Any], base_url: str, **plan: Any) -> httpx2.Response:
    """POST /v1/verify."""
    body = {"watermark": key["id"], "suspect": {"base_url": base_url, "model": "m"}, "plan": PLAN | plan}
    return await account.http.post("/v1/verify", json=body)


async def trail(account: Account, **query: Any) -> list[dict[str, Any]]:
    """Oldest first."""
    response = await account.http.get("/v1/audit_trail", params={"limit": 100} | query)
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["data"]
    return found[::-1]


def actions(events: list[dict[str, Any]]) -> list[str]:
    return [event["action"] for event in events]


def api_key_id(account: Account) -> str:
    return f"key-{account.api_key.split('_')[1]}"


class TestKeysAndGrants:
    async def test_what_an_owner_does_with_a_key_is_in_its_trail(
        self, owner: Account, auditor: Account, key: dict[str, Any]
    ) -> None:
        first = await grant(owner, key, auditor, "a.example:443", probe_budget=300)
        second = await grant(owner, key, auditor, "b.example:443")
        path = f"/v1/watermarks/{key['id']}"
        for _ in range(2):
            assert (await owner.http.delete(f"{path}/grants/{first['id']}")).status_code == 200
        assert (await owner.http.delete(path)).status_code == 200
        events = await trail(owner)
        assert actions(events) == [
            "watermark.created",
            "grant.created",
            "grant.created",
            "grant.revoked",
            "grant.revoked",
            "watermark.deleted",
        ]
        assert [event["grant"] for event in events] == [
            None,
            first["id"],
            second["id"],
            first["id"],
            second["id"],
            None,
        ]
        assert {event["watermark"] for event in events} == {key["id"]}
        for event in events:
            assert event["actor"] == {"organization": owner.organization, "api_key": api_key_id(owner)}
            assert owner.api_key.split("_")[2] not in str(event)
        assert events[1]["detail"] == {
            "auditor": auditor.organization,
            "suspect_hosts": ["a.example:443"],
            "questions": 300,
            "expires_at": first["expires_at"],
        }

    async def test_what_was_refused_did_not_happen(self, owner: Account, key: dict[str, Any]) -> None:
        body = {"auditor": "org-nobody", "suspect_hosts": ["a.example:443"]}
        assert (await owner.http.post(f"/v1/watermarks/{key['id']}/grants", json=body)).status_code == 404
        assert actions(await trail(owner)) == ["watermark.created"]

    async def test_the_trail_only_grows(self, key: dict[str, Any], database: Engine) -> None:
        for statement in (
            "DELETE FROM audit_events",
            "UPDATE audit_events SET action = 'x'",
            "TRUNCATE audit_events",
        ):
            with pytest.raises(DatabaseError), database.begin() as connection:
                connection.execute(text(statement))


class TestRefusals:
    async def test_each_reason_is_the_owners_to_know_and_survives_the_refusal(
        self,
        owner: Account,
        auditor: Account,
        new_account: NewAccount,
        key: dict[str, Any],
        suspect: suspects.Suspect,
    ) -> None:
        """One attempt after the other, as the grants change; all of them 404, nothing sent."""
        stranger = await new_account("owner")
        refused = [
            await verify(stranger, key, suspect.base_url),
            await verify(auditor, key, suspect.base_url),
        ]
        first = await grant(owner, key, auditor, "a.example:443", expires_in_seconds=1)
        refused.append(await verify(auditor, key, suspect.base_url))
        await asyncio.sleep(1.2)
        refused.append(await verify(auditor, key, suspect.base_url))
        second = await grant(owner, key, auditor, suspect.host_port, probe_budget=10)
        refused.append(await verify(auditor, key, suspect.base_url))
        await owner.http.delete(f"/v1/watermarks/{key['id']}/grants/{second['id']}")
        refused.append(await verify(auditor, key, suspect.base_url))
        assert [response.status_code for response in refused] == [404] * 6
        assert suspect.connections == 0
        found = [event for event in await trail(owner) if event["action"] == "verification.refused"]
        assert [(event["actor"]["organization"], event["detail"]["reason"]) for event in found] == [
            (stranger.organization, "no_grant"),
            (auditor.organization, "no_grant"),
            (auditor.organization, "host_not_granted"),
            (auditor.organization, "grant_expired"),
            (auditor.organization, "budget_exceeded"),
            (auditor.organization, "grant_revoked"),
        ]
        assert [event["grant"] for event in found] == [
            None,
            None,
            first["id"],
            first["id"],
            second["id"],
            second["id"],
        ]
        assert {event["suspect_host"] for event in found} == {suspect.host_port}
        assert {event["watermark"] for event in found} == {key["id"]}
        assert found[4]["detail"]["questions"] > 10
        assert found[0]["actor"]["api_key"] == api_key_id(stranger)

    async def test_the_asker_learns_nothing_from_its_own_trail(
        self, auditor: Account, key: dict[str, Any], suspect: suspects.Suspect
    ) -> None:
        """A key that exists and one that does not: the same answer, the same trail."""
        existing = await verify(auditor, key, suspect.base_url)
        nowhere = await verify(auditor, {"id": "wm-000000000000000000000000"}, suspect.base_url)
        shown = existing.text.replace(key["id"], "ID")
        assert shown == nowhere.text.replace("wm-000000000000000000000000", "ID")
        assert await trail(auditor) == []
        assert await trail(auditor, watermark=key["id"]) == []

    async def test_an_attempt_on_a_deleted_key_still_reaches_its_owner(
        self, owner: Account, auditor: Account, key: dict[str, Any], suspect: suspects.Suspect
    ) -> None:
        await grant(owner, key, auditor, suspect.host_port)
        await owner.http.delete(f"/v1/watermarks/{key['id']}")
        assert (await verify(auditor, key, suspect.base_url)).status_code == 404
        assert (await trail(owner))[-1]["detail"] == {"reason": "grant_revoked"}

    async def test_an_owners_own_mistakes_are_no_refusals(
        self, owner: Account, key: dict[str, Any], suspect: suspects.Suspect
    ) -> None:
        assert (await verify(owner, key, suspect.base_url, family=9)).status_code == 404
        assert (await verify(owner, key, suspect.base_url, marks=99)).status_code == 400
        assert actions(await trail(owner)) == ["watermark.created"]


class TestVerifications:
    async def test_an_audit_from_pre_registration_to_the_reading_of_its_evidence(
        self,
        owner: Account,
        auditor: Account,
        provider: Account,
        key: dict[str, Any],
        suspect: suspects.Suspect,
        place: Workplace,
    ) -> None:
        granted = await grant(owner, key, auditor, suspect.host_port)
        made = (await verify(auditor, key, suspect.base_url)).json()
        await asyncio.to_thread(verify_run, place, made["id"])
        path = f"/v1/verifications/{made['id']}"
        assert (await auditor.http.get(f"{path}/evidence")).status_code == 200
        assert (await owner.http.get(f"{path}/report")).status_code == 200
        for _ in range(2):
            assert (await provider.http.get(path)).status_code == 200
        events = await trail(owner, verification=made["id"])
        assert [(event["action"], event["actor"]["organization"]) for event in events] == [
            ("verification.preregistered", auditor.organization),
            ("verification.finished", auditor.organization),
            ("evidence.read", auditor.organization),
            ("report.read", owner.organization),
            ("verification.read", provider.organization),
        ]
        for event in events:
            assert (event["watermark"], event["grant"]) == (key["id"], granted["id"])
            assert event["suspect_host"] == suspect.host_port
            assert event["detail"]["questions"] == made["progress"]["total"]
        assert events[0]["actor"]["api_key"] == api_key_id(auditor)
        assert events[1]["actor"]["api_key"] is None
        assert (events[1]["detail"]["status"], events[1]["detail"]["verdict"]) == (
            "succeeded",
            "not_detected",
        )
        own = await trail(auditor)
        assert actions(own) == ["verification.preregistered", "verification.finished", "evidence.read"]
        seen = await trail(provider, verification=made["id"])
        assert actions(seen) == actions(events)
        assert [event["detail"] for event in seen] == [{}, {"status": "succeeded"}, {}, {}, {}]

    async def test_cancelling_is_an_event_and_so_is_the_end(
        self, owner: Account, key: dict[str, Any], suspect: suspects.Suspect
    ) -> None:
        made = (await verify(owner, key, suspect.base_url)).json()
        for _ in range(2):
            await owner.http.post(f"/v1/verifications/{made['id']}/cancel")
        assert actions(await trail(owner, verification=made["id"])) == [
            "verification.preregistered",
            "verification.cancelled",
            "verification.finished",
        ]

    async def test_the_port_of_a_suspect_is_named_where_its_url_leaves_it_out(
        self, owner: Account, key: dict[str, Any]
    ) -> None:
        for base_url in ("https://suspect.invalid/v1", "http://suspect.invalid/v1"):
            assert (await verify(owner, key, base_url)).status_code == 200
        hosts = [event["suspect_host"] for event in await trail(owner) if event["verification"]]
        assert hosts == ["suspect.invalid:443", "suspect.invalid:80"]


class TestReading:
    async def test_others_see_nothing_and_the_provider_everything(
        self,
        owner: Account,
        auditor: Account,
        provider: Account,
        new_account: NewAccount,
        key: dict[str, Any],
    ) -> None:
        await grant(owner, key, auditor, "a.example:443")
        other = await new_account("owner")
        assert await trail(other) == await trail(other, watermark=key["id"]) == []
        assert await trail(auditor) == []
        shown = await trail(provider)
        assert actions(shown) == ["watermark.created", "grant.created"]
        assert [event["detail"] for event in shown] == [{}, {}]
        assert {event["owner"] for event in shown} == {owner.organization}

    async def test_pages_follow_the_cursor_and_the_filter(self, owner: Account) -> None:
        keys = [(await owner.http.post("/v1/watermarks", json={})).json()["id"] for _ in range(3)]
        first = (await owner.http.get("/v1/audit_trail", params={"limit": 2})).json()
        assert ([item["watermark"] for item in first["data"]], first["has_more"]) == (keys[:0:-1], True)
        rest = (
            await owner.http.get("/v1/audit_trail", params={"limit": 2, "after": first["last_id"]})
        ).json()
        assert ([item["watermark"] for item in rest["data"]], rest["has_more"]) == (keys[:1], False)
        assert [event["watermark"] for event in await trail(owner, watermark=keys[1])] == [keys[1]]
        assert await trail(owner, verification="verif-none") == []

    async def test_an_inference_key_reads_nothing(self, owner: Account, http: httpx2.AsyncClient) -> None:
        made = (await owner.http.post("/v1/api_keys", json={"name": "app", "role": "inference"})).json()
        http.headers["authorization"] = f"Bearer {made['key']}"
        assert (await http.get("/v1/audit_trail")).status_code == 403


class TestGrantsThatEnd:
    async def test_an_auditor_keeps_the_audits_it_made_and_makes_no_more(
        self,
        owner: Account,
        auditor: Account,
        key: dict[str, Any],
        suspect: suspects.Suspect,
        place: Workplace,
    ) -> None:
        """It was given the transcript when it asked; as a witness it must be able to show it later."""
        granted = await grant(owner, key, auditor, suspect.host_port)
        made = (await verify(auditor, key, suspect.base_url)).json()
        await asyncio.to_thread(verify_run, place, made["id"])
        await owner.http.delete(f"/v1/watermarks/{key['id']}/grants/{granted['id']}")
        path = f"/v1/verifications/{made['id']}"
        for suffix in ("", "/evidence", "/report"):
            assert (await auditor.http.get(path + suffix)).status_code == 200
        assert (await auditor.http.get(f"/v1/watermarks/{key['id']}")).status_code == 404
        assert (await auditor.http.get(f"/v1/watermarks/{key['id']}/grants")).status_code == 404
        asked = len(suspect.prompts)
        assert (await verify(auditor, key, suspect.base_url)).status_code == 404
        assert len(suspect.prompts) == asked

    @pytest.mark.parametrize("end", ["revoked", "expired"])
    async def test_a_running_audit_stops_within_seconds_of_its_grants_end(
        self,
        owner: Account,
        auditor: Account,
        key: dict[str, Any],
        suspect: suspects.Suspect,
        place: Workplace,
        end: str,
    ) -> None:
        def slow(handler: Any, prompt: str) -> str:
            time.sleep(0.2)
            return "No"

        suspect.behaviour = slow
        seconds = 3 if end == "expired" else 600
        granted = await grant(owner, key, auditor, suspect.host_port, expires_in_seconds=seconds)
        made = (await verify(auditor, key, suspect.base_url, concurrency=1)).json()
        running = asyncio.create_task(asyncio.to_thread(verify_run, place, made["id"]))
        while len(suspect.prompts) < 3:
            await asyncio.sleep(0.02)
        if end == "revoked":
            await owner.http.delete(f"/v1/watermarks/{key['id']}/grants/{granted['id']}")
        await asyncio.wait_for(running, 10)
        asked = len(suspect.prompts)
        assert asked < made["progress"]["total"]
        await asyncio.sleep(0.5)
        assert len(suspect.prompts) == asked
        found = (await owner.http.get(f"/v1/verifications/{made['id']}")).json()
        assert (found["status"], found["verdict"]) == ("cancelled", None)

    async def test_what_is_left_of_a_budget_is_shown_to_both(
        self, owner: Account, auditor: Account, key: dict[str, Any], suspect: suspects.Suspect
    ) -> None:
        await grant(owner, key, auditor, suspect.host_port, probe_budget=500)
        made = (await verify(auditor, key, suspect.base_url)).json()
        for account in (owner, auditor):
            (shown,) = (await account.http.get(f"/v1/watermarks/{key['id']}/grants")).json()["data"]
            assert shown["probes_left"] == 500 - made["progress"]["total"]
