"""What an operator relies on: draining at SIGTERM, metrics that name nobody, readiness that means it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import text

from service.db.engine import async_engine, async_sessions
from service.dispatch import TaskName
from service.reaper import reap_forever
from tests.integration.api_process import free_port, running_api
from tests.integration.conftest import TINY, Deployment, dataset
from tests.integration.test_retries import api_key as api_key  # the fixture

pytestmark = pytest.mark.integration

HERE = Path(__file__).parent
TOKEN = "a-token-of-24-characters"


def wait_for(condition: Callable[[], Any], *, seconds: float, what: str) -> Any:
    """Poll until it is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)
    return value


def worker(
    deployment: Deployment, folder: Path, name: str, *, act: str, port: int
) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """A real worker whose trainer acts as named."""
    program = ["celery", "-q", "-A", "tests.integration.fake_worker"]
    return started_worker(deployment, folder, name, program, port=port, environment={"FAKE_TRAINER": act})


@contextmanager
def started_worker(
    deployment: Deployment,
    folder: Path,
    name: str,
    program: Sequence[str],
    *,
    port: int,
    environment: Mapping[str, str],
) -> Iterator[subprocess.Popen[bytes]]:
    """A worker process of that program, once it takes messages; killed at the end."""
    command = [sys.executable, "-m", *program, "worker"]
    command += ["-Q", "train", "-c", "1", "-n", f"{name}@%h", "--loglevel", "WARNING"]
    ready = folder / f"{name}.ready"
    variables = {
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent.parent)]),
        "DOUBLEI_READY_FILE": str(ready),
        "DOUBLEI_METRICS_ADDRESS": f"127.0.0.1:{port}",
    }
    with (folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            env=deployment.process_environment | variables | dict(environment),
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=HERE.parent.parent,
        )
    try:
        wait_for(ready.exists, seconds=60, what=f"{name} takes messages")
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def reaper(deployment: Deployment) -> Iterator[None]:
    """The sweep that every API runs."""
    over = threading.Event()

    async def run() -> None:
        engine = async_engine(deployment.settings)
        task = asyncio.create_task(reap_forever(async_sessions(engine), deployment.dispatcher()))
        while not over.is_set():
            await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await engine.dispose()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def get(port: int, path: str, token: str | None = None) -> httpx2.Response:
    """From a process's door."""
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    return httpx2.get(f"http://127.0.0.1:{port}{path}", headers=headers, trust_env=False, timeout=10)


def lines(log: Path) -> list[dict[str, Any]]:
    """A log's events. Celery writes its farewell, and Python a warning to root, before and after there is a
    log."""
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


class TestWorker:
    def test_sigterm_in_the_middle_and_another_worker_goes_on(
        self, deployment: Deployment, tmp_path: Path
    ) -> None:
        """It does not wait for the lease's end, and the attempt that was broken off does not count."""
        ports = free_port(), free_port()
        with reaper(deployment), worker(deployment, tmp_path, "first", act="hang", port=ports[0]) as first:
            job_id = deployment.job()
            deployment.dispatcher().ring(TaskName.finetune_run, job_id)
            wait_for(lambda: deployment.read(job_id).stage == "training", seconds=60, what="training")
            assert get(ports[0], "/healthz").status_code == 200
            ready = get(ports[0], "/readyz")
            assert ready.json()["checks"] == {"database": "ok", "broker": "ok", "consuming": "ok"}
            with worker(deployment, tmp_path, "second", act="good", port=ports[1]) as second:
                stopped = time.monotonic()
                first.terminate()
                assert first.wait(20) == 0
                assert not (tmp_path / "first.ready").exists()
                wait_for(lambda: deployment.read(job_id).status == "succeeded", seconds=25, what="success")
                took = time.monotonic() - stopped
                shown = wait_for(
                    lambda: (page := get(ports[1], "/metrics").text).count("succeeded") and page,
                    seconds=10,
                    what="the run in the metrics",
                )
                second.terminate()
                assert second.wait(20) == 0
        row = deployment.read(job_id)
        assert (row.attempt, row.lease_epoch) == (1, 2)
        assert took < deployment.settings.lease_seconds - 5
        assert 'doublei_run_seconds_count{outcome="succeeded",task="finetune.run"} 1.0' in shown
        assert job_id not in shown
        assert row.organization_id not in shown

        said = [*lines(tmp_path / "first.log"), *lines(tmp_path / "second.log")]
        claimed = [line for line in said if line["event"] == "job.claimed"]
        assert {line["job_id"] for line in claimed} == {job_id}
        assert sorted(line["epoch"] for line in claimed) == [1, 2]
        assert any(line.get("reason") == "shutting_down" for line in said)

    def test_ready_means_that_work_can_be_done(self, deployment: Deployment, tmp_path: Path) -> None:
        """An older schema is none; alive it is all the same."""
        port = free_port()
        with worker(deployment, tmp_path, "only", act="good", port=port):
            assert get(port, "/readyz").status_code == 200
            with deployment.sessions.begin() as session:
                session.execute(text("UPDATE alembic_version SET version_num = '0001'"))
            assert get(port, "/readyz").status_code == 503
            assert get(port, "/readyz").json()["checks"]["database"] == "not migrated"
            assert get(port, "/healthz").status_code == 200
            assert get(port, "/").status_code == 404


