"""doublei key register, open, import, export, delete and doublei erase: what is sent, and what is left."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.owner import keyfile
from evidence.canonical import canonical_bytes
from tests.unit.cli.owner.suspects import new_key, secrets_of
from tests.unit.cli.service import DETECTED, Service, audit, running
from tests.unit.cli.test_audits import Outcome, doublei
from watermark.keys import family_of_opening

SALT = "ab" * 32
VERIFY = ("verify", "--watermark", "wm-1", "--suspect", "https://s.example/v1", "--model", "m")


class Keeper(Service):
    """A service with keys."""

    def __init__(self, *states: dict[str, Any], answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        super().__init__(*states or (DETECTED,))
        self._answer = answer
        self.key: dict[str, Any] = {}

    def answer(self, method: str, path: str) -> tuple[int, bytes]:
        """A key's routes; the rest as the base says."""
        if path == "/v1/log/key":
            return 200, json.dumps({"origin": "log.example/1"}).encode()
        if path.endswith("/key"):
            return 200, canonical_bytes(self.key)
        if path.startswith(("/v1/watermarks", "/v1/data")):
            return 200, json.dumps(self._answer(self.requests[-1][2])).encode()
        return super().answer(method, path)


def registers(body: dict[str, Any]) -> dict[str, Any]:
    """As the service answers a commitment, or a key file without a salt."""
    given = body.get("commitment") or body["key_file"]
    return {
        "id": "wm-1",
        "salt": SALT,
        "grade": "committed",
        "commitment": given["commitment"],
        "log": [{"kind": "key-commitment", "index": 7}, {"kind": "salt", "index": 8}],
    }


def asked(
    *arguments: str | Path, answer: Callable[[dict[str, Any]], dict[str, Any]] = registers
) -> tuple[Outcome, Keeper]:
    with running(Keeper(answer=answer)) as service:
        return doublei(service, *map(str, arguments)), service


def test_a_registered_key_has_the_services_salt_and_kept_its_secret(tmp_path: Path) -> None:
    path = new_key(tmp_path)
    public = keyfile.read(path).public_record()
    outcome, service = asked("key", "register", path)
    assert (outcome.returncode, outcome.stdout) == (0, "wm-1\n"), outcome.stderr
    assert service.requests[-1][:3] == ("POST", "/v1/watermarks", {"commitment": public, "name": "owner"})
    key = keyfile.read(path)
    assert key.salt is not None
    assert (key.salt.value.hex(), key.salt.source) == (SALT, "log.example/1, wm-1, log entry [7]")
    sent = json.dumps([request[2] for request in service.requests])
    assert not any(secret in sent + outcome.stdout + outcome.stderr for secret in secrets_of(path))


def test_a_key_that_was_used_or_salted_is_not_registered(tmp_path: Path) -> None:
    path = new_key(tmp_path)
    assert doublei(None, "key", "salt", str(path), SALT, "--source", "drand").returncode == 0
    outcome, service = asked("key", "register", path)
    assert outcome.returncode == 2
    assert "salt already (drand)" in outcome.stderr
    assert service.requests == []


@pytest.mark.parametrize("wrong", [{"commitment": "0" * 64}, {"salt": "zz"}, {"salt": None}, {"salt": "ab"}])
def test_an_answer_that_does_not_fit_leaves_the_key_as_it_was(tmp_path: Path, wrong: dict[str, Any]) -> None:
    path = new_key(tmp_path)
    before = path.read_bytes()
    outcome, _ = asked("key", "register", path, answer=lambda body: registers(body) | wrong)
    assert outcome.returncode in (1, 2)
    assert outcome.stderr.count("\n") == 1
    assert path.read_bytes() == before


def test_an_opened_family_is_private_and_says_nothing_of_the_others(tmp_path: Path) -> None:
    path, opened = new_key(tmp_path), tmp_path / "family.json"
    key = keyfile.read(path)
    assert doublei(None, "key", "open", str(path), "--family", "1", "-o", str(opened)).returncode == 0
    assert stat.S_IMODE(opened.stat().st_mode) == 0o600
    record = json.loads(opened.read_text())
    assert family_of_opening(record, key.committed.commitment) == key.derived().family(1)
    assert not any(secret in opened.read_text() for secret in secrets_of(path))
    assert str(key.opened(0)["family_secret"]) not in opened.read_text()
    again = doublei(None, "key", "open", str(path), "-o", str(opened))
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    beyond = doublei(None, "key", "open", str(path), "--family", "2", "-o", str(tmp_path / "x"))
    assert beyond.returncode == 2
    assert "families 0 to 1" in beyond.stderr


