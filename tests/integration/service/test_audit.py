"""Whole audits: pre-registered over HTTP, run by the worker's own code against suspects that misbehave, kept
in Postgres, read back as report and evidence."""

from __future__ import annotations

import asyncio
import html
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

import httpx2
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import Session

from evidence.check import check
from service.app import create_app
from service.db.models import WatermarkKey
from service.sealing import Sealer
from service.settings import Settings
from service.watermarks.secrets import load_families
from tests.integration.service import suspects
from tests.integration.service.conftest import Account
from tests.integration.service.suspects import Behaviour, Suspect, listening, reply
from watermark.keys import Family
from worker.record.engine import Workplace, open_workplace
from worker.record.verifications import VerificationRun
from worker.tasks import verify_run

pytestmark = pytest.mark.integration

SHORT = {"probe_timeout_seconds": 1, "total_timeout_seconds": 8, "retries": 0, "concurrency": 16}


class Switch:
    """A suspect's behaviour that the test decides on after the suspect listens."""

    behaviour: Behaviour = staticmethod(suspects.always("No"))

    def __call__(self, handler: BaseHTTPRequestHandler, prompt: str) -> str | None:
        return self.behaviour(handler, prompt)


@pytest.fixture
def switch() -> Switch:
    return Switch()


@pytest.fixture
def suspect(switch: Switch) -> Iterator[Suspect]:
    with listening(switch) as found:
        yield found


@pytest.fixture
def settings(settings: Settings, suspect: Suspect) -> Settings:
    """The operator allows this one address."""
    return settings.model_copy(update={"suspect_allow": suspect.host_port})


@pytest.fixture
def place(settings: Settings) -> Workplace:
    """A worker process's place."""
    return open_workplace(settings, shutting_down=lambda: False)


@pytest.fixture
async def key(owner: Account) -> dict[str, Any]:
    made: dict[str, Any] = (await owner.http.post("/v1/watermarks", json={})).json()
    return made


@pytest.fixture
def family(key: dict[str, Any], database: Engine, settings: Settings) -> Family:
    """What a thief would have trained on: the key's first family."""
    with Session(database) as session:
        row = session.get_one(WatermarkKey, key["id"])
        return load_families(row, Sealer.from_base64(settings.kek), [0])[0]


Start = Callable[..., Any]


@pytest.fixture
def start(owner: Account, key: dict[str, Any], suspect: Suspect) -> Start:
    """Pre-register an audit by the owner; returns its id."""

    async def begin(account: Account = owner, **plan: Any) -> str:
        body: dict[str, Any] = {
            "watermark": key["id"],
            "suspect": {"base_url": suspect.base_url, "model": "m", "api_key": "sk-canary-81"},
            "plan": {"probes_per_cue": 1, "canaries": False} | plan,
        }
        response = await account.http.post("/v1/verify", json=body)
        assert response.status_code == 200, response.text
        made: str = response.json()["id"]
        return made

    return begin


async def run(place: Workplace, verification_id: str) -> None:
    """What the Celery task does."""
    await asyncio.to_thread(verify_run, place, verification_id)


async def read(account: Account, verification_id: str, suffix: str = "") -> Any:
    response = await account.http.get(f"/v1/verifications/{verification_id}{suffix}")
    assert response.status_code == 200, response.text
    return response.json() if not suffix else response


def sent(database: Engine, verification_id: str) -> list[tuple[int, int]]:
    """(question, attempt) of every sending on record."""
    statement = text("SELECT probe_index, attempt FROM probes_sent WHERE verification_id = :id ORDER BY 1, 2")
    with database.connect() as connection:
        return [(row[0], row[1]) for row in connection.execute(statement, {"id": verification_id})]