class TestApi:
    def test_sigterm_lets_a_request_under_way_end_well(self, deployment: Deployment, api_key: str) -> None:
        """Nobody else gets in meanwhile."""
        with running_api(deployment) as (url, process):
            halfway, go_on = threading.Event(), threading.Event()
            boundary, content = "b0undary", dataset(12)

            def body() -> Iterator[bytes]:
                yield (
                    f'--{boundary}\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
                    f'--{boundary}\r\ncontent-disposition: form-data; name="file"; filename="d.jsonl"\r\n\r\n'
                ).encode()
                yield content[:100]
                halfway.set()
                go_on.wait(20)
                yield content[100:] + f"\r\n--{boundary}--\r\n".encode()

            answers: list[httpx2.Response] = []
            headers = {
                "authorization": f"Bearer {api_key}",
                "content-type": f"multipart/form-data; boundary={boundary}",
            }

            def send() -> None:
                answers.append(
                    httpx2.post(
                        f"{url}/v1/files", content=body(), headers=headers, trust_env=False, timeout=30
                    )
                )

            thread = threading.Thread(target=send)
            thread.start()
            assert halfway.wait(20)
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            time.sleep(1.0)
            assert process.poll() is None
            with pytest.raises(httpx2.HTTPError):
                httpx2.get(f"{url}/healthz", trust_env=False, timeout=2)
            go_on.set()
            thread.join(20)
            assert [answer.status_code for answer in answers] == [200]
            assert process.wait(timeout=20) in (0, -signal.SIGTERM)

    def test_metrics_count_routes_and_queues_and_name_nobody(
        self, deployment: Deployment, api_key: str, tmp_path: Path
    ) -> None:
        port, token_file = free_port(), tmp_path / "metrics-token"
        token_file.write_text(TOKEN)
        deployment.environment["DOUBLEI_METRICS_ADDRESS"] = f"127.0.0.1:{port}"
        deployment.environment["DOUBLEI_METRICS_TOKEN_FILE"] = str(token_file)
        deployment.environment["DOUBLEI_LEASE_SECONDS"] = "3600"
        organization = deployment.organization("Secretive Ltd.")
        waiting = [deployment.job(organization_id=organization) for _ in range(3)]
        running = deployment.job(organization_id=organization)
        with deployment.sessions.begin() as session:
            session.execute(
                text(
                    "UPDATE jobs SET status='running', lease_epoch=1, lease_owner='w',"
                    " lease_expires_at=clock_timestamp() + interval '59 minutes' WHERE id=:id"
                ),
                {"id": running},
            )
            session.execute(
                text("UPDATE jobs SET created_at = created_at - interval '1 hour' WHERE id=:id"),
                {"id": waiting[0]},
            )
        headers = {"authorization": f"Bearer {api_key}"}
        with running_api(deployment) as (url, _):
            for path in ("/v1/fine_tuning/jobs/ftjob-no-such-job", f"/v1/{TINY}/nowhere", "/v1/files"):
                httpx2.get(f"{url}{path}", headers=headers, trust_env=False)
            assert httpx2.get(f"{url}/metrics", headers=headers, trust_env=False).status_code == 404
            for wrong in (None, "x", TOKEN + "x"):
                refused = get(port, "/metrics", wrong)
                assert refused.status_code == 401
                assert "doublei_" not in refused.text
            shown = get(port, "/metrics", TOKEN).text
        values = dict(line.rsplit(" ", 1) for line in shown.splitlines() if not line.startswith("#"))
        job_route = 'method="GET",route="/v1/fine_tuning/jobs/{job_id}",status="404"'
        assert values[f"doublei_http_request_seconds_count{{{job_route}}}"] == "1.0"
        assert (
            values['doublei_http_request_seconds_count{method="other",route="other",status="404"}'] == "2.0"
        )
        assert values['doublei_queue_depth{queue="train"}'] == "3.0"
        assert values['doublei_queue_running{queue="train"}'] == "1.0"
        assert values['doublei_queue_depth{queue="probe"}'] == "0.0"
        assert 3600 <= float(values['doublei_queue_oldest_seconds{queue="train"}']) < 3900
        assert float(values['doublei_queue_lease_age_seconds{queue="train"}']) == pytest.approx(60, abs=59)
        assert values["doublei_database_up"] == "1.0"
        for secret in (organization, "Secretive", running, *waiting, "ftjob-", TINY, api_key):
            assert secret not in shown
