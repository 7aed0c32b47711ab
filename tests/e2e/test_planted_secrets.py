"""Secrets planted in every door of the service are nowhere afterwards but where they belong.

It runs last of these tests (they run in the order of their names), over all that the stack wrote meanwhile:
a watermarked training, audits that ended well, badly and not at all, requests with secrets in wrong places.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import psutil
import pytest

from cli.stack.processes import marked
from cli.stack.state import State
from tests.e2e import planted
from tests.e2e.audits import asked, call, evidence_of, make_key, start, verify_body, wait
from tests.e2e.conftest import Deployment
from tests.e2e.planted import Canary, found_in

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1500)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What was planted, and what was planted only to be found."""

    canaries: list[Canary]
    visible: Canary
    """the name under which a suspect's model was asked for: in the database, in reports, on the wire"""
    verification: Canary
    """the id of an audit: in the queue and in the logs"""
    audits: list[str]
    job_id: str


def canaries_of(deployment: Deployment, key: dict[str, Any]) -> list[Canary]:
    """The key that trained the model, and the API keys of the first start."""
    found = [
        Canary.of_bytes("the trained key's secret", bytes.fromhex(key["secret"])),
        Canary.of_bytes("the trained key's blinding", bytes.fromhex(key["blinding"])),
    ]
    for role, api_key in deployment.keys.items():
        found.append(Canary.of_text(f"the {role}'s API key", api_key.split("_", 2)[2]))
    return found


@pytest.fixture(scope="module")
def after(deployment: Deployment, key: dict[str, Any], job: Any) -> Run:
    """The stack after everything."""
    secret, blinding = secrets.token_bytes(32), secrets.token_bytes(32)
    credential, answerless = f"sk-{secrets.token_urlsafe(30)}", f"sk-{secrets.token_urlsafe(30)}"
    visible = f"model-{secrets.token_hex(12)}"
    imported = make_key(deployment, secret=secret.hex(), blinding=blinding.hex())
    chat_key = asked(deployment.call("owner", "POST", "/v1/api_keys", {"role": "inference", "name": "app"}))

    listener = deployment.listeners.first
    body = verify_body(imported["id"], listener.base_url)
    body["suspect"] |= {"api_key": credential}
    finished = wait(deployment, "owner", start(deployment, "owner", body)["id"])
    assert finished["status"] == "succeeded", finished
    nowhere = verify_body(imported["id"], f"{deployment.url}/healthz", alpha="1e-3")
    nowhere["suspect"] |= {"api_key": answerless, "model": visible}
    failed = wait(deployment, "owner", start(deployment, "owner", nowhere)["id"])
    assert failed["verdict"] == "inconclusive", failed
    crashed = crash_in_the_middle(deployment, body | {"plan": body["plan"] | {"alpha": "1e-3"}})

    canaries = [
        *canaries_of(deployment, key),
        Canary.of_bytes("an imported secret", secret),
        Canary.of_bytes("an imported blinding", blinding),
        Canary.of_text("a suspect's credential", credential),
        Canary.of_text("a credential that was no use", answerless),
        Canary.of_text("an inference key", chat_key["key"].split("_", 2)[2]),
    ]
    misplaced = f"misplaced-{secrets.token_hex(16)}"
    put_in_wrong_places(deployment, secret.hex(), credential, chat_key["key"], misplaced)
    canaries.append(Canary.of_text("a misplaced secret", misplaced))
    return Run(
        canaries=canaries,
        visible=Canary.of_text("a visible name", visible),
        verification=Canary.of_text("an audit's id", finished["id"]),
        audits=[finished["id"], failed["id"], crashed],
        job_id=job.id,
    )


