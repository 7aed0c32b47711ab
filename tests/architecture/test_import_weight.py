"""The API starts without torch, and quickly: what a fresh process imports is the proof."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

HEAVY = {"torch", "transformers", "peft", "worker", "nicegui"}

SETTINGS = {
    "DATABASE_URL": "postgresql+psycopg://nobody@127.0.0.1:1/none",
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "DOUBLEI_STORAGE_DIR": "/nonexistent",
    "DOUBLEI_KEK_FILE": "/nonexistent",
    "DOUBLEI_SERVING_URL": "http://127.0.0.1:1",
    "DOUBLEI_SERVING_TOKEN_FILE": "/nonexistent",
}
"""Enough to build the worker's application; nothing is connected to on import."""


def modules_after(statement: str) -> set[str]:
    """Top-level modules of a fresh interpreter after one statement."""
    program = (
        f"import json, sys; {statement}; print(json.dumps(sorted({{n.split('.')[0] for n in sys.modules}})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ | SETTINGS
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_api_imports_no_torch_and_no_worker() -> None:
    modules = modules_after("import service.app")
    assert "fastapi" in modules
    assert not modules & HEAVY


@pytest.mark.parametrize(
    "room", ["watermark.replay", "evidence.check", "cli.app", "dashboard.app", "probe.session"]
)
def test_no_other_room_imports_torch_or_the_worker(room: str) -> None:
    assert not modules_after(f"import {room}") & {"torch", "transformers", "peft", "worker", "service"}


def test_the_celery_worker_itself_imports_no_torch() -> None:
    """Training runs in a child: the worker stays small and can be killed without losing a GPU's memory."""
    assert not modules_after("import worker.app, worker.tasks") & {"torch", "transformers", "peft"}


def test_the_watermark_room_is_standard_library_only() -> None:
    program = (
        "import sys, json; import watermark.replay, watermark.paper, watermark.examples; "
        "print(json.dumps(sorted({n.split('.')[0] for n in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, '.'); {program}"],
        capture_output=True,
        text=True,
        check=True,
    )
    ours = set(json.loads(done.stdout)) - set(sys.stdlib_module_names) - {"watermark", "__main__"}
    assert not ours
