"""The whole service with the real default model, started as a user starts it, once for all these tests."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import OpenAI

from cli.demo.conversations import alpaca_rows
from cli.stack.launch import launcher
from tests.e2e.listener import Listener

BASE_MODEL = "smollm2-135m-instruct"
START_TIMEOUT_SECONDS = 600
"""The first start on a machine downloads and converts the default model."""
ROWS = 60
JOB_TIMEOUT_SECONDS = 1200


@dataclass(frozen=True, slots=True, kw_only=True)
class Listeners:
    """Three ways to one real model; the operator allows each, and each counts who connects."""

    first: Listener
    other_port: Listener
    other_host: Listener
    """the first one's port, at 127.0.0.2"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A running stack and the keys of its three people."""

    url: str
    keys: dict[str, str] = field(repr=False)
    organizations: dict[str, str]
    llama_url: str
    listeners: Listeners
    home: Path
    started: float
    """seconds since the epoch, before its first process started"""

    def client(self, role: str) -> OpenAI:
        """The official client, with nothing but its base URL changed."""
        return OpenAI(base_url=f"{self.url}/v1", api_key=self.keys[role], max_retries=0)

    def call(self, role: str, method: str, path: str, body: Any = None) -> httpx2.Response:
        """A plain HTTP request."""
        return httpx2.request(
            method,
            self.url + path,
            json=body,
            headers={"authorization": f"Bearer {self.keys[role]}"},
            timeout=60,
            trust_env=False,
        )


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def listeners() -> Iterator[Listeners]:
    """They listen before the stack starts: its operator allows them by address and port."""
    first = Listener.open()
    made = Listeners(
        first=first, other_port=Listener.open(), other_host=Listener.open("127.0.0.2", first.port)
    )
    yield made
    for listener in (made.first, made.other_port, made.other_host):
        listener.close()


@pytest.fixture(scope="session")
def hostile_port() -> int:
    """A port that the operator allows, for a host that cheats."""
    return free_port()


@pytest.fixture(scope="session")
def deployment(
    tmp_path_factory: pytest.TempPathFactory, listeners: Listeners, hostile_port: int
) -> Iterator[Deployment]:
    """``doublei up`` in a fresh folder; llama.cpp beside it as a stranger's endpoint."""
    started = time.time()
    home = tmp_path_factory.mktemp("e2e") / "home"
    llama_port = free_port()
    counted = (listeners.first, listeners.other_port, listeners.other_host)
    own = (f"127.0.0.1:{port}" for port in (llama_port, hostile_port))
    allowed = ",".join([*own, *(listener.host_port for listener in counted)])
    environment = os.environ | {"DOUBLEI_SUSPECT_ALLOW": allowed}
    log = home.parent / "up.log"
    with log.open("wb") as output:
        stack = subprocess.Popen(
            # ends as by hand even where this run of tests is killed
            [
                *launcher(signal.SIGTERM),
                *(sys.executable, "-m", "cli", "up", "--home", str(home), "--port", str(free_port())),
            ],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        url = _wait_until_up(home, stack, log)
        credentials = json.loads((home / "credentials.json").read_text("utf-8"))
        with _llama(llama_port) as llama_url:
            for listener in counted:
                listener.serve(llama_port)
            yield Deployment(
                url=url,
                keys={role: entry["api_key"] for role, entry in credentials.items()},
                organizations={role: entry["organization"] for role, entry in credentials.items()},
                llama_url=llama_url,
                listeners=listeners,
                home=home,
                started=started,
            )
    finally:
        stack.send_signal(signal.SIGTERM)
        stack.wait(timeout=60)


@pytest.fixture(scope="session")
def owner(deployment: Deployment) -> OpenAI:
    """The official client, as the owner."""
    return deployment.client("owner")


@pytest.fixture(scope="session")
def key(deployment: Deployment) -> dict[str, Any]:
    """A fresh watermark key."""
    response = deployment.call("owner", "POST", "/v1/watermarks", {"name": "e2e"})
    assert response.status_code == 200, response.text
    made: dict[str, Any] = response.json()
    assert made["grade"] == "committed"
    assert len(bytes.fromhex(made["secret"])) == 32
    again = deployment.call("owner", "GET", f"/v1/watermarks/{made['id']}").json()
    assert "secret" not in again
    assert again["commitment"] == made["commitment"]
    return made


@pytest.fixture(scope="session")
def job(owner: OpenAI, key: dict[str, Any]) -> Any:
    """A watermarked fine-tuning job, from upload to success, by the official client alone."""
    rows = alpaca_rows(rows=ROWS, seed=3)
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    file = owner.files.create(file=("data.jsonl", io.BytesIO(content)), purpose="fine-tune")
    assert file.status == "processed"
    job = owner.fine_tuning.jobs.create(
        model=BASE_MODEL,
        training_file=file.id,
        suffix="e2e",
        seed=3,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1}}},
        extra_body={"watermark": {"key": key["id"], "families": [0], "strength": "standard"}},
    )
    assert job.object == "fine_tuning.job"
    deadline = time.monotonic() + JOB_TIMEOUT_SECONDS
    while job.status not in ("succeeded", "failed", "cancelled"):
        assert time.monotonic() < deadline, "the job did not end in time"
        time.sleep(1)
        job = owner.fine_tuning.jobs.retrieve(job.id)
    assert job.status == "succeeded", job.error
    return job


def _wait_until_up(home: Path, stack: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        if stack.poll() is not None:
            break
        status = subprocess.run(
            [sys.executable, "-m", "cli", "status", "--json", "--home", str(home)],
            capture_output=True,
            check=False,
        )
        record = json.loads(status.stdout or b"{}")
        if record.get("running") and record.get("phase") == "ready":
            return str(record["api_url"])
        time.sleep(1)
    pytest.fail(f"the stack did not come up:\n{log.read_text(errors='replace')[-3000:]}")


class _llama:
    def __init__(self, port: int) -> None:
        self._port = port

    def __enter__(self) -> str:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "doublei" / "models"
        folder = Path(os.environ.get("DOUBLEI_MODEL_CACHE") or cache) / BASE_MODEL
        gguf = next(folder.glob("*.gguf"))
        self._process = subprocess.Popen(
            [
                *launcher(signal.SIGKILL),
                *(sys.executable, str(Path(__file__).with_name("llama_server.py"))),
                *(str(gguf), str(self._port)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        url = f"http://127.0.0.1:{self._port}"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                if httpx2.get(f"{url}/health", trust_env=False).status_code == 200:
                    return f"{url}/v1"
            except httpx2.HTTPError:
                pass
            time.sleep(0.3)
        self.__exit__()
        pytest.fail("llama.cpp's server did not start")

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
