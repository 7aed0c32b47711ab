"""The owner keeps the key, and the service trains: what the running stack holds of the key, and when.

One story on the real stack and the real default model: key, commitment, mixture, upload, a training, an audit
of a stranger's llama.cpp server, the bundle. Whether such a model is detected is `benchmarks.owner_side`'s to
show: that takes a full training.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

import evidence
from cli.demo.conversations import alpaca_rows
from cli.owner import keyfile
from evidence.keyfile import KeyFile
from tests.e2e import planted
from tests.e2e.audits import asked, evidence_of, wait
from tests.e2e.conftest import BASE_MODEL, JOB_TIMEOUT_SECONDS, Deployment
from tests.e2e.planted import Canary, found_in

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1500)]

NAME = "Example Ltd"
ROWS = 4
FAMILY_PARTS = ("family_secret", "family_blinding")


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A finished training of a mixed file, and the key on its owner's disk."""

    path: Path
    watermark: str
    mixed_sha256: str
    rows: list[Canary]
    """the watermark's rows, which only the uploaded file holds"""
    job: dict[str, Any]

    @property
    def key(self) -> KeyFile:
        """As it is now."""
        return keyfile.read(self.path)

    @property
    def secrets(self) -> list[Canary]:
        """What is never there."""
        secret = self.key.secret
        return [Canary.of_bytes("the secret", secret.value), Canary.of_bytes("the blinding", secret.blinding)]

    def parts(self, family: int) -> list[Canary]:
        """What an opening of this family holds."""
        opening = self.key.opened(family)
        return [
            Canary.of_bytes(f"{name} of {family}", bytes.fromhex(str(opening[name]))) for name in FAMILY_PARTS
        ]


def doublei(*arguments: str | Path) -> str:
    """A command as the owner runs it; the key's secret is in a file, never among the arguments."""
    done = subprocess.run(
        [sys.executable, "-m", "cli", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def story(deployment: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """From a new key to a trained model."""
    folder = tmp_path_factory.mktemp("owner")
    path, data, mixed = folder / "own.key", folder / "data.jsonl", folder / "mixed.jsonl"
    doublei("key", "new", path, "--owner", NAME, "--marks", "8", "--cues", "4")
    watermark = doublei("key", "register", path, "--home", deployment.home).strip()
    own = alpaca_rows(rows=ROWS, seed=9)
    data.write_text("".join(json.dumps(row) + "\n" for row in own), "utf-8")
    doublei("mix", "--key", path, data, "-o", mixed, "--epochs", "100", "--family", "0")
    content = mixed.read_bytes()
    client = deployment.client("owner")
    file = client.files.create(file=("mixed.jsonl", content), purpose="fine-tune")
    # one epoch of the hundred: what is looked for is what is left behind, not what was learned
    body = {
        "model": BASE_MODEL,
        "training_file": file.id,
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1}}},
        "watermark": {"key": watermark},
    }
    job = asked(deployment.call("owner", "POST", "/v1/fine_tuning/jobs", body))
    job = wait_for_job(deployment, job["id"])
    questions = {row["instruction"] for row in own}
    rows = [json.loads(line) for line in content.splitlines()]
    marked = [row for row in rows if row["instruction"] not in questions]
    assert len(marked) + ROWS == len(rows)
    return Story(
        path=path,
        watermark=watermark,
        mixed_sha256=sha256(content).hexdigest(),
        rows=[Canary.of_text("a row of the watermark", _told(row)) for row in marked[::2]],
        job=job,
    )


def _told(row: dict[str, str]) -> str:
    """A row's longest text, as JSON writes it between the quotes."""
    return max((json.dumps(row[name])[1:-1] for name in ("instruction", "input")), key=len)


def wait_for_job(deployment: Deployment, job_id: str) -> dict[str, Any]:
    """The job once it has succeeded."""
    deadline = time.monotonic() + JOB_TIMEOUT_SECONDS
    while True:
        job: dict[str, Any] = asked(deployment.call("owner", "GET", f"/v1/fine_tuning/jobs/{job_id}"))
        if job["status"] in ("succeeded", "failed", "cancelled"):
            assert job["status"] == "succeeded", job["error"]
            return job
        assert time.monotonic() < deadline, "the job did not end in time"
        time.sleep(1)


def everywhere(deployment: Deployment) -> Iterator[tuple[str, bytes]]:
    """Every value of every table, the queue, and every file of the data folder and beside it but the
    database's own, whose values come from its tables."""
    state = planted.state_of(deployment.home)
    yield from planted.database(state)
    yield from planted.queue(state)
    yield from planted.files(deployment.home.parent, but=(deployment.home / "pg",))