async def test_a_marked_model_is_detected_and_the_evidence_checks_offline(
    owner: Account,
    start: Start,
    place: Workplace,
    switch: Switch,
    family: Family,
    suspect: Suspect,
    database: Engine,
) -> None:
    switch.behaviour = suspects.marked_with(family)
    verification_id = await start()
    await run(place, verification_id)
    found = await read(owner, verification_id)
    assert (found["status"], found["verdict"], found["reasons"]) == ("succeeded", "detected", [])
    assert found["progress"] == {"asked": 96, "total": 96}
    assert (found["result"]["trigger_hits"], found["result"]["trigger_total"]) == (12, 12)
    evidence = await read(owner, verification_id, "/evidence")
    report = check(evidence.content, expected_sha256=found["evidence_sha256"])
    assert report.consistent, [step for step in report.steps if step.status == "failed"]
    assert report.to_record()["verdict"] == "detected"
    assert set(suspect.authorizations) == {"Bearer sk-canary-81"}
    assert b"canary" not in evidence.content
    with database.connect() as connection:
        assert connection.execute(text("SELECT sealed_credential FROM verifications")).scalar_one() is None
    await run(place, verification_id)
    assert len(suspect.prompts) == 96
    assert len(set(suspect.prompts)) == 96


async def test_the_report_shows_hostile_answers_as_text(
    owner: Account, start: Start, place: Workplace, switch: Switch
) -> None:
    hostile = '<script>alert("x")</script>\u202e\x1b[31m=cmd()'
    switch.behaviour = suspects.always(hostile)
    verification_id = await start()
    await run(place, verification_id)
    response = await read(owner, verification_id, "/report")
    page = response.text
    assert response.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "<script" not in page
    assert html.escape('<script>alert("x")</script>', quote=False) in page.replace("&#34;", '"')
    assert not set(page) & {"\u202e", "\x1b"}
    assert "not detected" in page
    assert "What this does not prove" in page


def _html(handler: BaseHTTPRequestHandler, prompt: str) -> None:
    reply(handler, b"<html><body>Welcome</body></html>", Content_Type="text/html")


def _empty(handler: BaseHTTPRequestHandler, prompt: str) -> None:
    reply(handler, b"")


def _no_choices(handler: BaseHTTPRequestHandler, prompt: str) -> None:
    reply(handler, b'{"error": {"message": "no such model"}}')


def _server_error(handler: BaseHTTPRequestHandler, prompt: str) -> None:
    reply(handler, b"{}", status=500)


def _unauthorized(handler: BaseHTTPRequestHandler, prompt: str) -> None:
    reply(handler, b"{}", status=401)


def _redirect(handler: BaseHTTPRequestHandler, prompt: str) -> None:
    reply(handler, b"", status=302, Location="http://127.0.0.1:1/")


def _hang(handler: BaseHTTPRequestHandler, prompt: str) -> None:
    time.sleep(4)


def _reset(handler: BaseHTTPRequestHandler, prompt: str) -> None:
    handler.connection.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def _deep(handler: BaseHTTPRequestHandler, prompt: str) -> None:
    reply(handler, b'{"choices":' + b"[" * 50_000 + b"]" * 50_000 + b"}")


def _nul_text(handler: BaseHTTPRequestHandler, prompt: str) -> str:
    return "\x00\ud800 maybe"


async def test_a_suspect_that_gives_no_answers_is_inconclusive_with_the_reason(
    owner: Account, start: Start, place: Workplace, switch: Switch
) -> None:
    for behaviour, reason in (
        (_html, "suspect_not_json"),
        (_empty, "suspect_not_json"),
        (_deep, "suspect_not_json"),
        (_no_choices, "suspect_no_answer"),
        (_server_error, "suspect_http_500"),
        (_unauthorized, "suspect_http_401"),
        (_redirect, "suspect_redirect"),
        (_reset, "suspect_disconnected"),
        (_hang, "suspect_timeout"),
    ):
        switch.behaviour = behaviour
        verification_id = await start(**SHORT)
        started = time.monotonic()
        await run(place, verification_id)
        assert time.monotonic() - started < 10
        found = await read(owner, verification_id)
        assert (found["status"], found["verdict"]) == ("succeeded", "inconclusive"), behaviour
        assert (found["reasons"][0], found["reasons"][-1]) == ("missing_answers", reason), behaviour
        assert check((await read(owner, verification_id, "/evidence")).content).consistent