def put_in_wrong_places(
    deployment: Deployment, secret: str, credential: str, api_key: str, misplaced: str
) -> None:
    """Requests that fail, with secrets where they don't belong; none is echoed but what names a thing."""
    suspect = {"base_url": f"{deployment.llama_url}", "model": "stock"}
    for path, body in (
        ("/v1/watermarks", {"secret": secret[:-2]}),
        ("/v1/watermarks", {"secret": secret, "blinding": "00" * 32}),
        ("/v1/watermarks", {"secret": secret, "secret_again": secret}),
        ("/v1/watermarks", {"families": secret, "secret": [secret]}),
        ("/v1/watermarks", {"key_file": {"format": "doublei-key/1", "secret": secret}}),
        ("/v1/watermarks", {"commitment": {"format": "doublei-commitment/1", "secret": secret}}),
        ("/v1/verify", {"watermark": "wm-x", "suspect": suspect, "opening": [secret]}),
        ("/v1/verify", {"watermark": "wm-x", "suspect": suspect | {"api_key": f"{credential} {misplaced}"}}),
        ("/v1/verify", {"watermark": "wm-x", "suspect": suspect | {"api_key": [credential]}}),
        ("/v1/verify", {"watermark": "wm-x", "suspect": suspect | {"token": credential}}),
        (
            "/v1/verify",
            {"watermark": "wm-x", "suspect": suspect | {"base_url": f"http://u:{credential}@x.example/"}},
        ),
        ("/v1/verify", {"watermark": "wm-x", "suspect": suspect | {"api": credential}}),
        ("/v1/fine_tuning/jobs", {"model": "x", "training_file": "y", "watermark": {"key_secret": secret}}),
        ("/v1/api_keys", {"name": "x", "role": api_key}),
    ):
        response = deployment.call("owner", "POST", path, body)
        assert response.status_code == 400, (path, response.text)
        for value in (secret, credential, api_key, misplaced):
            assert value not in response.text, path
    for path in (
        f"/v1/watermarks/{secret}",
        f"/v1/api_keys/{api_key}",
        f"/v1/{misplaced}",
        f"/v1/verifications?after={misplaced}&api_key={api_key}",
    ):
        assert call(deployment, deployment.keys["owner"], "GET", path).status_code in (200, 400, 404, 405)
    for headers in (
        {"authorization": f"Basic {api_key}"},
        {"authorization": f"Bearer {api_key}x"},
        {"authorization": f"Bearer {misplaced}", "x-api-key": credential},
    ):
        response = httpx2.get(f"{deployment.url}/v1/models", headers=headers, trust_env=False)
        assert response.status_code == 401
        assert api_key not in response.text
    broken = b'{"secret": "' + secret.encode() + b'", '
    headers = {"authorization": f"Bearer {deployment.keys['owner']}", "content-type": "application/json"}
    response = httpx2.post(
        f"{deployment.url}/v1/watermarks", content=broken, headers=headers, trust_env=False
    )
    assert response.status_code == 400
    assert secret not in response.text


def crash_in_the_middle(deployment: Deployment, body: dict[str, Any]) -> str:
    """Kill the process that asks, with questions in flight; the audit is cancelled once the crash is seen."""
    listener = deployment.listeners.first
    listener.delay_seconds = 0.4
    try:
        made = start(deployment, "owner", body)
        wait(deployment, "owner", made["id"], lambda found: found["progress"]["asked"] > 0, seconds=60)
        state = planted.state_of(deployment.home)
        worker = list(marked(state.stack_id, child="worker-probe"))
        pool = [process for process in worker if process.parent() in worker]
        assert pool, "the worker has processes that do the asking"
        for process in pool:
            os.kill(process.pid, signal.SIGKILL)
        psutil.wait_procs(pool, timeout=10)
        asked(deployment.call("owner", "POST", f"/v1/verifications/{made['id']}/cancel"))
        time.sleep(2)  # for the parent to log its loss
    finally:
        listener.delay_seconds = 0.0
    identity: str = made["id"]
    return identity


@pytest.fixture(scope="module")
def state(deployment: Deployment, after: Run) -> State:
    """The running stack."""
    return planted.state_of(deployment.home)


def test_logs(deployment: Deployment, after: Run) -> None:
    logs = [
        *planted.files(deployment.home / "logs"),
        *planted.files(deployment.home.parent, but=(deployment.home,)),
    ]
    assert found_in(iter(logs), [after.verification]), "the scan sees what is logged"
    assert found_in(iter(logs), after.canaries) == []