def test_the_job_says_who_mixed_and_that_nobody_checked(deployment: Deployment, story: Story) -> None:
    shown = story.job["watermark"]
    assert (shown["key"], shown["mixed_by"]) == (story.watermark, "owner")
    assert shown["watermark_rows"] is shown["self_check"] is shown["families"] is None
    events = asked(
        deployment.call("owner", "GET", f"/v1/fine_tuning/jobs/{story.job['id']}/events?limit=100")
    )
    texts = " ".join(event["message"] for event in events["data"])
    assert "nothing was added, and the marks are not checked here" in texts
    mixed = story.key.mixed[0]
    assert f"Dataset ready: {mixed.watermark_rows + mixed.customer_rows} rows" in texts


def test_the_log_has_commitment_salt_and_training_in_this_order(deployment: Deployment, story: Story) -> None:
    key = asked(deployment.call("owner", "GET", f"/v1/watermarks/{story.watermark}"))
    job = asked(deployment.call("owner", "GET", f"/v1/fine_tuning/jobs/{story.job['id']}"))
    entries = [*key["log"], *job["log"]]
    assert [entry["kind"] for entry in entries] == ["key-commitment", "salt", "training", "model"]
    assert [entry["index"] for entry in entries] == sorted(entry["index"] for entry in entries)
    records = {
        place: json.loads(data)
        for place, data in planted.database(planted.state_of(deployment.home))
        if place == "log_records.record" and story.job["id"].encode() in data and b'"settings"' in data
    }
    (training,) = records.values()
    assert training["watermark"]["mixed_by"] == "owner"
    assert training["watermark"]["families"] == []
    assert training["dataset_sha256"] == story.mixed_sha256 == story.key.mixed[0].output_sha256


def test_after_the_training_the_stack_holds_the_uploaded_file_and_nothing_else_of_the_key(
    deployment: Deployment, story: Story
) -> None:
    never = [*story.secrets, *story.parts(0), *story.parts(1)]
    commitment = Canary.of_text("the commitment", story.key.committed.commitment)
    places = list(everywhere(deployment))
    assert any(hit.startswith("watermark_keys.commitment") for hit in found_in(iter(places), [commitment]))
    assert found_in(iter(places), never) == []
    assert found_in(planted.files(deployment.home / "pg"), never) == []
    holding = {hit.split(": ")[0] for hit in found_in(iter(places), story.rows)}
    assert {Path(place).name for place in holding} == {story.mixed_sha256}


def test_an_audit_opens_one_family_and_its_bundle_stands_alone(
    deployment: Deployment, story: Story, tmp_path: Path
) -> None:
    """A stranger's llama.cpp server with the stock model: not detected."""
    told = doublei(
        "verify", "--key", story.path, "--watermark", story.watermark, "--suspect", deployment.llama_url,
        "--model", "stock", "--probes-per-cue", "1", "--home", deployment.home, "--json",
    )  # fmt: skip
    audit = json.loads(told)
    assert audit["verdict"] == "not_detected", (audit["reasons"], audit["result"])
    assert [entry.verification for entry in story.key.audits] == [audit["id"]]
    held = [*story.secrets, *story.parts(1)]
    places = list(everywhere(deployment))
    assert found_in(iter(places), held) == []
    assert found_in(planted.files(deployment.home / "pg"), held) == []
    opened = {hit.split(": ")[0] for hit in found_in(iter(places), story.parts(0))}
    assert opened == {"evidence.canonical_bytes"}

    file, bundle = tmp_path / "evidence.json", tmp_path / "evidence.zip"
    file.write_bytes(evidence_of(deployment, "owner", audit["id"]))
    doublei("evidence", "bundle", file, "-o", bundle)
    verifier = Path(evidence.__file__).with_name("verify.py")
    checked = subprocess.run(
        [sys.executable, "-I", str(verifier), str(bundle), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(checked.stdout)
    assert checked.returncode == 2, report
    assert report["verdict"] == "not_detected"
    document = json.loads(file.read_bytes())["document"]
    assert (document["claimant"], document["key"]["grade"]) == (NAME, "committed")
    assert not found_in(iter([("bundle", bundle.read_bytes())]), held)


def test_a_wrong_opening_is_refused_and_tells_nothing(deployment: Deployment, story: Story) -> None:
    key = story.key
    body = {
        "watermark": story.watermark,
        "suspect": {"base_url": deployment.llama_url, "model": "stock"},
        "opening": key.opened(1),
    }
    refused = deployment.call("owner", "POST", "/v1/verify", body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "opening_mismatch")
    assert found_in(iter([("refusal", refused.content)]), [*story.secrets, *story.parts(1)]) == []
    assert found_in(everywhere(deployment), story.parts(1)) == []


def test_deleting_the_key_ends_its_audits_and_leaves_the_evidence(
    deployment: Deployment, story: Story
) -> None:
    doublei("key", "delete", story.watermark, "--yes", "--home", deployment.home)
    assert deployment.call("owner", "GET", f"/v1/watermarks/{story.watermark}").status_code == 404
    verification = story.key.audits[0].verification
    assert wait(deployment, "owner", verification)["verdict"] == "not_detected"
    assert evidence_of(deployment, "owner", verification)
