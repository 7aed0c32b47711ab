"""An auditor who wants more than it was granted: nothing is sent, and the refusal says nothing.

The suspects are a real model behind listeners that count who connects. The operator allows all of them, so
that only the grants stand in the way.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.e2e.audits import (
    asked,
    call,
    evidence_of,
    grant,
    make_key,
    read,
    refused,
    start,
    verify_body,
    wait,
)
from tests.e2e.conftest import Deployment

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

NOWHERE = "wm-000000000000000000000000"
WORKER_SECONDS = 3.0
"""The doorbell wakes a worker at once; had a question been queued, it would have been asked in this time."""


@pytest.fixture(scope="module")
def stranger(deployment: Deployment) -> dict[str, Any]:
    """Another tenant of the service, with a key of its own."""
    made: dict[str, Any] = asked(
        deployment.call("provider", "POST", "/v1/organizations", {"name": "another", "role": "owner"})
    )
    made["watermark"] = asked(call(deployment, made["api_key"], "POST", "/v1/watermarks", {}))["id"]
    return made


def attempts(deployment: Deployment, stranger: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The body of each attempt by name; the grants behind them are made, ended and spent here."""
    first, other_port, other_host = (
        deployment.listeners.first,
        deployment.listeners.other_port,
        deployment.listeners.other_host,
    )
    keys = {name: make_key(deployment)["id"] for name in ("none", "expired", "revoked", "deleted", "held")}
    grant(deployment, keys["expired"], first.host_port, expires_in_seconds=1)
    revoked = grant(deployment, keys["revoked"], first.host_port)
    path = f"/v1/watermarks/{keys['revoked']}/grants/{revoked['id']}"
    asked(deployment.call("owner", "DELETE", path))
    grant(deployment, keys["deleted"], first.host_port)
    asked(deployment.call("owner", "DELETE", f"/v1/watermarks/{keys['deleted']}"))
    grant(deployment, keys["held"], first.host_port, probe_budget=20)
    time.sleep(1.2)
    return {
        "nothing there": verify_body(NOWHERE, first.base_url),
        "no grant": verify_body(keys["none"], first.base_url),
        "expired grant": verify_body(keys["expired"], first.base_url),
        "revoked grant": verify_body(keys["revoked"], first.base_url),
        "deleted key": verify_body(keys["deleted"], first.base_url),
        "another tenant's key": verify_body(stranger["watermark"], first.base_url),
        "another port": verify_body(keys["held"], other_port.base_url),
        "another host": verify_body(keys["held"], other_host.base_url),
        "budget exceeded": verify_body(keys["held"], first.base_url),
    }


SEEN_BY_A_HOLDER = ("another port", "another host", "budget exceeded")
"""Attempts under a live grant: the auditor may read the key and the grant, so the 404 says which limit."""


def test_nothing_is_sent_and_every_refusal_is_a_404_that_says_nothing(
    deployment: Deployment, stranger: dict[str, Any]
) -> None:
    bodies = attempts(deployment, stranger)
    before = connections(deployment)
    answers = {name: deployment.call("auditor", "POST", "/v1/verify", body) for name, body in bodies.items()}
    nowhere = answers["nothing there"].text
    for name, answer in answers.items():
        assert answer.status_code == 404, (name, answer.text)
        if name in SEEN_BY_A_HOLDER:
            assert answer.json()["error"]["code"] == "grant_not_found", name
        else:
            assert answer.text.replace(bodies[name]["watermark"], NOWHERE) == nowhere, name
    time.sleep(WORKER_SECONDS)
    assert connections(deployment) == before

    reasons = refusals_of(deployment, "owner")
    assert reasons[bodies["no grant"]["watermark"]] == ["no_grant"]
    assert reasons[bodies["expired grant"]["watermark"]] == ["grant_expired"]
    assert reasons[bodies["revoked grant"]["watermark"]] == ["grant_revoked"]
    assert reasons[bodies["deleted key"]["watermark"]] == ["grant_revoked"]
    held = bodies["another port"]["watermark"]
    assert reasons[held] == ["host_not_granted", "host_not_granted", "budget_exceeded"]
    theirs = asked(call(deployment, stranger["api_key"], "GET", "/v1/audit_trail"))["data"]
    assert [item["action"] for item in theirs] == ["verification.refused", "watermark.created"]
    own = asked(deployment.call("auditor", "GET", "/v1/audit_trail?limit=100"))["data"]
    assert not {body["watermark"] for body in bodies.values()} & {item["watermark"] for item in own}


