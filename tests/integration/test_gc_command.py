"""`doublei gc` as an operator types it."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from sqlalchemy import text

from tests.unit.cli.test_audits import doublei

pytestmark = pytest.mark.integration


def test_it_says_what_would_go_and_removes_it_when_told(deployment: Any, tmp_path: Any) -> None:
    run = deployment.storage.adapter_dir("ftjob-gone", 1)
    run.mkdir(parents=True)
    (run / "adapter_model.safetensors").write_bytes(b"x" * 1234)
    for path in (run, run / "adapter_model.safetensors"):
        os.utime(path, (1, 1))
    needed = deployment.job()
    environment = deployment.environment | {"DOUBLEI_HOME": str(tmp_path / "no-stack")}

    said = doublei(None, "gc", **environment)
    assert said.returncode == 0, said.stderr
    assert "adapters/ftjob-gone/1" in said.stdout
    assert "would remove 1 thing, 1,234 bytes; nothing was changed" in said.stdout
    assert run.exists()

    record = json.loads(doublei(None, "gc", "--delete", "--json", **environment).stdout)
    assert record == {
        "deleted": True,
        "count": 1,
        "bytes": 1234,
        "garbage": [{"kind": "adapter", "path": "adapters/ftjob-gone/1", "bytes": 1234}],
    }
    assert not run.parent.exists()
    assert deployment.read(needed).status == "queued"


def test_a_database_that_is_away_is_one_line(deployment: Any, tmp_path: Any) -> None:
    with deployment.sessions.begin() as session:
        session.execute(text("ALTER TABLE training_states RENAME TO elsewhere"))
    environment = deployment.environment | {"DOUBLEI_HOME": str(tmp_path / "no-stack")}
    said = doublei(None, "gc", "--delete", **environment)
    assert said.returncode == 1
    assert "Traceback" not in said.stderr
    assert said.stderr.startswith("doublei: the records can't be read")


def test_without_a_stack_or_a_database_it_says_so(tmp_path: Any) -> None:
    said = doublei(None, "gc", DOUBLEI_HOME=str(tmp_path / "no-stack"), DATABASE_URL="")
    assert said.returncode == 3
    assert "no stack runs in" in said.stderr
