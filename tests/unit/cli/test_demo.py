"""The demo's last step: a stranger's check of the bundle, in a process of its own."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console

from cli.client import Api
from cli.demo.narrator import Narrator
from cli.demo.story import DemoFailed, Story
from evidence.dsse import public_line
from tests.unit.evidence.conftest import make_audit
from tests.unit.evidence.paper_log import FOREIGN, SIGNER, published_bundle

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


class _Auditor:
    """Plays the auditor's client."""

    def __init__(self, log_key: str) -> None:
        self.keys = {
            "/v1/evidence/key": public_line(KEY.public_key().public_bytes_raw()),
            "/v1/log/key": log_key,
        }

    def get(self, path: str) -> dict[str, Any]:
        return {"key": self.keys[path]}

    def download(self, path: str) -> bytes:
        assert path == "/v1/verifications/verif-1/bundle"
        return published_bundle(make_audit(), KEY)


def _story(log_key: str, shown: io.StringIO) -> Story:
    nobody = cast(Api, None)
    auditor = cast(Api, _Auditor(log_key))
    narrator = Narrator(Console(file=shown, width=200))
    return Story(owner=nobody, provider=nobody, auditor=auditor, url="", narrator=narrator)


def test_the_bundle_is_checked_offline_and_the_story_says_so(tmp_path: Path) -> None:
    shown = io.StringIO()
    passed = _story(str(SIGNER.public), shown).check_offline("verif-1", tmp_path)
    assert f"{passed} of {passed + 2} steps passed" in shown.getvalue()
    assert "left open: timestamps, spoken" in shown.getvalue()
    assert (tmp_path / "evidence-marked.zip").exists()


def test_a_bundle_that_fails_ends_the_demo(tmp_path: Path) -> None:
    with pytest.raises(DemoFailed, match="exit status 1"):
        _story(str(FOREIGN.public), io.StringIO()).check_offline("verif-1", tmp_path)