def test_a_key_of_another_role_is_a_403_and_nothing_is_sent(deployment: Deployment) -> None:
    watermark = make_key(deployment)["id"]
    body = verify_body(watermark, deployment.listeners.first.base_url)
    inference = asked(deployment.call("owner", "POST", "/v1/api_keys", {"role": "inference", "name": "app"}))
    before = connections(deployment)
    for api_key in (deployment.keys["provider"], inference["key"]):
        refused(call(deployment, api_key, "POST", "/v1/verify", body), 403, "role_not_permitted")
    refused(call(deployment, "di_x_y", "POST", "/v1/verify", body), 401, "invalid_api_key")
    time.sleep(WORKER_SECONDS)
    assert connections(deployment) == before


def test_where_the_grant_covers_it_the_suspect_is_asked_and_only_there(
    deployment: Deployment, stranger: dict[str, Any]
) -> None:
    """The control of the tests above: the same listeners do count, and the grant does let through."""
    watermark = make_key(deployment)["id"]
    first = deployment.listeners.first
    granted = grant(deployment, watermark, first.host_port, probe_budget=100)
    before = connections(deployment)
    made = start(deployment, "auditor", verify_body(watermark, first.base_url))
    found = wait(deployment, "auditor", made["id"])
    assert (found["status"], found["verdict"]) == ("succeeded", "not_detected"), found
    after = connections(deployment)
    assert after[0] > before[0]
    assert after[1:] == before[1:]
    (shown,) = asked(deployment.call("auditor", "GET", f"/v1/watermarks/{watermark}/grants"))["data"]
    assert shown["probes_left"] == 100 - found["progress"]["total"]

    for role in ("owner", "auditor"):
        assert evidence_of(deployment, role, made["id"])
    path = f"/v1/verifications/{made['id']}"
    for suffix in ("/evidence", "/report"):
        refused(deployment.call("provider", "GET", path + suffix), 403, "role_not_permitted")
        refused(call(deployment, stranger["api_key"], "GET", path + suffix), 404, "verification_not_found")

    asked(deployment.call("owner", "DELETE", f"/v1/watermarks/{watermark}/grants/{granted['id']}"))
    assert evidence_of(deployment, "auditor", made["id"])
    again = deployment.call("auditor", "POST", "/v1/verify", verify_body(watermark, first.base_url))
    refused(again, 404, "watermark_not_found")


def test_a_grant_taken_back_stops_the_running_audit_within_seconds(deployment: Deployment) -> None:
    listener = deployment.listeners.first
    watermark = make_key(deployment)["id"]
    granted = grant(deployment, watermark, listener.host_port)
    listener.delay_seconds = 0.3
    try:
        body = verify_body(watermark, listener.base_url, concurrency=1, probes_per_cue=3)
        made = start(deployment, "auditor", body)
        wait(deployment, "auditor", made["id"], lambda found: found["progress"]["asked"] > 0, seconds=60)
        asked(deployment.call("owner", "DELETE", f"/v1/watermarks/{watermark}/grants/{granted['id']}"))
        taken_back = time.monotonic()
        found = wait(deployment, "auditor", made["id"], seconds=10)
        assert time.monotonic() - taken_back < 6
        assert (found["status"], found["verdict"]) == ("cancelled", None)
        time.sleep(2 * listener.delay_seconds)  # what had left before may still be on its way through
        pieces = listener.pieces
        time.sleep(WORKER_SECONDS)
        assert listener.pieces == pieces
        assert read(deployment, "owner", made["id"])["progress"]["asked"] < made["progress"]["total"]
    finally:
        listener.delay_seconds = 0.0
    evidence = deployment.call("auditor", "GET", f"/v1/verifications/{made['id']}/evidence")
    refused(evidence, 404, "evidence_not_found")


def connections(deployment: Deployment) -> tuple[int, int, int]:
    """How many connections each listener has had."""
    found = deployment.listeners
    return found.first.connections, found.other_port.connections, found.other_host.connections


def refusals_of(deployment: Deployment, role: str) -> dict[str, list[str]]:
    """For each key of the owner the reasons of the refusals about it, oldest first."""
    events = asked(deployment.call(role, "GET", "/v1/audit_trail?limit=100"))["data"]
    reasons: dict[str, list[str]] = {}
    for event in reversed(events):
        if event["action"] == "verification.refused":
            reasons.setdefault(event["watermark"], []).append(event["detail"]["reason"])
    return reasons