def test_the_queue_and_its_files(deployment: Deployment, state: State, after: Run) -> None:
    assert found_in(planted.files(deployment.home / "valkey"), [after.verification])
    assert found_in(planted.files(deployment.home / "valkey"), after.canaries) == []
    assert list(planted.queue(state)), "there is something to look at"
    assert found_in(planted.queue(state), after.canaries) == []


def test_every_value_of_the_database(state: State, after: Run) -> None:
    """Sealed columns included: what is sealed is not to be seen there either."""
    hits = found_in(planted.database(state), [after.visible])
    assert any(hit.startswith("verifications.suspect") for hit in hits)
    assert any(hit.startswith("probes_sent.request_body") for hit in hits)
    assert found_in(planted.database(state), after.canaries) == []


def test_the_databases_own_files(deployment: Deployment, after: Run) -> None:
    """Tables, indexes and the write-ahead log, as they lie on the disk."""
    assert found_in(planted.files(deployment.home / "pg"), [after.visible])
    assert found_in(planted.files(deployment.home / "pg"), after.canaries) == []


def test_the_rest_of_the_data_folder(deployment: Deployment, after: Run) -> None:
    """Datasets, adapters, state. The file with the first API keys for their user is the one exception."""
    credentials = deployment.home / "credentials.json"
    home = deployment.home
    done = (home / "pg", home / "valkey", home / "logs")
    assert found_in(planted.files(home, but=(*done, credentials)), after.canaries) == []
    assert stat.S_IMODE(credentials.stat().st_mode) == 0o600
    held = {hit.split(": ")[1] for hit in found_in(planted.files(home, but=done), after.canaries)}
    assert held == {"the owner's API key", "the provider's API key", "the auditor's API key"}
    assert not list(home.rglob("core*"))


def test_evidence_reports_and_everything_else_the_api_shows(deployment: Deployment, after: Run) -> None:
    pieces = [("evidence", evidence_of(deployment, "owner", audit)) for audit in after.audits[:2]]
    paths = [
        "/v1/watermarks",
        "/v1/verifications?limit=100",
        "/v1/audit_trail?limit=100",
        "/v1/api_keys",
        "/v1/files",
        "/v1/models",
        f"/v1/fine_tuning/jobs/{after.job_id}",
        f"/v1/fine_tuning/jobs/{after.job_id}/events?limit=100",
        *(f"/v1/verifications/{audit}/report" for audit in after.audits[:2]),
        *(f"/v1/verifications/{audit}/report.pdf" for audit in after.audits[:2]),
        *(f"/v1/verifications/{audit}" for audit in after.audits),
    ]
    for path in paths:
        response = deployment.call("owner", "GET", path)
        assert response.status_code == 200, path
        pieces.append((path, response.content))
    hits = found_in(iter(pieces), [after.visible])
    assert any("report" in hit for hit in hits)
    assert any(hit.startswith("evidence") for hit in hits)
    assert found_in(iter(pieces), after.canaries) == []


def test_command_lines_and_environments(deployment: Deployment, state: State, after: Run) -> None:
    pieces = list(planted.processes(state))
    names = {place.split("/")[1] for place, _ in pieces}
    assert names == {"cmdline", "environ"}
    home = Canary.of_text("the data folder", str(deployment.home))
    assert len(found_in(iter(pieces), [home])) >= 8
    sealing = (deployment.home / "secrets" / "kek").read_text().strip()
    serving = (deployment.home / "secrets" / "serving-token").read_text().strip()
    deployed = [Canary.of_text("the sealing key", sealing), Canary.of_text("the serving token", serving)]
    assert found_in(iter(pieces), [*after.canaries, *deployed]) == []


@pytest.fixture
def left_behind() -> Iterator[Canary]:
    """A file such as a careless program leaves."""
    text = f"left-behind-{secrets.token_hex(12)}"
    with tempfile.NamedTemporaryFile(prefix="doublei-control-") as file:
        file.write(json.dumps({"secret": text}).encode())
        file.flush()
        yield Canary.of_text("a file left behind", text)


def test_temporary_files(deployment: Deployment, state: State, after: Run, left_behind: Canary) -> None:
    assert found_in(planted.temporary(state, deployment.started), [left_behind])
    assert found_in(planted.temporary(state, deployment.started), after.canaries) == []
