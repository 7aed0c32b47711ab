"""`doublei evidence bundle`, `signing-key`, and `check` of a bundle: files and exit states."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.commands.evidence import app
from cli.errors import UsageMistake
from tests.unit.evidence.conftest import make_audit

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
    key, keys, bundle = folder / "auditor.pem", folder / "keys.txt", folder / "bundle.zip"
    keys.write_text(_invoke("signing-key", key))
    _invoke("bundle", evidence, "-o", bundle, "--sign", key)
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
    for bundle in (old_bundle, new_bundle):
        assert "signed by a key that you trust" in _invoke("check", bundle, "--trust", keys).replace(
            "\n", " "
        )
    keys.write_text(f"{new_line}\n")
    assert "proves nothing" in _invoke("check", old_bundle, "--trust", keys, status=1)
    _invoke("check", new_bundle, "--trust", keys)
    assert "one of them" in _refused("signing-key", key, "--rotate", "--show")
    assert "No such file" in _refused("signing-key", tmp_path / "none.pem", "--rotate")


def test_a_signed_bundle_passes_with_the_trusted_key_alone(evidence: Path, tmp_path: Path) -> None:
    bundle, keys = _signed(evidence, tmp_path)
    assert "signed by a key that you trust" in _invoke("check", bundle, "--trust", keys).replace("\n", " ")
    assert "self-consistent only" in _invoke("check", bundle, status=2).replace("\n", " ")
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