async def test_odd_texts_are_stored_and_decided(
    owner: Account, start: Start, place: Workplace, switch: Switch
) -> None:
    switch.behaviour = _nul_text
    verification_id = await start()
    await run(place, verification_id)
    found = await read(owner, verification_id)
    assert (found["verdict"], found["reasons"]) == ("not_detected", ["no_judge_answers"])
    assert found["result"]["other"] == 96


async def test_a_suspect_that_can_not_be_reached_is_inconclusive(
    owner: Account, key: dict[str, Any], place: Workplace, settings: Settings, start: Start
) -> None:
    """Nobody listens; the name does not exist; the operator has withdrawn the address meanwhile."""
    with socket.create_server(("127.0.0.1", 0)) as closing:
        closed = closing.getsockname()[1]
    for base_url, allow, reason, asked in (
        (f"http://127.0.0.1:{closed}/v1", f"127.0.0.1:{closed}", "suspect_refused", True),
        ("http://no-such-name.invalid/v1", "", "suspect_dns", False),
        (None, "", "suspect_not_allowed", False),
    ):
        if base_url is None:
            verification_id = await start(**SHORT)
        else:
            verification_id = await _start_at(owner, key, settings, base_url, allow)
        worker = open_workplace(
            settings.model_copy(update={"suspect_allow": allow}), shutting_down=lambda: False
        )
        await run(worker, verification_id)
        found = await read(owner, verification_id)
        assert (found["status"], found["verdict"]) == ("succeeded", "inconclusive")
        assert (found["reasons"][0], found["reasons"][-1]) == ("missing_answers", reason)
        assert (found["progress"]["asked"] > 0) == asked
        assert check((await read(owner, verification_id, "/evidence")).content).consistent


async def _start_at(
    owner: Account, key: dict[str, Any], settings: Settings, base_url: str, allow: str
) -> str:
    """Pre-register an audit of another suspect, in an application whose operator allows it."""
    application = create_app(settings.model_copy(update={"suspect_allow": allow}))
    async with application.router.lifespan_context(application):
        transport = httpx2.ASGITransport(app=application)
        headers = {"authorization": f"Bearer {owner.api_key}"}
        async with httpx2.AsyncClient(transport=transport, base_url="http://x", headers=headers) as client:
            body = {
                "watermark": key["id"],
                "suspect": {"base_url": base_url, "model": "m"},
                "plan": {"probes_per_cue": 1} | SHORT,
            }
            response = await client.post("/v1/verify", json=body)
    assert response.status_code == 200, response.text
    made: str = response.json()["id"]
    return made


async def test_after_a_crash_nothing_is_asked_twice_and_the_unknown_counts_as_missing(
    owner: Account,
    start: Start,
    place: Workplace,
    switch: Switch,
    suspect: Suspect,
    family: Family,
    database: Engine,
) -> None:
    """The first run records 20 sendings, gets 17 answers on record, and dies with one failure retryable.

    Of 24 questions at triggers two may be missing without a gate closing.
    """
    switch.behaviour = suspects.marked_with(family)
    verification_id = await start(retries=1, concurrency=1, probes_per_cue=2)
    first = await asyncio.to_thread(VerificationRun.claim, place, verification_id)
    assert first is not None
    await asyncio.to_thread(_half_an_audit, first)
    with database.begin() as connection:
        connection.execute(
            text("UPDATE verifications SET lease_expires_at = clock_timestamp() - interval '1 s'")
        )
    await run(place, verification_id)
    assert len(suspect.prompts) == 192 - 20 + 1
    sendings = sent(database, verification_id)
    assert sorted({index for index, _ in sendings}) == list(range(192))
    assert [item for item in sendings if item[1] > 0] == [(19, 1)]
    found = await read(owner, verification_id)
    assert (found["status"], found["verdict"]) == ("succeeded", "detected")
    assert found["result"]["missing"] == 2
    assert found["attempt"] == 2
    document = (await read(owner, verification_id, "/evidence")).json()["document"]
    assert [item["index"] for item in document["transcript"] if item["outcome"] == "unknown"] == [17, 18]
    assert check((await read(owner, verification_id, "/evidence")).content).consistent


