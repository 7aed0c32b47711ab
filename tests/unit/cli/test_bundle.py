"""`doublei evidence bundle`, `signing-key`, and `check` of a bundle: files and exit states."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli import signing
from cli.commands.evidence import app
from cli.errors import UsageMistake
from tests.unit.cli.service import Service, running
from tests.unit.evidence.conftest import make_audit
from tests.unit.evidence.paper_log import SIGNER, published_bundle

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detected audit's file."""
    path = tmp_path_factory.mktemp("evidence") / "evidence.json"
    path.write_bytes(make_audit().data)
    return path


def _invoke(*arguments: object, status: int = 0) -> str:
    result = RUNNER.invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output
    return result.stdout


def _refused(*arguments: object) -> str:
    result = RUNNER.invoke(app, [str(argument) for argument in arguments])
    assert isinstance(result.exception, UsageMistake), result.output
    return str(result.exception)


def _signed(evidence: Path, folder: Path) -> tuple[Path, Path]:
    """A bundle as a service gives it, in its log, and what is to be trusted."""
    key, keys, bundle = folder / "auditor.pem", folder / "keys.txt", folder / "bundle.zip"
    keys.write_text(f"{_invoke('signing-key', key)}{SIGNER.public}\n")
    bundle.write_bytes(published_bundle(make_audit(), signing.read(key)))
    return bundle, keys


def test_a_signing_key_is_private_new_and_shows_its_public_line(tmp_path: Path) -> None:
    key = tmp_path / "auditor.pem"
    line = _invoke("signing-key", key)
    assert line.startswith("ed25519 ")
    assert line.endswith(" auditor\n")
    assert key.stat().st_mode & 0o777 == 0o600
    assert _invoke("signing-key", key, "--show") == line
    assert "left as it is" in _refused("signing-key", key)
    assert _invoke("signing-key", key, "--show") == line


def test_a_key_that_others_may_read_or_that_is_none_is_not_used(evidence: Path, tmp_path: Path) -> None:
    key = tmp_path / "auditor.pem"
    _invoke("signing-key", key)
    key.chmod(0o644)
    assert "chmod 600" in _refused("bundle", evidence, "-o", tmp_path / "b.zip", "--sign", key)
    key.chmod(0o600)
    key.write_text("no key")
    assert "no Ed25519" in _refused("bundle", evidence, "-o", tmp_path / "b.zip", "--sign", key)
    assert not (tmp_path / "b.zip").exists()


def test_a_changed_signing_key_leaves_old_bundles_good(evidence: Path, tmp_path: Path) -> None:
    """For whoever keeps the old line; both implementations agree."""
    old_bundle, keys = _signed(evidence, tmp_path)
    key, new_bundle = tmp_path / "auditor.pem", tmp_path / "new.zip"
    old_private, old_line = key.read_text(), keys.read_text()
    new_line, retired = _invoke("signing-key", key, "--rotate").splitlines()
    assert retired.split()[:2] == old_line.split()[:2]
    assert retired.endswith("auditor, retired")
    assert (key.stat().st_mode & 0o777, key.read_text() == old_private) == (0o600, False)
    assert _invoke("signing-key", key, "--show").strip() == new_line
    _invoke("bundle", evidence, "-o", new_bundle, "--sign", key)
    keys.write_text(f"# both\n{new_line}\n{retired}\n")
    # the file of trust no longer names the log, so that step stays open
    for bundle in (old_bundle, new_bundle):
        told = " ".join(_invoke("check", bundle, "--trust", keys, status=2).split())
        assert "signed by a key that you trust" in told
    keys.write_text(f"{new_line}\n")
    assert "proves nothing" in _invoke("check", old_bundle, "--trust", keys, status=1)
    _invoke("check", new_bundle, "--trust", keys, status=2)
    assert "one of them" in _refused("signing-key", key, "--rotate", "--show")
    assert "No such file" in _refused("signing-key", tmp_path / "none.pem", "--rotate")


def test_a_signed_bundle_passes_with_the_trusted_key_alone(evidence: Path, tmp_path: Path) -> None:
    bundle, keys = _signed(evidence, tmp_path)
    told = _invoke("check", bundle, "--trust", keys).replace("\n", " ")
    assert "signed by a key that you trust" in told
    assert "self-consistent only" in _invoke("check", bundle, status=2).replace("\n", " ")
    own = tmp_path / "own.zip"
    _invoke("bundle", evidence, "-o", own, "--sign", tmp_path / "auditor.pem")
    unlogged = _invoke("check", own, "--trust", keys, status=2)
    assert "but a step could not be checked" in " ".join(unlogged.split())
    other = tmp_path / "other.txt"
    other.write_text(_invoke("signing-key", tmp_path / "other.pem"))
    assert "proves nothing" in _invoke("check", bundle, "--trust", other, status=1)


