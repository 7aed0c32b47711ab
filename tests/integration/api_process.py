"""The real API process of a deployment."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
import psutil

from tests.integration.conftest import Deployment


@contextmanager
def running_api(
    deployment: Deployment, *, app: str = "service.app:create_app", port: int | None = None
) -> Iterator[tuple[str, psutil.Popen]]:
    """Its address and the process, once it answers; ended with the ``with``."""
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    process = psutil.Popen(
        [sys.executable, "-m", "uvicorn", app, "--factory", "--port", str(port)],
        env=os.environ | deployment.process_environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                if httpx2.get(f"{url}/healthz", trust_env=False).status_code == 200:
                    break
            except httpx2.HTTPError:
                assert process.poll() is None, "the API ended"
                assert time.monotonic() < deadline, "the API did not answer"
            time.sleep(0.1)
        yield url, process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(timeout=20)


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port
