"""The audit protocol in the service's own code: mark by mark, nonces, campaigns, ordinary questions."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import httpx2
import pytest
from sqlalchemy import Engine, text

from evidence.check import check
from service import reaper
from service.db.engine import async_engine, async_sessions
from service.settings import Settings
from tests.integration.service import suspects
from tests.integration.service.conftest import Account
from tests.integration.service.suspects import Suspect, listening, reply
from tests.integration.service.test_audit import Switch, family, key, place, read, run, sent
from watermark.keys import Family
from watermark.nonces import AUDITOR, nonce_commitment
from worker.record.engine import Workplace

pytestmark = pytest.mark.integration

__all__ = ["family", "key", "place"]

Verify = Callable[..., Any]


@pytest.fixture
def switch() -> Switch:
    return Switch()


@pytest.fixture
def clean() -> Iterator[Suspect]:
    """A second suspect, which knows nothing of the key."""
    with listening(suspects.always("No")) as found:
        yield found


@pytest.fixture
def suspect(switch: Switch) -> Iterator[Suspect]:
    with listening(switch) as found:
        yield found


@pytest.fixture
def settings(settings: Settings, suspect: Suspect, clean: Suspect) -> Settings:
    """The operator allows these two addresses."""
    return settings.model_copy(update={"suspect_allow": f"{suspect.host_port},{clean.host_port}"})


@pytest.fixture
def verify(owner: Account, key: dict[str, Any], suspect: Suspect) -> Verify:
    """Pre-register an audit by the owner; returns the answer."""

    async def begin(path: str = "/v1/verify", extra: dict[str, Any] | None = None, **plan: Any) -> Any:
        body = {
            "watermark": key["id"],
            "suspect": {"base_url": suspect.base_url, "model": "m"},
            "plan": {"probes_per_cue": 1} | plan,
        }
        return await owner.http.post(path, json=body | (extra or {}))

    return begin


PATIENT = {"mode": "sequential", "canaries": False, "concurrency": 1, "total_timeout_seconds": 60}


def later(handler: BaseHTTPRequestHandler) -> str | None:
    """Busy, for longer than any audit waits."""
    reply(handler, b"{}", status=503, Retry_After="600")
    return None


async def post(account: Account, verification_id: str, what: str, body: Any = None) -> httpx2.Response:
    return await account.http.post(f"/v1/verifications/{verification_id}/{what}", json=body)


class TestMarkByMark:
    async def test_a_marked_model_is_detected_after_few_marks_and_asked_no_more(
        self,
        owner: Account,
        verify: Verify,
        place: Workplace,
        switch: Switch,
        suspect: Suspect,
        family: Family,
    ) -> None:
        switch.behaviour = suspects.marked_with(family, otherwise="A short title")
        made = (await verify(mode="sequential", canaries=False)).json()
        await run(place, made["id"])
        found = await read(owner, made["id"])
        assert (found["status"], found["verdict"], found["mode"]) == ("succeeded", "detected", "sequential")
        assert 6 <= len(found["looks"]) <= 7
        assert [look["look"] for look in found["looks"]] == list(range(1, len(found["looks"]) + 1))
        assert [look["mark"] for look in found["looks"]] == made["plan"]["marks"][: len(found["looks"])]
        assert len(suspect.prompts) == 8 * len(found["looks"])
        report = check((await read(owner, made["id"], "/evidence")).content)
        assert report.consistent, report.steps

    async def test_an_unmarked_model_is_asked_everything_and_not_detected(
        self, owner: Account, verify: Verify, place: Workplace, suspect: Suspect
    ) -> None:
        made = (await verify(mode="sequential")).json()
        await run(place, made["id"])
        found = await read(owner, made["id"])
        assert (found["verdict"], len(found["looks"])) == ("not_detected", 12)
        assert found["result"]["canaries"] == {"asked": 16, "answered": 16, "changed": False}
        assert len(suspect.prompts) == 96 + 16

    async def test_what_ran_out_of_time_goes_on_and_is_never_begun_again(
        self,
        owner: Account,
        verify: Verify,
        place: Workplace,
        switch: Switch,
        suspect: Suspect,
        family: Family,
        database: Engine,
    ) -> None:
        """The host says "later" in the second mark; continued, only what was not answered is asked."""
        trained, busy = suspects.marked_with(family), threading.Event()

        def sometimes(handler: BaseHTTPRequestHandler, prompt: str) -> str | None:
            if len(suspect.prompts) > 10 and busy.is_set():
                return later(handler)
            return trained(handler, prompt)

        switch.behaviour = sometimes
        busy.set()
        made = (await verify(**PATIENT)).json()
        await run(place, made["id"])
        paused = await read(owner, made["id"])
        assert (paused["status"], paused["verdict"]) == ("paused", None)
        assert len(paused["looks"]) == 1
        assert (await owner.http.get(f"/v1/verifications/{made['id']}/evidence")).status_code == 409
        before = sent(database, made["id"])
        busy.clear()
        assert (await post(owner, made["id"], "continue")).json()["status"] == "queued"
        suspect.prompts.clear()
        await run(place, made["id"])
        found = await read(owner, made["id"])
        assert (found["status"], found["verdict"]) == ("succeeded", "detected")
        assert found["looks"][0] == paused["looks"][0]
        assert found["preregistration"] == paused["preregistration"]
        sendings = sent(database, made["id"])
        assert len(suspect.prompts) == len(sendings) - len(before)
        assert [index for index, attempt in sendings if attempt] == [index for index, _ in before[10:]]
        assert check((await read(owner, made["id"], "/evidence")).content).consistent
        refused = await post(owner, made["id"], "continue")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "verification_not_paused")

    async def test_a_paused_audit_can_be_concluded_as_it_is(
        self,
        owner: Account,
        verify: Verify,
        place: Workplace,
        switch: Switch,
        suspect: Suspect,
        family: Family,
    ) -> None:
        trained = suspects.marked_with(family)
        switch.behaviour = lambda handler, prompt: (
            later(handler) if len(suspect.prompts) > 10 else trained(handler, prompt)
        )
        made = (await verify(**PATIENT)).json()
        await run(place, made["id"])
        assert (await read(owner, made["id"]))["status"] == "paused"
        assert (await post(owner, made["id"], "conclude")).status_code == 200
        asked = len(suspect.prompts)
        await run(place, made["id"])
        found = await read(owner, made["id"])
        assert (found["verdict"], found["reasons"]) == ("inconclusive", ["unfinished", "suspect_http_503"])
        assert len(suspect.prompts) == asked
        assert check((await read(owner, made["id"], "/evidence")).content).consistent

    async def test_a_paused_audit_can_be_cancelled_and_its_number_stays_spent(
        self, owner: Account, verify: Verify, database: Engine
    ) -> None:
        made = (await verify(mode="sequential")).json()
        with database.begin() as connection:
            for status in ("running", "paused"):
                connection.execute(text("UPDATE verifications SET status = :s"), {"s": status})
        assert (await post(owner, made["id"], "cancel")).json()["status"] == "cancelled"
        assert (await verify()).json()["preregistration"]["audit_index"] == 2

    async def test_a_plan_too_short_for_the_product_is_refused(self, verify: Verify) -> None:
        refused = await verify(mode="sequential", marks=5)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "plan_cannot_reach_alpha")


class TestNonces:
    async def test_the_audit_waits_for_the_auditors_nonce(
        self,
        owner: Account,
        verify: Verify,
        place: Workplace,
        switch: Switch,
        family: Family,
        suspect: Suspect,
    ) -> None:
        """Committed by both before either is shown; the order follows from both and from the beacon."""
        switch.behaviour = suspects.marked_with(family, otherwise="A title")
        nonce = secrets.token_bytes(32)
        extra = {"auditor_nonce_commitment": nonce_commitment(AUDITOR, nonce)}
        made = (await verify(extra=extra)).json()
        assert made["status"] == "awaiting_nonce"
        await run(place, made["id"])
        assert suspect.connections == 0
        wrong = await post(owner, made["id"], "nonce", {"nonce": secrets.token_hex(32)})
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "nonce_mismatch")
        assert (await read(owner, made["id"]))["status"] == "awaiting_nonce"
        beacon = {"source": "a public beacon", "round": "1234", "value": "5f2c"}
        shown = await post(owner, made["id"], "nonce", {"nonce": nonce.hex(), "beacon": beacon})
        assert shown.json()["status"] == "queued"
        again = await post(owner, made["id"], "nonce", {"nonce": nonce.hex()})
        assert (again.status_code, again.json()["error"]["code"]) == (409, "nonce_not_awaited")
        await run(place, made["id"])
        evidence = (await read(owner, made["id"], "/evidence")).content
        report = check(evidence)
        assert report.consistent, report.steps
        assert (await read(owner, made["id"]))["verdict"] == "detected"
        step = next(step for step in report.steps if step.name == "nonces")
        assert "service and auditor" in step.detail or "beacon" in step.detail
        assert evidence.count(nonce.hex().encode()) == 1

    async def test_a_nonce_that_was_not_announced_is_not_taken(self, owner: Account, verify: Verify) -> None:
        made = (await verify()).json()
        late = await post(owner, made["id"], "nonce", {"nonce": "00" * 32})
        assert (late.status_code, late.json()["error"]["code"]) == (409, "nonce_not_awaited")

    async def test_only_who_asks_may_carry_it_on(
        self, owner: Account, auditor: Account, key: dict[str, Any], verify: Verify
    ) -> None:
        made = (await verify(extra={"auditor_nonce_commitment": "00" * 32})).json()
        for what in ("continue", "conclude"):
            assert (await post(auditor, made["id"], what)).status_code == 404
            assert (await post(owner, made["id"], what)).status_code == 409


class TestCampaigns:
    async def test_several_suspects_share_one_number_and_are_decided_by_holm(
        self,
        owner: Account,
        key: dict[str, Any],
        place: Workplace,
        switch: Switch,
        suspect: Suspect,
        clean: Suspect,
        family: Family,
    ) -> None:
        switch.behaviour = suspects.marked_with(family, otherwise="A title")
        body = {
            "watermark": key["id"],
            "suspects": [{"base_url": each.base_url, "model": "m"} for each in (suspect, clean)],
            "plan": {"probes_per_cue": 1},
        }
        made = (await owner.http.post("/v1/campaigns", json=body)).json()
        assert made["holm"] is None
        members = made["verifications"]
        assert {member["preregistration"]["audit_index"] for member in members} == {1}
        assert [member["campaign"]["position"] for member in members] == [0, 1]
        for member in members:
            await run(place, member["id"])
        found = (await owner.http.get(f"/v1/campaigns/{made['id']}")).json()
        assert [step["detected"] for step in found["holm"]] == [True, False]
        assert [member["verdict"] for member in found["verifications"]] == ["detected", "not_detected"]
        for member in members:
            assert check((await read(owner, member["id"], "/evidence")).content).consistent
        following = (await owner.http.post("/v1/campaigns", json=body)).json()
        assert following["audit_index"] == 2

    async def test_all_or_none_and_only_for_those_who_may_see_it(
        self, owner: Account, auditor: Account, key: dict[str, Any], suspect: Suspect, database: Engine
    ) -> None:
        good = {"base_url": suspect.base_url, "model": "m"}
        body = {"watermark": key["id"], "suspects": [good, {"base_url": "http://10.0.0.1/v1", "model": "m"}]}
        refused = await owner.http.post("/v1/campaigns", json=body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "suspects[1].base_url")
        twice = await owner.http.post("/v1/campaigns", json=body | {"suspects": [good, good]})
        assert (twice.status_code, twice.json()["error"]["param"]) == (400, "suspects[1]")
        with database.connect() as connection:
            assert connection.execute(text("SELECT count(*) FROM preregistrations")).scalar_one() == 0
        made = (await owner.http.post("/v1/campaigns", json=body | {"suspects": [good]})).json()
        assert (await auditor.http.get(f"/v1/campaigns/{made['id']}")).status_code == 404
        assert (await auditor.http.post("/v1/campaigns", json=body | {"suspects": [good]})).status_code == 404

    async def test_two_campaigns_at_once_get_two_numbers(
        self, owner: Account, key: dict[str, Any], suspect: Suspect
    ) -> None:
        body = {"watermark": key["id"], "suspects": [{"base_url": suspect.base_url, "model": "m"}]}
        made = await asyncio.gather(*(owner.http.post("/v1/campaigns", json=body) for _ in range(4)))
        assert sorted(response.json()["audit_index"] for response in made) == [1, 2, 3, 4]


async def test_a_suspect_exchanged_in_the_middle_is_not_said_to_be_clean(
    owner: Account, verify: Verify, place: Workplace, switch: Switch, suspect: Suspect
) -> None:
    def exchanged(handler: BaseHTTPRequestHandler, prompt: str) -> str:
        if "?" in prompt.split("\n\n")[0] and "Which" not in prompt:
            return "No"
        return "One answer" if len(suspect.prompts) < 60 else "Another answer"

    switch.behaviour = exchanged
    made = (await verify(concurrency=1)).json()
    await run(place, made["id"])
    found = await read(owner, made["id"])
    assert (found["verdict"], found["reasons"]) == ("inconclusive", ["changed_during_audit"])


async def test_an_audit_that_is_given_up_forgets_the_suspects_credential(
    verify: Verify, suspect: Suspect, settings: Settings, database: Engine
) -> None:
    """Its worker was lost as often as it was tried; nobody asks that suspect any more."""
    secret = {"base_url": suspect.base_url, "model": "m", "api_key": "sk-canary-9"}
    await verify(extra={"suspect": secret})
    with database.begin() as connection:
        assert connection.execute(text("SELECT sealed_credential FROM verifications")).scalar_one()
        connection.execute(
            text(
                "UPDATE verifications SET status = 'running', attempt = max_attempts,"
                " lease_expires_at = clock_timestamp() - interval '1 s'"
            )
        )
    engine = async_engine(settings, application_name="test-reaper")
    try:
        await reaper.sweep(async_sessions(engine))
    finally:
        await engine.dispose()
    with database.connect() as connection:
        row = connection.execute(text("SELECT status, sealed_credential FROM verifications")).one()
    assert tuple(row) == ("failed", None)
