"""`doublei log` against a running service: the whole way from a deed to an audit's exit status."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.pool import NullPool

from evidence.log.note import PublicKey
from service.bootstrap import bootstrap
from service.log.rotation import rotate
from service.resealing import drop
from service.resealing import rotate as rotate_kek
from tests.integration.api_process import running_api
from tests.integration.conftest import Deployment
from tests.integration.service.test_log import dumped, fill, forge, rebuild, replaced, restored, tampering
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


Command = Callable[..., Outcome]


@pytest.fixture
def command(api: str, keys: dict[str, str]) -> Command:
    """`doublei log …` against that process."""

    def run(*arguments: str) -> Outcome:
        return doublei(None, "log", *arguments, "--server", api, DOUBLEI_API_KEY=keys["auditor"])

    return run


def make_a_key(api: str, keys: dict[str, str]) -> dict[str, Any]:
    """Two entries: its commitment and its salt."""
    headers = {"authorization": f"Bearer {keys['owner']}"}
    response = httpx2.post(f"{api}/v1/watermarks", json={}, headers=headers, trust_env=False)
    assert response.is_success, response.text
    made: dict[str, Any] = response.json()
    return made


def database_of(deployment: Deployment) -> Engine:
    return create_engine(deployment.environment["DATABASE_URL"], poolclass=NullPool)


def edited(connection: Connection) -> None:
    """Another record in an entry's place, every hash made again."""
    forge(connection, 1, lambda entry: replaced(entry, record_sha256="0" * 64))
    rebuild(connection)


def deleted(connection: Connection) -> None:
    """One entry less, the others moved up, every hash made again."""
    connection.execute(text("DELETE FROM log_records"))
    connection.execute(text("DELETE FROM log_entries WHERE index = 1"))
    connection.execute(text("UPDATE log_entries SET index = index - 1 WHERE index > 1"))
    rebuild(connection)


def dated_back(connection: Connection) -> None:
    """An entry that is said to be older, every hash made again."""
    forge(connection, 5, lambda entry: replaced(entry, logged_at="2020-01-01T00:00:00.000000Z"))
    rebuild(connection)


def test_from_a_deed_to_an_audit(api: str, keys: dict[str, str], command: Command, tmp_path: Path) -> None:
    make_a_key(api, keys)
    trusted, monday = tmp_path / "log.key", tmp_path / "monday.note"
    trusted.write_text(command("key").stdout)
    assert command("checkpoint", "-o", str(monday)).returncode == 0
    make_a_key(api, keys)
    sound = command("audit", "--trust", str(trusted), "--checkpoint", str(monday))
    assert sound.returncode == 0, sound.stdout + sound.stderr
    assert "4 entries, every hash made again" in sound.stdout


@pytest.mark.parametrize(
    ("deed", "failing"),
    [
        (edited, ["history"]),
        (deleted, ["history"]),
        (dated_back, ["times", "history"]),
        ("an old backup", ["growth"]),
        ("an old backup, grown again", ["history"]),
    ],
)
def test_what_a_superuser_did_is_seen_with_an_old_checkpoint(
    deployment: Deployment,
    api: str,
    keys: dict[str, str],
    command: Command,
    tmp_path: Path,
    deed: Callable[[Connection], None] | str,
    failing: list[str],
) -> None:
    """All of it done with care: without the old checkpoint, only a time that goes back shows."""
    trusted, monday = tmp_path / "log.key", tmp_path / "monday.note"
    trusted.write_text(command("key").stdout)
    database = database_of(deployment)
    make_a_key(api, keys)
    with tampering(database) as connection:
        backup = dumped(connection)
    make_a_key(api, keys)
    make_a_key(api, keys)
    assert command("checkpoint", "-o", str(monday), "--trust", str(trusted)).returncode == 0
    fill(database, 2, start=6)
    audit = ("audit", "--trust", str(trusted), "--json")
    assert command(*audit, "--checkpoint", str(monday)).returncode == 0
    with tampering(database) as connection:
        if callable(deed):
            deed(connection)
        else:
            restored(connection, backup)
    if deed == "an old backup, grown again":
        fill(database, 9, start=100)
    outcome = command(*audit, "--checkpoint", str(monday))
    assert outcome.returncode == 1
    steps = json.loads(outcome.stdout)["steps"]
    assert [step["name"] for step in steps if step["status"] == "failed"] == failing
    assert command(*audit).returncode == (1 if deed is dated_back else 0)


