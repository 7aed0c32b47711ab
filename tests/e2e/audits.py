"""What several of these tests do over HTTP: keys, grants, audits, and the offline check of their evidence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2

from tests.e2e.conftest import Deployment

SMALL = {"marks_per_family": 8, "cues_per_mark": 4}
"""(2*4)**-8 = 6e-8: significant at 1e-6 in the first three audits of a key. 32 questions and the canaries."""
WAITING = ("queued", "running", "awaiting_nonce")
AUDIT_TIMEOUT_SECONDS = 240


def call(
    deployment: Deployment, api_key: str, method: str, path: str, body: Any = None, **more: Any
) -> httpx2.Response:
    """A plain HTTP request with any key."""
    return httpx2.request(
        method,
        deployment.url + path,
        json=body,
        headers={"authorization": f"Bearer {api_key}"},
        timeout=60,
        trust_env=False,
        **more,
    )


def asked(response: httpx2.Response) -> Any:
    """The body of a call that works."""
    assert response.status_code == 200, response.text
    return response.json()


def refused(response: httpx2.Response, status: int, code: str) -> None:
    """The response is this refusal."""
    assert (response.status_code, response.json()["error"]["code"]) == (status, code), response.text


def make_key(deployment: Deployment, **body: Any) -> dict[str, Any]:
    """The owner's key; small unless its shape is given by what it is made of."""
    shape = {} if "marks" in body else SMALL
    made: dict[str, Any] = asked(deployment.call("owner", "POST", "/v1/watermarks", shape | body))
    return made


def grant(deployment: Deployment, key_id: str, *hosts: str, **more: Any) -> dict[str, Any]:
    """The owner's grant to the auditor."""
    body = {"auditor": deployment.organizations["auditor"], "suspect_hosts": list(hosts)} | more
    made: dict[str, Any] = asked(deployment.call("owner", "POST", f"/v1/watermarks/{key_id}/grants", body))
    return made


def verify_body(key_id: str, base_url: str, **plan: Any) -> dict[str, Any]:
    """One question a cue, unless the plan says otherwise."""
    suspect = {"base_url": base_url, "model": "stock"}
    return {"watermark": key_id, "suspect": suspect, "plan": {"probes_per_cue": 1} | plan}


def start(deployment: Deployment, role: str, body: dict[str, Any]) -> dict[str, Any]:
    """Pre-register."""
    made: dict[str, Any] = asked(deployment.call(role, "POST", "/v1/verify", body))
    return made


def read(deployment: Deployment, role: str, verification_id: str) -> dict[str, Any]:
    """The verification now."""
    found: dict[str, Any] = asked(deployment.call(role, "GET", f"/v1/verifications/{verification_id}"))
    return found


def wait(
    deployment: Deployment,
    role: str,
    verification_id: str,
    until: Callable[[dict[str, Any]], bool] = lambda found: found["status"] not in WAITING,
    seconds: float = AUDIT_TIMEOUT_SECONDS,
) -> dict[str, Any]:
    """The verification once the condition holds; by default once no worker has it."""
    deadline = time.monotonic() + seconds
    while not until(found := read(deployment, role, verification_id)):
        assert time.monotonic() < deadline, f"not within {seconds} s: {found['status']} {found['progress']}"
        time.sleep(0.2)
    return found


def evidence_of(deployment: Deployment, role: str, verification_id: str) -> bytes:
    """The exact bytes."""
    response = deployment.call(role, "GET", f"/v1/verifications/{verification_id}/evidence")
    assert response.status_code == 200, response.text
    return response.content


def report_of(deployment: Deployment, role: str, verification_id: str) -> str:
    """The page to read."""
    response = deployment.call(role, "GET", f"/v1/verifications/{verification_id}/report")
    assert response.status_code == 200, response.text
    return response.text


def check(path: Path, data: bytes, *arguments: str) -> tuple[int, dict[str, Any]]:
    """``doublei evidence check``: its exit status, and its report with the steps by name."""
    path.write_bytes(data)
    command = [sys.executable, "-m", "cli", "evidence", "check", str(path), "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert "Traceback" not in done.stderr, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    report["steps"] = {step["name"]: step for step in report["steps"]}
    return done.returncode, report
