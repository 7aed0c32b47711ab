"""The server as a process of its own and over a real socket."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
import uvicorn
from fastapi import FastAPI

from worker.serving.errors import SettingsInvalid
from worker.serving.loading import Served
from worker.serving.settings import ServingSettings

TOKEN = "a-token-for-tests-only"
LONG = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "a"}],
    "max_tokens": 200,
    "logit_bias": {"0": -100, "2": -100},
}


@pytest.fixture
def url(app: FastAPI) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_away_takes_its_rows_with_it(
    url: str, served: Served, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both whole replies and streams: the engine is idle soon, long before the answer would have ended."""
    step = type(served.engine.decoder).step

    def slow_step(*arguments: object) -> object:
        time.sleep(0.05)
        return step(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(type(served.engine.decoder), "step", slow_step)
    running = served.engine._schedule.running
    async with httpx2.AsyncClient(headers={"authorization": f"Bearer {TOKEN}"}) as client:
        request = client.build_request("POST", f"{url}/v1/chat/completions", json=LONG | {"stream": stream})
        asking = asyncio.create_task(client.send(request, stream=True))
        while not running:
            await asyncio.sleep(0.01)
        if stream:
            await (await asking).aclose()
        else:
            asking.cancel()
        gone_at = time.monotonic()
        while running:
            await asyncio.sleep(0.01)
            assert time.monotonic() - gone_at < 5


@pytest.mark.integration
def test_the_command_serves_and_stops(model_dir: Path, storage: Path, tmp_path: Path) -> None:
    """`python -m worker.serving`: 503 at first, then 200, an answer, and an end on SIGTERM."""
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN)
    token_file.chmod(0o600)
    port = _free_port()
    process = _serve(port, "--model-dir", str(model_dir), token_file=token_file, storage=storage)
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client:
            _wait(lambda: client.get("/health").status_code == 200, process)
            reply = client.post(
                "/v1/completions",
                json={"model": "tiny", "prompt": "ab", "max_tokens": 2, "logit_bias": {"2": -100, "0": -100}},
                headers={"authorization": f"Bearer {TOKEN}"},
            )
            assert reply.json()["usage"]["completion_tokens"] == 2
        process.terminate()
        assert process.wait(20) in (0, -signal.SIGTERM)
    finally:
        process.kill()
    assert TOKEN not in (process.stderr.read() if process.stderr else "")


@pytest.mark.integration
def test_weights_that_are_not_there_end_the_process(storage: Path, tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN)
    token_file.chmod(0o600)
    process = _serve(_free_port(), "--model-dir", str(tmp_path), token_file=token_file, storage=storage)
    assert process.wait(60) == 1


@pytest.mark.parametrize(("content", "mode"), [(TOKEN, 0o644), ("short", 0o600), (None, 0o600)])
def test_a_token_file_must_be_private_and_long_enough(tmp_path: Path, content: str | None, mode: int) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    settings = ServingSettings(_env_file=None, token_file=path, adapter_root=tmp_path)  # type: ignore[call-arg]
    with pytest.raises(SettingsInvalid) as caught:
        settings.read_token()
    assert "short" not in str(caught.value).split("shorter")[0]


def _serve(port: int, *arguments: str, token_file: Path, storage: Path) -> subprocess.Popen[str]:
    environment = os.environ | {
        "DOUBLEI_SERVING_TOKEN_FILE": str(token_file),
        "DOUBLEI_STORAGE_DIR": str(storage),
        "DOUBLEI_SERVING_MODEL": "tiny",
    }
    command = [sys.executable, "-m", "worker.serving", "--port", str(port), "--threads", "1", *arguments]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(ready: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert process.poll() is None
        try:
            if ready():
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError("the server did not become ready")
