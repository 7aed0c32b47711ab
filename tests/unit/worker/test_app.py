"""The Celery application, looked at in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service.dispatch import VISIBILITY_TIMEOUT_SECONDS, TaskName
from worker.tasks import TASKS

LOOK = """
import json, sys
from worker.app import app
app.finalize()
print(json.dumps({
    "tasks": [name for name in app.tasks if not name.startswith("celery.")],
    "torch": sorted({"torch", "transformers", "peft"} & set(sys.modules)),
    "conf": {name: app.conf[name] for name in (
        "task_acks_late", "task_reject_on_worker_lost", "worker_prefetch_multiplier", "accept_content",
        "task_ignore_result", "result_backend", "worker_hijack_root_logger", "broker_transport_options")},
}))
"""


@pytest.fixture(scope="module")
def look(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the application says of itself. It connects to nothing."""
    folder = tmp_path_factory.mktemp("app")
    environment = os.environ | {
        "DATABASE_URL": "postgresql+psycopg://nobody@/none?host=/nowhere",
        "REDIS_URL": "redis://127.0.0.1:9/0",
        "DOUBLEI_STORAGE_DIR": str(folder),
        "DOUBLEI_KEK_FILE": str(folder / "kek"),
        "DOUBLEI_SERVING_URL": "http://127.0.0.1:9",
        "DOUBLEI_SERVING_TOKEN_FILE": str(folder / "token"),
        "PYTHONPATH": str(Path(__file__).parents[3]),
    }
    result = subprocess.run(
        [sys.executable, "-c", LOOK], env=environment, check=True, capture_output=True, text=True
    )
    return dict(json.loads(result.stdout))


def test_it_serves_exactly_what_the_service_may_ring(look: dict[str, Any]) -> None:
    """No name without a task, no task without a name."""
    assert set(look["tasks"]) == {name.value for name in TaskName}
    assert set(TASKS) == set(TaskName)


def test_the_celery_process_has_no_torch(look: dict[str, Any]) -> None:
    """It forks, and threads of a numerics library do not survive that."""
    assert look["torch"] == []


def test_celerys_defaults_that_lose_or_double_long_jobs_are_off(look: dict[str, Any]) -> None:
    """Late acknowledgement, one message at a time, no result backend, JSON only."""
    conf = look["conf"]
    assert conf["task_acks_late"]
    assert conf["task_reject_on_worker_lost"]
    assert conf["worker_prefetch_multiplier"] == 1
    assert conf["accept_content"] == ["json"]
    assert conf["task_ignore_result"]
    assert conf["result_backend"] is None
    assert not conf["worker_hijack_root_logger"]
    assert conf["broker_transport_options"]["visibility_timeout"] == VISIBILITY_TIMEOUT_SECONDS