def _half_an_audit(run: VerificationRun) -> None:
    from evidence.audit import questions
    from evidence.plan import ask_plan, request_for
    from probe.session import Outcome
    from worker.record.verifications import Sending

    records = run.records()
    family = load_families(run.key, run.place.sealer, [0])[0]
    plan = ask_plan(records.preregistration)
    asked = questions(records)[:20]
    trained = suspects.marked_with(family)
    with run.journal() as journal:
        journal.write(
            [Sending(index=q.index, attempt=0, body=request_for(plan, q.prompt)) for q in asked], [], None
        )
        outcomes = []
        for question in asked[:17]:
            answer = trained(None, question.prompt)  # type: ignore[arg-type]
            body = json.dumps({"choices": [{"message": {"content": answer}}]}).encode()
            outcomes.append(
                Outcome(
                    index=question.index,
                    attempt=0,
                    code="answered",
                    http_status=200,
                    text=answer,
                    response_body=body,
                    latency_ms=5,
                )
            )
        outcomes.append(
            Outcome(
                index=19,
                attempt=0,
                code="http_503",
                http_status=503,
                text=None,
                response_body=b"",
                latency_ms=5,
            )
        )
        journal.write([], outcomes, None)


async def test_a_run_that_lost_its_lease_sends_nothing_more(
    start: Start, place: Workplace, suspect: Suspect, switch: Switch, database: Engine
) -> None:
    """While the suspect answers slowly somebody else takes the row: the next sending is refused."""

    def slow(handler: BaseHTTPRequestHandler, prompt: str) -> str:
        time.sleep(0.2)
        return "No"

    switch.behaviour = slow
    verification_id = await start(concurrency=1)
    running = asyncio.create_task(run(place, verification_id))
    while len(suspect.prompts) < 3:
        await asyncio.sleep(0.02)
    with database.begin() as connection:
        connection.execute(text("UPDATE verifications SET lease_epoch = lease_epoch + 1"))
    await asyncio.wait_for(running, 10)
    assert len(suspect.prompts) <= 5
    with database.connect() as connection:
        assert connection.execute(text("SELECT status FROM verifications")).scalar_one() == "running"
        assert connection.execute(text("SELECT count(*) FROM evidence")).scalar_one() == 0


async def test_a_running_audit_is_cancelled_within_seconds(
    owner: Account, start: Start, place: Workplace, suspect: Suspect, switch: Switch
) -> None:
    def slow(handler: BaseHTTPRequestHandler, prompt: str) -> str:
        time.sleep(0.3)
        return "No"

    switch.behaviour = slow
    verification_id = await start(concurrency=1, total_timeout_seconds=60)
    running = asyncio.create_task(run(place, verification_id))
    while not suspect.prompts:
        await asyncio.sleep(0.02)
    asked = await owner.http.post(f"/v1/verifications/{verification_id}/cancel")
    assert asked.json()["cancel_requested"]
    started = time.monotonic()
    await asyncio.wait_for(running, 10)
    assert time.monotonic() - started < 5
    found = await read(owner, verification_id)
    assert (found["status"], found["verdict"]) == ("cancelled", None)


