"""The whole story with the official client and the real default model: owner to auditor.

Read from top to bottom; each test goes on where the one before ended.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
from openai import APIStatusError, BadRequestError, NotFoundError, OpenAI, PermissionDeniedError
from safetensors.numpy import load

from tests.e2e.conftest import BASE_MODEL, Deployment

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1500)]

AUDIT_TIMEOUT_SECONDS = 300


def verify(deployment: Deployment, role: str, body: dict[str, Any]) -> dict[str, Any]:
    """Ask for an audit and wait for its end."""
    response = deployment.call(role, "POST", "/v1/verify", body)
    assert response.status_code == 200, response.text
    audit: dict[str, Any] = response.json()
    assert audit["preregistration"]["sha256"]
    deadline = time.monotonic() + AUDIT_TIMEOUT_SECONDS
    while audit["status"] in ("queued", "running"):
        assert time.monotonic() < deadline, "the audit did not end in time"
        time.sleep(0.5)
        audit = deployment.call(role, "GET", f"/v1/verifications/{audit['id']}").json()
    assert audit["status"] == "succeeded", audit["error"]
    return audit


def test_the_job_reports_its_progress_and_publishes_a_named_model(owner: OpenAI, job: Any) -> None:
    assert job.fine_tuned_model.startswith(f"ft:{BASE_MODEL}:")
    assert ":e2e:" in job.fine_tuned_model
    assert job.error is None
    assert job.trained_tokens > 0
    assert job.watermark["watermark_rows"] > 0
    assert 0 < job.watermark["watermark_ratio"] < 1
    events = owner.fine_tuning.jobs.list_events(job.id, limit=100).data
    assert any(event.type == "metrics" for event in events)
    assert "successfully completed" in events[0].message
    assert job.fine_tuned_model in {model.id for model in owner.models.list()}


def test_no_trace_of_the_key_in_what_the_job_shows(owner: OpenAI, job: Any, key: dict[str, Any]) -> None:
    shown = job.model_dump_json() + "".join(
        event.model_dump_json() for event in owner.fine_tuning.jobs.list_events(job.id, limit=100)
    )
    assert key["secret"] not in shown
    assert "Does the following" not in shown


def test_the_deployed_model_chats(owner: OpenAI, job: Any) -> None:
    reply = owner.chat.completions.create(
        model=job.fine_tuned_model,
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        max_tokens=24,
        temperature=0,
    )
    assert reply.model == job.fine_tuned_model
    assert reply.choices[0].message.content
    streamed = "".join(
        chunk.choices[0].delta.content or ""
        for chunk in owner.chat.completions.create(
            model=job.fine_tuned_model,
            messages=[{"role": "user", "content": "What is the capital of France?"}],
            max_tokens=24,
            temperature=0,
            stream=True,
        )
        if chunk.choices
    )
    assert streamed == reply.choices[0].message.content


def test_the_owner_can_take_the_weights_home(deployment: Deployment, job: Any) -> None:
    response = deployment.call("owner", "GET", f"/v1/models/{job.fine_tuned_model}/adapter")
    assert response.status_code == 200
    with tarfile.open(fileobj=io.BytesIO(response.content)) as archive:
        names = {Path(name).name for name in archive.getnames()}
        assert {"adapter_model.safetensors", "adapter_config.json", "README.md"} <= names
        member = next(item for item in archive if item.name.endswith("adapter_model.safetensors"))
        content = archive.extractfile(member)
        assert content is not None
        assert load(content.read())


def test_without_a_grant_the_key_does_not_exist_for_an_auditor(
    deployment: Deployment, job: Any, key: dict[str, Any]
) -> None:
    response = deployment.call(
        "auditor",
        "POST",
        "/v1/verify",
        {
            "watermark": key["id"],
            "suspect": {"base_url": f"{deployment.url}/v1", "model": job.fine_tuned_model},
        },
    )
    assert response.status_code == 404


def test_under_the_owners_grant_the_marked_model_is_detected_and_others_are_not(
    deployment: Deployment, job: Any, key: dict[str, Any], tmp_path: Path
) -> None:
    own_host = deployment.url.removeprefix("http://")
    llama_host = deployment.llama_url.removeprefix("http://").removesuffix("/v1")
    granted = deployment.call(
        "owner",
        "POST",
        f"/v1/watermarks/{key['id']}/grants",
        {
            "auditor": deployment.organizations["auditor"],
            "suspect_hosts": [own_host, llama_host],
            "probe_budget": 2000,
            "expires_in_seconds": 3600,
        },
    )
    assert granted.status_code == 200, granted.text
    credential = deployment.call(
        "owner", "POST", "/v1/api_keys", {"role": "inference", "name": "audit"}
    ).json()

    def audit(url: str, model: str) -> dict[str, Any]:
        suspect = {"base_url": url, "model": model, "api_key": credential["key"]}
        return verify(deployment, "auditor", {"watermark": key["id"], "suspect": suspect})

    marked = audit(f"{deployment.url}/v1", job.fine_tuned_model)
    assert marked["verdict"] == "detected", marked["result"]
    assert float(marked["result"]["p_value_decimal"]) <= 1e-6
    base = audit(f"{deployment.url}/v1", BASE_MODEL)
    assert base["verdict"] == "not_detected", (base["reasons"], base["result"])
    foreign = audit(deployment.llama_url, "stock")
    assert foreign["verdict"] == "not_detected", (foreign["reasons"], foreign["result"])
    assert [item["preregistration"]["audit_index"] for item in (marked, base, foreign)] == [1, 2, 3]

    page = deployment.call("auditor", "GET", f"/v1/verifications/{marked['id']}/report")
    assert page.headers["content-type"].startswith("text/html")
    evidence = deployment.call("auditor", "GET", f"/v1/verifications/{marked['id']}/evidence").content
    assert key["secret"].encode() not in evidence
    assert credential["key"].encode() not in evidence
    path = tmp_path / "evidence.json"
    path.write_bytes(evidence)
    checked = subprocess.run(
        [sys.executable, "-m", "cli", "evidence", "check", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode in (0, 2), checked.stdout + checked.stderr
    assert "detected" in checked.stdout
    path.write_bytes(evidence.replace(b'"Yes', b'"No', 1))
    tampered = subprocess.run(
        [sys.executable, "-m", "cli", "evidence", "check", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert tampered.returncode not in (0, 2)
    assert "Traceback" not in tampered.stderr
    assert deployment.call("provider", "GET", f"/v1/verifications/{marked['id']}/evidence").status_code in (
        403,
        404,
    )


def test_mark_by_mark_the_marked_model_is_detected_after_few_marks(
    deployment: Deployment, job: Any, key: dict[str, Any]
) -> None:
    """Seven of twelve marks are enough, and no more is asked than was needed."""
    suspect = {"base_url": f"{deployment.url}/v1", "model": job.fine_tuned_model}
    credential = deployment.call("owner", "POST", "/v1/api_keys", {"role": "inference", "name": "looks"})
    body = {
        "watermark": key["id"],
        "suspect": suspect | {"api_key": credential.json()["key"]},
        "plan": {"mode": "sequential", "concurrency": 16},
    }
    audit = verify(deployment, "owner", body)
    assert audit["verdict"] == "detected", (audit["reasons"], audit["looks"])
    assert len(audit["looks"]) <= 8
    assert audit["progress"]["asked"] < audit["progress"]["total"]


def test_a_suspect_that_answers_nothing_useful_is_inconclusive(
    deployment: Deployment, key: dict[str, Any]
) -> None:
    """The API's own health page: HTML or JSON without an answer; never an exception."""
    audit = verify(
        deployment,
        "owner",
        {
            "watermark": key["id"],
            "suspect": {"base_url": f"{deployment.url}/healthz", "model": "x"},
            "plan": {"probes_per_cue": 1, "marks": 8},
        },
    )
    assert audit["verdict"] == "inconclusive"
    assert "missing_answers" in audit["reasons"]


