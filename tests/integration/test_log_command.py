"""`doublei log` against a running service: the whole way from a deed to an audit's exit status."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import text

from evidence.log.checkpoint import Checkpoint, sign
from evidence.log.note import Kind, PublicKey, Signer
from evidence.log.receipt import Receipt, proven
from service.bootstrap import bootstrap
from tests.integration.api_process import running_api
from tests.integration.conftest import Deployment
from tests.unit.cli.test_audits import Outcome, doublei

pytestmark = pytest.mark.integration


@pytest.fixture
def api(deployment: Deployment) -> Iterator[str]:
    """The real API process; the value is its address."""
    with running_api(deployment) as (url, _):
        yield url


@pytest.fixture
def keys(deployment: Deployment, tmp_path: Path) -> dict[str, str]:
    """The API keys of the first start, by role."""
    path = tmp_path / "credentials.json"
    bootstrap(deployment.settings, path)
    return {role: entry["api_key"] for role, entry in json.loads(path.read_text()).items()}


def test_from_a_deed_to_an_audit(
    deployment: Deployment, api: str, keys: dict[str, str], tmp_path: Path
) -> None:
    def command(*arguments: str) -> Outcome:
        return doublei(None, "log", *arguments, "--server", api, DOUBLEI_API_KEY=keys["auditor"])

    def make_a_key() -> dict[str, Any]:
        headers = {"authorization": f"Bearer {keys['owner']}"}
        made: dict[str, Any] = httpx2.post(
            f"{api}/v1/watermarks", json={}, headers=headers, trust_env=False
        ).json()
        return made

    make_a_key()
    trusted, monday = tmp_path / "log.key", tmp_path / "monday.note"
    trusted.write_text(command("key").stdout)
    assert command("checkpoint", "-o", str(monday)).returncode == 0
    make_a_key()
    audit = ("audit", "--trust", str(trusted), "--checkpoint", str(monday))
    sound = command(*audit)
    assert sound.returncode == 0, sound.stdout + sound.stderr
    assert "4 entries, every hash made again" in sound.stdout

    with deployment.sessions.begin() as session:
        session.execute(text("ALTER TABLE log_entries DISABLE TRIGGER insert_only"))
        session.execute(
            text(
                "UPDATE log_entries SET entry = overlay(entry PLACING 'model' FROM 10 FOR 14) WHERE index = 0"
            )
        )
    tampered = command(*audit, "--json")
    assert tampered.returncode == 1
    steps = {step["name"]: step["status"] for step in json.loads(tampered.stdout)["steps"]}
    assert (steps["checkpoint"], steps["root"], steps["history"]) == ("passed", "failed", "failed")


def test_a_receipt_of_a_commitment(
    deployment: Deployment, api: str, keys: dict[str, str], tmp_path: Path
) -> None:
    """Made from a running log, checked without it; a second one under the first one's checkpoint."""

    def command(*arguments: str, role: str = "owner") -> Outcome:
        return doublei(None, "log", *arguments, "--server", api, DOUBLEI_API_KEY=keys[role])

    headers = {"authorization": f"Bearer {keys['owner']}"}
    made = [
        httpx2.post(f"{api}/v1/watermarks", json={}, headers=headers, trust_env=False).json()
        for _ in range(2)
    ]
    first, second = tmp_path / "first.receipt", tmp_path / "second.receipt"
    outcome = command("prove", made[0]["id"], "-o", str(first))
    assert outcome.returncode == 0, outcome.stderr
    httpx2.post(f"{api}/v1/watermarks", json={}, headers=headers, trust_env=False)
    outcome = command("prove", made[1]["id"], "-o", str(second), "--checkpoint", str(first))
    assert outcome.returncode == 0, outcome.stderr
    log = PublicKey.from_text(command("key").stdout)
    found = [proven(Receipt.from_bytes(path.read_bytes()), [log]) for path in (first, second)]
    assert found[0].checkpoint == found[1].checkpoint
    assert [one.index for one in found] == [0, 2]
    assert [one.record["commitment"] for one in found] == [key["commitment"] for key in made]
    assert "exists already" in command("prove", made[0]["id"], "-o", str(first)).stderr

    foreign = command("prove", made[0]["id"], "-o", str(tmp_path / "x"), role="auditor")
    assert foreign.returncode == 1
    assert "404" in foreign.stderr
    note = tmp_path / "foreign.note"
    signer = Signer(name="other.example/log", kind=Kind.log, seed=bytes(32))
    note.write_text(str(sign(Checkpoint(origin=signer.name, size=1, root=bytes(32)), signer)))
    other = command("prove", made[0]["id"], "-o", str(tmp_path / "x"), "--checkpoint", str(note))
    assert other.returncode == 2
    assert "the log has not signed this checkpoint" in other.stderr
