"""A real worker whose consumer has stopped, though it lives and its broker answers, makes way for another."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest

from service.dispatch import TaskName
from tests.integration.api_process import free_port
from tests.integration.conftest import Deployment
from tests.integration.test_operations import get, lines, started_worker, wait_for
from worker.watchdog import EXIT_STATUS

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


def worker(
    deployment: Deployment, folder: Path, name: str, *, port: int, catatonic: Path
) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """The product's worker with a played trainer, deaf as soon as the file is there."""
    program = ["benchmarks.chaos.worker", "-q", "-A", "worker.app"]
    environment = {
        "CHAOS_CATATONIC_FILE": str(catatonic),
        # three looks
        "DOUBLEI_WATCHDOG_SECONDS": "8",
    }
    return started_worker(deployment, folder, name, program, port=port, environment=environment)


def succeeded(deployment: Deployment, job: str) -> bool:
    """Now."""
    return deployment.read(job).status == "succeeded"


def test_it_ends_itself_and_its_successor_does_the_work(deployment: Deployment, tmp_path: Path) -> None:
    """Alive and connected all the while; its readiness and its metrics say what is wrong before it ends."""
    deaf, port = tmp_path / "deaf", free_port()
    dispatcher = deployment.dispatcher()
    with worker(deployment, tmp_path, "first", port=port, catatonic=deaf) as first:
        heard = deployment.job()
        dispatcher.ring(TaskName.finetune_run, heard)
        wait_for(partial(succeeded, deployment, heard), seconds=60, what="a healthy start")
        time.sleep(10)  # with nothing to do for longer than its patience
        assert first.poll() is None

        deaf.touch()
        time.sleep(0.5)
        jobs = [deployment.job() for _ in range(3)]
        for job in jobs:
            dispatcher.ring(TaskName.finetune_run, job)
        began = time.monotonic()
        checks = wait_for(
            lambda: (answer := get(port, "/readyz")).status_code == 503 and answer.json()["checks"],
            seconds=30,
            what="it says that it hears nothing",
        )
        assert checks == {"database": "ok", "broker": "ok", "consuming": "hears no message"}
        assert get(port, "/healthz").status_code == 200
        assert "doublei_worker_unheard_seconds 6.0" in get(port, "/metrics").text
        assert first.wait(30) == EXIT_STATUS
        assert time.monotonic() - began < 20
    assert not (tmp_path / "first.ready").exists()
    assert [line["event"] for line in lines(tmp_path / "first.log")].count("worker.deaf") == 1
    # What was in its hands when it went deaf may have been done.
    assert sum(deployment.read(job).status == "queued" for job in jobs) >= 2

    with worker(deployment, tmp_path, "second", port=free_port(), catatonic=tmp_path / "never"):
        for job in jobs:
            wait_for(partial(succeeded, deployment, job), seconds=60, what=f"{job} succeeds")


def test_a_broker_that_is_away_is_no_reason_to_end(deployment: Deployment, tmp_path: Path) -> None:
    """Another start would not bring it back."""
    deployment.environment["REDIS_URL"] = f"redis+socket://{tmp_path}/none?virtual_host=0"
    deployment.job()
    command = [sys.executable, "-c", WITHOUT_A_BROKER]
    done = subprocess.run(
        command, env=deployment.process_environment | {"PYTHONPATH": str(ROOT)}, timeout=60, check=False
    )
    assert done.returncode == 0


WITHOUT_A_BROKER = """
import time
from service.settings import load_settings
from worker.watchdog import watchdog
dog = watchdog(load_settings(), is_busy=lambda: False, queues={"train"})
time.sleep(3.1)  # until the job is one that waits
assert [dog.look() for _ in range(20)] == [False] * 20
assert dog.unheard_seconds == 0
"""