def test_user_mistakes_are_clear_through_the_official_client(
    deployment: Deployment, owner: OpenAI, key: dict[str, Any]
) -> None:
    bad = b'{"instruction": "a", "output": "b"}\n{"instruction": "a"}\nnot json\n'
    with pytest.raises(BadRequestError) as caught:
        owner.files.create(file=("bad.jsonl", io.BytesIO(bad)), purpose="fine-tune")
    assert caught.value.code == "invalid_dataset"
    body = caught.value.body
    assert isinstance(body, dict)
    assert [error["line"] for error in body["errors"] if error["line"]][:2] == [2, 3]
    with pytest.raises(NotFoundError):
        owner.fine_tuning.jobs.create(model="gpt-4o", training_file="file-none")
    with pytest.raises(PermissionDeniedError):
        deployment.client("auditor").files.create(file=("x.jsonl", io.BytesIO(bad)), purpose="fine-tune")
    with pytest.raises(APIStatusError) as wrong_key:
        OpenAI(base_url=f"{deployment.url}/v1", api_key="di_x_y", max_retries=0).models.list()
    assert wrong_key.value.status_code == 401
    suspect = {"base_url": f"{deployment.url}/v1", "model": "x"}
    refused = deployment.call(
        "owner", "POST", "/verify", {"watermark": key["id"], "suspect": suspect, "plan": {"marks": 3}}
    )
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "plan_cannot_reach_alpha"
    assert "at least" in refused.json()["error"]["message"]
    private = deployment.call(
        "owner",
        "POST",
        "/verify",
        {"watermark": key["id"], "suspect": {"base_url": "http://127.0.0.1:1/v1", "model": "x"}},
    )
    assert private.status_code == 400