def test_an_audit_through_a_service_sends_the_asked_family_and_is_counted_in_the_key(tmp_path: Path) -> None:
    path = new_key(tmp_path)
    registration = {"audit_index": 1, "alpha_i": "1/1000000", "sha256": "c" * 64}
    with running(Keeper(audit("queued", preregistration=registration), answer=registers)) as service:
        outcome = doublei(service, *VERIFY, "--key", str(path), "--family", "1", "--no-watch")
    assert outcome.returncode == 0, outcome.stderr
    key = keyfile.read(path)
    body = service.requests[0][2]
    assert body["opening"] == key.opened(1)
    assert body["plan"] == {"family": 1}
    assert [(entry.verification, entry.family) for entry in key.audits] == [("verif-1", 1)]
    sent = json.dumps(body)
    assert not any(secret in sent for secret in secrets_of(path))


def test_an_auditor_sends_what_the_owner_opened(tmp_path: Path) -> None:
    path, opened = new_key(tmp_path), tmp_path / "family.json"
    doublei(None, "key", "open", str(path), "-o", str(opened))
    with running(Keeper(audit("queued"), answer=registers)) as service:
        outcome = doublei(service, *VERIFY, "--opening", str(opened), "--no-watch")
    assert outcome.returncode == 0, outcome.stderr
    assert service.requests[0][2]["opening"] == json.loads(opened.read_text())
    for options in (
        ("--opening", str(data := tmp_path / "none")),
        ("--opening", str(opened), "--key", str(path)),
    ):
        refused = doublei(None, *VERIFY, *options)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    data.write_text("[]")
    assert doublei(None, *VERIFY, "--opening", str(data)).returncode == 2


def test_an_imported_key_is_sent_whole_and_gets_a_salt_if_it_has_none(tmp_path: Path) -> None:
    path = new_key(tmp_path)
    whole = keyfile.read(path).to_record()
    outcome, service = asked("key", "import", path, "--name", "support")
    assert (outcome.returncode, outcome.stdout) == (0, "wm-1\n"), outcome.stderr
    assert service.requests[-1][2] == {"key_file": whole, "name": "support"}
    key = keyfile.read(path)
    assert key.salt is not None
    assert key.salt.value.hex() == SALT
    assert not any(secret in outcome.stdout + outcome.stderr for secret in secrets_of(path))
    before = path.read_bytes()
    again, _ = asked("key", "import", path)
    assert again.returncode == 0
    assert path.read_bytes() == before


def test_an_exported_key_is_a_key_file_of_its_owner_alone(tmp_path: Path) -> None:
    path, copy = new_key(tmp_path), tmp_path / "copy.key"
    service = Keeper(answer=registers)
    service.key = json.loads(path.read_text())
    with running(service):
        outcome = doublei(service, "key", "export", "wm-1", "-o", str(copy))
        assert outcome.returncode == 0, outcome.stderr
        assert service.requests[-1][:2] == ("GET", "/v1/watermarks/wm-1/key")
        assert copy.read_bytes() == path.read_bytes()
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        assert keyfile.read(copy) == keyfile.read(path)
        assert doublei(service, "key", "export", "wm-1", "-o", str(copy)).returncode == 2
        service.key["commitment"] = "0" * 64
        spoilt = doublei(service, "key", "export", "wm-1", "-o", str(tmp_path / "x.key"))
    assert spoilt.returncode == 1
    assert not (tmp_path / "x.key").exists()
    assert not any(secret in outcome.stderr + spoilt.stderr for secret in secrets_of(path))


def test_deleting_asks_first_and_erasing_wants_the_organizations_id() -> None:
    outcome, service = asked("key", "delete", "wm-1", "--yes", answer=lambda body: {"deleted": True})
    assert outcome.returncode == 0
    assert service.requests[-1][:2] == ("DELETE", "/v1/watermarks/wm-1")
    told = {"deleted": {"files": 2}, "remaining": {"log_entries": 4}}
    outcome, service = asked("erase", "org-1", answer=lambda body: told)
    assert service.requests[-1][:2] == ("DELETE", "/v1/data?confirm=org-1")
    assert outcome.stdout.split() == ["deleted", "files", "2", "remaining", "log", "entries", "4"]
    refused, service = asked("erase", "org-1&x=y")
    assert (refused.returncode, service.requests) == (2, [])
