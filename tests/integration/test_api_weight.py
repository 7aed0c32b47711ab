"""Bar: the API process imports no torch, is ready in under 3 s of processor time, and idles under 200 MiB."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from service.settings import Settings
from tests.integration.api_process import running_api
from tests.integration.conftest import Deployment

pytestmark = pytest.mark.integration

MAX_CPU_SECONDS = 3.0
MAX_IDLE_BYTES = 200 * 2**20


def test_the_api_is_light(deployment: Deployment, capsys: pytest.CaptureFixture[str]) -> None:
    with running_api(deployment) as (_, process):
        spent = process.cpu_times()
        cpu_seconds = spent.user + spent.system
        time.sleep(3)
        idle_bytes = process.memory_info().rss
        mapped = Path(f"/proc/{process.pid}/maps").read_text()
    with capsys.disabled():
        print(f"\nAPI: {cpu_seconds:.2f} s of processor time to be ready, {idle_bytes / 2**20:.0f} MiB idle")
    assert cpu_seconds < MAX_CPU_SECONDS
    assert idle_bytes < MAX_IDLE_BYTES
    assert "libtorch" not in mapped


def test_settings_have_no_default_secret() -> None:
    required = {name for name, field in Settings.model_fields.items() if field.is_required()}
    assert {"database_url", "redis_url", "kek_file", "serving_token_file"} <= required
