"""`doublei evidence check`: the exit status and what is printed."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from cli.commands.evidence import app
from evidence.canonical import canonical_bytes

RUNNER = CliRunner()


def test_a_file_that_is_no_evidence_exits_with_1_and_names_the_step(tmp_path: Path) -> None:
    file = tmp_path / "evidence.json"
    file.write_bytes(canonical_bytes({"document": {}, "document_sha256": "", "format": "other"}))
    result = RUNNER.invoke(app, ["check", str(file)])
    assert result.exit_code == 1
    assert "canonical" in result.stdout
    assert "proves nothing" in result.stdout


def test_the_machine_readable_report_lists_every_step(tmp_path: Path) -> None:
    file = tmp_path / "evidence.json"
    file.write_bytes(b"\x00[/bold]")
    result = RUNNER.invoke(app, ["check", str(file), "--json", "--sha256", "00"])
    report = json.loads(result.stdout)
    assert result.exit_code == 1
    assert report["consistent"] is False
    assert [step["number"] for step in report["steps"]] == list(range(1, 15))


def test_a_file_that_is_not_there_exits_with_2(tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["check", str(tmp_path / "none.json")])
    assert result.exit_code == 2
    assert "Traceback" not in result.output