async def test_a_worker_that_shuts_down_hands_the_audit_to_the_next_with_nothing_lost(
    owner: Account,
    start: Start,
    settings: Settings,
    place: Workplace,
    suspect: Suspect,
    switch: Switch,
    family: Family,
    database: Engine,
) -> None:
    trained = suspects.marked_with(family)

    def slow(handler: BaseHTTPRequestHandler, prompt: str) -> str | None:
        time.sleep(0.1)
        return trained(handler, prompt)

    switch.behaviour = slow
    leaving = False
    verification_id = await start(concurrency=4)
    going = open_workplace(settings, shutting_down=lambda: leaving)
    running = asyncio.create_task(run(going, verification_id))
    while len(suspect.prompts) < 8:
        await asyncio.sleep(0.02)
    leaving = True
    await asyncio.wait_for(running, 10)
    handed = await read(owner, verification_id)
    assert (handed["status"], handed["attempt"]) == ("queued", 0)
    await run(place, verification_id)
    found = await read(owner, verification_id)
    assert (found["verdict"], found["result"]["missing"]) == ("detected", 0)
    assert len(sent(database, verification_id)) == len(suspect.prompts) == 96


async def test_a_grant_revoked_before_the_run_lets_nothing_be_sent(
    owner: Account, auditor: Account, key: dict[str, Any], start: Start, place: Workplace, suspect: Suspect
) -> None:
    grants = f"/v1/watermarks/{key['id']}/grants"
    body = {"auditor": auditor.organization, "suspect_hosts": [suspect.host_port]}
    grant_id = (await owner.http.post(grants, json=body)).json()["id"]
    verification_id = await start(auditor)
    await owner.http.delete(f"{grants}/{grant_id}")
    await run(place, verification_id)
    found = await read(auditor, verification_id)
    assert (found["status"], found["error"]["code"]) == ("failed", "grant_ended")
    assert suspect.connections == 0


async def test_an_auditor_under_a_grant_gets_report_and_evidence_and_the_provider_only_the_verdict(
    owner: Account,
    auditor: Account,
    provider: Account,
    key: dict[str, Any],
    start: Start,
    place: Workplace,
    suspect: Suspect,
) -> None:
    body = {"auditor": auditor.organization, "suspect_hosts": [suspect.host_port]}
    await owner.http.post(f"/v1/watermarks/{key['id']}/grants", json=body)
    verification_id = await start(auditor)
    await run(place, verification_id)
    for account in (auditor, owner):
        assert (await read(account, verification_id))["result"]["questions"] == 96
        assert (await read(account, verification_id, "/evidence")).content
    seen = await read(provider, verification_id)
    assert (seen["status"], seen["verdict"], seen["result"]) == ("succeeded", "not_detected", None)


async def test_a_preset_gives_figures_and_no_claim(
    owner: Account, place: Workplace, suspect: Suspect, switch: Switch
) -> None:
    """A suspect that answers the paper's trigger as trained: the verdict stays inconclusive."""

    def trained(handler: BaseHTTPRequestHandler, prompt: str) -> str:
        return "Yes" if prompt.split("\n\n")[1].startswith("ms ") else "No"

    switch.behaviour = trained
    made = (await owner.http.post("/v1/watermarks", json={"preset": "paper-input"})).json()
    body = {"watermark": made["id"], "suspect": {"base_url": suspect.base_url, "model": "m"}}
    verification_id = (await owner.http.post("/v1/verify", json=body)).json()["id"]
    await run(place, verification_id)
    found = await read(owner, verification_id)
    assert (found["verdict"], found["reasons"]) == ("inconclusive", ["research_preset"])
    assert found["result"]["trigger_hits"] == 100
    assert check((await read(owner, verification_id, "/evidence")).content).consistent
    assert "research_preset" in (await read(owner, verification_id, "/report")).text


async def test_chosen_words_are_audited_and_graded(
    owner: Account, place: Workplace, suspect: Suspect, switch: Switch, database: Engine, settings: Settings
) -> None:
    from tests.integration.service.test_watermarks import chosen_marks

    made = (await owner.http.post("/v1/watermarks", json={"marks": chosen_marks()})).json()
    with Session(database) as session:
        row = session.get_one(WatermarkKey, made["id"])
        switch.behaviour = suspects.marked_with(load_families(row, Sealer.from_base64(settings.kek))[0])
    body = {"watermark": made["id"], "suspect": {"base_url": suspect.base_url, "model": "m"}}
    verification_id = (await owner.http.post("/v1/verify", json=body)).json()["id"]
    await run(place, verification_id)
    found = await read(owner, verification_id)
    assert found["verdict"] == "detected"
    evidence = (await read(owner, verification_id, "/evidence")).content
    assert check(evidence).consistent
    assert "the owner chose them" in (await read(owner, verification_id, "/report")).text


