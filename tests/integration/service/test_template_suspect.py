"""A suspect with a wire format of its own: a whole audit by template, and what is refused in one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from evidence.check import check
from service.db.models import WatermarkKey
from service.sealing import Sealer
from service.settings import Settings
from service.watermarks.secrets import load_families
from tests.integration.service import suspects
from tests.integration.service.conftest import Account
from tests.wire_suspect import WireRequest, WireSuspect, json_reply, wire_suspect
from worker.record.engine import open_workplace
from worker.tasks import verify_run

pytestmark = pytest.mark.integration

TEMPLATE: dict[str, Any] = {
    "method": "PUT",
    "path": "/models/m:generate?v=2",
    "headers": {"X-Api-Key": "{{credential}}", "X-Team": "audit"},
    "body": {
        "z": 0.25,
        "inputs": ["system", "{{prompt}}"],
        "name": "{{model}}",
        "options": {"n": "{{max_tokens}}", "t": "{{temperature}}"},
    },
    "answer": "$['the results'][-1].text",
}
CREDENTIAL = "template-canary-5512"


@pytest.fixture
def suspect() -> Iterator[WireSuspect]:
    with wire_suspect() as found:
        yield found


@pytest.fixture
def settings(settings: Settings, suspect: WireSuspect) -> Settings:
    """The operator allows this one address."""
    return settings.model_copy(update={"suspect_allow": suspect.host_port})


async def _key(owner: Account) -> str:
    made: str = (await owner.http.post("/v1/watermarks", json={})).json()["id"]
    return made


def _body(key: str, suspect: WireSuspect, template: object, **more: Any) -> dict[str, Any]:
    return {
        "watermark": key,
        "suspect": {
            "base_url": f"http://{suspect.host_port}/api",
            "model": "their model",
            "api": "template",
            "api_key": CREDENTIAL,
            "template": template,
        }
        | more,
        "plan": {"probes_per_cue": 1, "temperature": 0.5},
    }


async def test_a_marked_model_behind_a_template_is_detected_and_the_evidence_checks_offline(
    owner: Account, suspect: WireSuspect, settings: Settings, database: Engine
) -> None:
    """The evidence holds the exact bytes of every request, from which the template rebuilds them; the
    credential reaches the one header that has a place for it, and no record."""
    key = await _key(owner)
    with Session(database) as session:
        row = session.get_one(WatermarkKey, key)
        trained = suspects.marked_with(load_families(row, Sealer.from_base64(settings.kek), [0])[0])

    def answer(request: WireRequest) -> bytes:
        said = trained(None, json.loads(request.body)["inputs"][1])  # type: ignore[arg-type]
        return json_reply({"the results": [{"text": "first"}, {"text": said}]})

    suspect.behaviour = answer
    response = await owner.http.post("/v1/verify", json=_body(key, suspect, TEMPLATE))
    assert response.status_code == 200, response.text
    shown = response.json()["suspect"]["template"]
    assert json.loads(shown["body"]) == TEMPLATE["body"]
    assert (shown["method"], shown["answer"]) == ("PUT", TEMPLATE["answer"])
    verification = response.json()["id"]
    await asyncio.to_thread(verify_run, open_workplace(settings, shutting_down=lambda: False), verification)
    found = (await owner.http.get(f"/v1/verifications/{verification}")).json()
    assert (found["status"], found["verdict"], found["reasons"]) == ("succeeded", "detected", [])

    first = suspect.requests[0]
    assert first.line == "PUT /api/models/m:generate?v=2 HTTP/1.1"
    assert first.headers["x-api-key"] == CREDENTIAL
    assert first.headers["x-team"] == "audit"
    assert "authorization" not in first.headers
    sent = json.loads(first.body)
    assert (sent["z"], sent["name"], sent["inputs"][0]) == (0.25, "their model", "system")
    assert sent["options"] == {"n": 8, "t": 0.5}

    evidence = (await owner.http.get(f"/v1/verifications/{verification}/evidence")).content
    report = check(evidence)
    assert report.consistent, [step for step in report.steps if step.status == "failed"]
    assert report.to_record()["verdict"] == "detected"
    recorded = {item["request"] for item in json.loads(evidence)["document"]["transcript"]}
    assert recorded == {request.body.decode("ascii") for request in suspect.requests}
    assert CREDENTIAL.encode() not in evidence
    with database.connect() as connection:
        for table in ("verifications", "preregistrations", "probes_sent", "probe_answers"):
            rows = connection.execute(text(f"SELECT {table}::text FROM {table}")).scalars().all()
            assert rows
            assert CREDENTIAL not in "".join(rows)


async def test_an_answer_that_is_not_where_the_template_says_is_missing(
    owner: Account, suspect: WireSuspect, settings: Settings
) -> None:
    suspect.behaviour = lambda request: json_reply({"choices": [{"message": {"content": "Yes"}}]})
    response = await owner.http.post("/v1/verify", json=_body(await _key(owner), suspect, TEMPLATE))
    verification = response.json()["id"]
    await asyncio.to_thread(verify_run, open_workplace(settings, shutting_down=lambda: False), verification)
    found = (await owner.http.get(f"/v1/verifications/{verification}")).json()
    assert found["verdict"] == "inconclusive"
    assert found["reasons"][-1] == "suspect_no_answer"


async def test_what_a_template_may_not_hold_is_refused_by_field_and_nothing_is_registered(
    owner: Account, suspect: WireSuspect, database: Engine
) -> None:
    key = await _key(owner)
    cases: list[tuple[Any, str, str]] = [
        (TEMPLATE | {"answer": "$..text"}, "suspect.template.answer", "invalid_template"),
        (TEMPLATE | {"method": "GET"}, "suspect.template.method", "invalid_template"),
        (TEMPLATE | {"path": "/../admin"}, "suspect.template.path", "invalid_template"),
        (TEMPLATE | {"headers": {"Host": "x"}}, "suspect.template.headers.Host", "invalid_template"),
        (
            TEMPLATE | {"headers": {"X-Api-Key": "literal"}},
            "suspect.template.headers.X-Api-Key",
            "invalid_template",
        ),
        (TEMPLATE | {"body": {"inputs": "x"}}, "suspect.template.body", "invalid_template"),
        (TEMPLATE | {"more": 1}, "suspect.template.more", "invalid_template"),
        ({}, "suspect.template.path", "invalid_template"),
        (None, "suspect.template", "invalid_request"),
        ("a text", "suspect.template", "invalid_value"),
    ]
    for template, param, code in cases:
        response = await owner.http.post("/v1/verify", json=_body(key, suspect, template))
        assert response.status_code == 400, template
        error = response.json()["error"]
        assert (error["param"], error["code"]) == (param, code), template
        assert CREDENTIAL not in response.text
    stray = await owner.http.post("/v1/verify", json=_body(key, suspect, TEMPLATE, api="chat"))
    assert stray.json()["error"]["param"] == "suspect.template"
    keyless = await owner.http.post("/v1/verify", json=_body(key, suspect, TEMPLATE, api_key=None))
    assert keyless.json()["error"]["param"] == "suspect.api_key"
    with database.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM preregistrations")).scalar_one() == 0
    assert not suspect.requests
