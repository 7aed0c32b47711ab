"""The whole service with the real default model, started as a user starts it, once for all these tests."""

from __future__ import annotations

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

BASE_MODEL = "smollm2-135m-instruct"
START_TIMEOUT_SECONDS = 600
"""The first start on a machine downloads and converts the default model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A running stack and the keys of its three people."""

    url: str
    keys: dict[str, str] = field(repr=False)
    organizations: dict[str, str]
    llama_url: str
    home: Path

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
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """``doublei up`` in a fresh folder; llama.cpp beside it as a stranger's endpoint."""
    home = tmp_path_factory.mktemp("e2e") / "home"
    llama_port = free_port()
    environment = os.environ | {"DOUBLEI_SUSPECT_ALLOW": f"127.0.0.1:{llama_port}"}
    log = home.parent / "up.log"
    with log.open("wb") as output:
        stack = subprocess.Popen(
            [sys.executable, "-m", "cli", "up", "--home", str(home), "--port", str(free_port())],
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
            yield Deployment(
                url=url,
                keys={role: entry["api_key"] for role, entry in credentials.items()},
                organizations={role: entry["organization"] for role, entry in credentials.items()},
                llama_url=llama_url,
                home=home,
            )
    finally:
        stack.send_signal(signal.SIGTERM)
        stack.wait(timeout=60)


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
            [sys.executable, str(Path(__file__).with_name("llama_server.py")), str(gguf), str(self._port)],
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
