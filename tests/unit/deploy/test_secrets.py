"""The secrets of a container deployment: made once, private, never replaced."""

from __future__ import annotations

import base64
import re
import stat
from pathlib import Path

from deploy.secrets import make


def test_made_once_and_readable_by_one_user(tmp_path: Path) -> None:
    """A second run changes nothing."""
    assert sorted(make(tmp_path)) == [
        "dashboard-secret",
        "evidence-key",
        "kek",
        "log-key",
        "metrics-token",
        "pgpass",
        "serving-token",
        "witness-key",
    ]
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert make(tmp_path) == []
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_both_sides_of_postgres_get_the_same_password(tmp_path: Path) -> None:
    """Also after a run that was interrupted between the two files."""
    make(tmp_path)
    (tmp_path / "pgpass").unlink()
    make(tmp_path)
    password = (tmp_path / "postgres-password").read_text()
    assert (tmp_path / "pgpass").read_text() == f"*:*:*:doublei:{password}\n"


def test_the_log_has_a_name_and_a_key_of_its_own(tmp_path: Path) -> None:
    """As the API reads them."""
    origins = set()
    for deployment in (tmp_path / "one", tmp_path / "two"):
        deployment.mkdir()
        make(deployment)
        origin, seed = (deployment / "log-key").read_text().split()
        assert re.fullmatch("double-i/[0-9a-f]{16}", origin)
        assert len(base64.b64decode(seed, validate=True)) == 32
        origins.add(origin)
    assert len(origins) == 2


def test_the_key_is_32_bytes_of_base64(tmp_path: Path) -> None:
    """As the service's settings want it."""
    make(tmp_path)
    assert len(base64.b64decode((tmp_path / "kek").read_text().strip(), validate=True)) == 32