def test_two_installations_one_the_others_witness(
    deployment: Deployment,
    keys: dict[str, str],
    make_database: Callable[[], str],
    tmp_path: Path,
) -> None:
    """Over real HTTP: cosigned while the witness is there, served without it when it hangs, and a rewritten
    log is cosigned by nobody."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "witness-key").write_text(f"witness.example/w\n{base64.b64encode(os.urandom(32)).decode()}\n")
    (other / "logs").write_text(f"{deployment.settings.log_signer.public}\n")
    witness = Deployment(
        deployment.environment
        | {
            "DATABASE_URL": make_database(),
            "DOUBLEI_WITNESS_KEY_FILE": str(other / "witness-key"),
            "DOUBLEI_WITNESSED_LOGS": str(other / "logs"),
        }
    )
    trusted, file = tmp_path / "log.key", tmp_path / "monday.note"
    trusted.write_text(f"{deployment.settings.log_signer.public}\n")
    database = database_of(deployment)
    with running_api(witness) as (witness_url, process):
        key = httpx2.get(f"{witness_url}/v1/witness/key", trust_env=False).json()["key"]
        assert PublicKey.from_text(key).name == "witness.example/w"
        named = tmp_path / "witnesses"
        named.write_text(f"{key} {witness_url}/v1/witness/\n")
        log = Deployment(deployment.environment | {"DOUBLEI_LOG_WITNESSES": str(named)})
        with running_api(log) as (url, _):

            def command(*arguments: str) -> Outcome:
                return doublei(None, "log", *arguments, "--server", url, DOUBLEI_API_KEY=keys["auditor"])

            asked = ("--trust", str(trusted), "--witness", str(named))
            make_a_key(url, keys)
            outcome = command("checkpoint", "-o", str(file), *asked)
            assert outcome.returncode == 0, outcome.stderr
            assert "cosigned by witness.example/w at 20" in outcome.stdout
            with tampering(database) as connection:
                backup = dumped(connection)
            make_a_key(url, keys)
            assert command("audit", *asked).returncode == 0
            with tampering(database) as connection:
                restored(connection, backup)
            fill(database, 5, start=100)
            outcome = command("audit", *asked, "--json")
            assert outcome.returncode == 1
            steps = {step["name"]: step for step in json.loads(outcome.stdout)["steps"]}
            assert [name for name, step in steps.items() if step["status"] == "failed"] == ["witnesses"]
            assert command("audit", "--trust", str(trusted)).returncode == 0, "nobody else would see it"
            process.suspend()
            try:
                fill(database, 1, start=200)
                assert command("checkpoint", "-o", str(file), "--trust", str(trusted)).returncode == 0
            finally:
                process.resume()


def test_keys_are_changed_under_a_running_service(
    deployment: Deployment, api: str, keys: dict[str, str], command: Command, tmp_path: Path
) -> None:
    """The log's and the key-encryption key: the process that runs goes on, and old trust holds."""
    trusted, monday = tmp_path / "log.key", tmp_path / "monday.note"
    trusted.write_text(command("key").stdout)
    made = make_a_key(api, keys)
    assert command("checkpoint", "-o", str(monday)).returncode == 0
    rotate(deployment.settings)
    assert rotate_kek(deployment.settings).resealed == 1
    make_a_key(api, keys)
    drop(deployment.settings, settling_seconds=0)
    make_a_key(api, keys)
    outcome = command("audit", "--trust", str(trusted), "--checkpoint", str(monday))
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert "has retired" in " ".join(outcome.stdout.split())
    new = tmp_path / "new.key"
    new.write_text(command("key").stdout)
    assert new.read_text() != trusted.read_text()
    assert command("audit", "--trust", str(new), "--checkpoint", str(monday)).returncode == 0
    headers = {"authorization": f"Bearer {keys['owner']}"}
    shown = httpx2.get(f"{api}/v1/watermarks/{made['id']}", headers=headers, trust_env=False)
    assert shown.status_code == 200