def test_the_machine_readable_report_has_both_checks(evidence: Path, tmp_path: Path) -> None:
    bundle, keys = _signed(evidence, tmp_path)
    report: dict[str, Any] = json.loads(_invoke("check", bundle, "--trust", keys, "--json"))
    assert report["exit"] == 0
    assert report["disagreements"] == []
    assert report["own_verifier"] is True
    assert report["check"]["verdict"] == report["standalone"]["verdict"] == "detected"
    wrong = json.loads(_invoke("check", bundle, "--json", "--sha256", "00", status=1))
    assert wrong["exit"] == 1
    assert _invoke("check", bundle, "--sha256", report["sha256"], status=2)


def test_a_bundle_is_not_written_over_a_file_nor_of_evidence_that_fails(
    evidence: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "b.zip"
    assert str(bundle) in _invoke("bundle", evidence, "-o", bundle)
    assert "left as it is" in _refused("bundle", evidence, "-o", bundle)
    bad = tmp_path / "bad.json"
    bad.write_bytes(evidence.read_bytes().replace(b'"detected"', b'"not_detected"'))
    assert "proves nothing" in _refused("bundle", bad, "-o", tmp_path / "c.zip")
    _invoke("bundle", tmp_path / "none.json", status=2)


def test_a_damaged_bundle_exits_with_1_in_one_line(evidence: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "b.zip"
    _invoke("bundle", evidence, "-o", bundle)
    bundle.write_bytes(bundle.read_bytes() + b"x")
    result = RUNNER.invoke(app, ["check", str(bundle)])
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert json.loads(_invoke("check", bundle, "--json", status=1))["refused"]


def test_trust_goes_with_a_bundle_and_needs_keys(evidence: Path, tmp_path: Path) -> None:
    bundle, keys = _signed(evidence, tmp_path)
    assert "goes with a bundle" in _refused("check", evidence, "--trust", keys)
    keys.write_text("rsa 00")
    assert "line 1 is no public key" in _refused("check", bundle, "--trust", keys)
    assert "No such file" in _refused("check", bundle, "--trust", tmp_path / "none.txt")


class _Bundles(Service):
    """A service with one bundle, and its keys."""

    def __init__(self, bundle: bytes, line: str) -> None:
        super().__init__()
        self.bundle, self.line = bundle, line

    def answer(self, method: str, path: str) -> tuple[int, bytes]:
        if path == "/v1/verifications/verif-1/bundle":
            return 200, self.bundle
        key = self.line if path == "/v1/evidence/key" else str(SIGNER.public)
        return 200, json.dumps({"key": key}).encode()


def test_a_bundle_and_its_keys_are_fetched_from_the_service(
    evidence: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOUBLEI_API_KEY", "sk-test")
    signed, keys = _signed(evidence, tmp_path)
    line = keys.read_text().splitlines()[0]
    fetched, trust = tmp_path / "fetched.zip", tmp_path / "trust.txt"
    with running(_Bundles(signed.read_bytes(), line)) as service:
        _invoke("bundle", "verif-1", "-o", fetched, "--server", service.url)
        trust.write_text(_invoke("keys", "--server", service.url))
        assert "the service signs" in _refused("bundle", "verif-1", "--sign", keys, "--server", service.url)
    assert fetched.read_bytes() == signed.read_bytes()
    assert trust.read_text() == keys.read_text()
    shown = _invoke("check", fetched, "--trust", trust)
    assert "commitment stamp" in shown
    assert "no timestamp authority was configured" in " ".join(shown.split())


def test_a_service_that_gives_no_bundle_or_a_false_one_leaves_no_file(
    evidence: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOUBLEI_API_KEY", "sk-test")
    signed, _ = _signed(evidence, tmp_path)
    false = signed.read_bytes().replace(b'"not_detected" clears', b'"not_detected" proves')
    for bundle, why in ((b"no zip", "gave no bundle"), (false, "gave no bundle")):
        with running(_Bundles(bundle, "")) as service:
            refused = _refused("bundle", "verif-1", "-o", tmp_path / "f.zip", "--server", service.url)
        assert why in refused
    assert not (tmp_path / "f.zip").exists()