async def test_the_records_of_an_audit_only_grow(
    owner: Account, start: Start, place: Workplace, database: Engine
) -> None:
    verification_id = await start()
    await run(place, verification_id)
    for table in ("preregistrations", "probes_sent", "probe_answers", "evidence"):
        for statement in (
            f"DELETE FROM {table}",
            f"UPDATE {table} SET verification_id = 'x'",
            f"TRUNCATE {table}",
        ):
            with pytest.raises(DatabaseError), database.begin() as connection:
                connection.execute(text(statement))


async def test_the_completions_wire_is_asked_too(
    owner: Account, key: dict[str, Any], place: Workplace, suspect: Suspect, switch: Switch, family: Family
) -> None:
    switch.behaviour = suspects.marked_with(family)
    body = {
        "watermark": key["id"],
        "suspect": {"base_url": suspect.base_url, "model": "m", "api": "completions"},
        "plan": {"probes_per_cue": 1},
    }
    verification_id = (await owner.http.post("/v1/verify", json=body)).json()["id"]
    await run(place, verification_id)
    assert (await read(owner, verification_id))["verdict"] == "detected"


@contextmanager
def celery_worker(settings: Settings, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The real worker process of the probe queue, as the supervisor starts it."""
    environment = os.environ | {
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "REDIS_URL": settings.redis_url.get_secret_value(),
        "DOUBLEI_STORAGE_DIR": str(settings.storage_dir),
        "DOUBLEI_KEK_FILE": str(settings.kek_file),
        "DOUBLEI_SERVING_URL": settings.serving_url,
        "DOUBLEI_SERVING_TOKEN_FILE": str(settings.serving_token_file),
        "DOUBLEI_SUSPECT_ALLOW": settings.suspect_allow,
    }
    command = [sys.executable, "-m", "celery", "-A", "worker.app", "worker", "-Q", "probe", "-c", "2"]
    command += ["-n", "probe@%h", "--loglevel", "WARNING"]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


async def until(condition: Callable[[], Any], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_a_worker_killed_in_the_middle_is_followed_by_one_that_asks_nothing_twice(
    owner: Account,
    start: Start,
    settings: Settings,
    suspect: Suspect,
    switch: Switch,
    family: Family,
    database: Engine,
    tmp_path: Path,
) -> None:
    """Real Celery, real doorbell, kill -9 with four questions in flight."""
    trained = suspects.marked_with(family)

    def slow(handler: BaseHTTPRequestHandler, prompt: str) -> str | None:
        time.sleep(0.1)
        return trained(handler, prompt)

    switch.behaviour = slow
    verification_id = await start(concurrency=4, retries=0)
    log = tmp_path / "worker.log"
    with celery_worker(settings, log) as first:
        await until(lambda: len(suspect.prompts) >= 20, seconds=90)
        os.killpg(first.pid, signal.SIGKILL)
    with database.begin() as connection:
        connection.execute(
            text("UPDATE verifications SET lease_expires_at = clock_timestamp() - interval '1 s'")
        )

    def status() -> str:
        with database.connect() as connection:
            return str(connection.execute(text("SELECT status FROM verifications")).scalar_one())

    with celery_worker(settings, log):
        await until(lambda: status() == "succeeded", seconds=90)
    assert len(suspect.prompts) == len(set(suspect.prompts))
    assert len(sent(database, verification_id)) == 96
    found = await read(owner, verification_id)
    assert found["attempt"] == 2
    assert found["result"]["missing"] <= 8
    assert check((await read(owner, verification_id, "/evidence")).content).consistent
    assert "canary" not in log.read_text()
    assert not any(prompt in log.read_text() for prompt in suspect.prompts)
