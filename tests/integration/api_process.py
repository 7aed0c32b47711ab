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
def running_api(deployment: Deployment) -> Iterator[tuple[str, psutil.Popen]]:
    """Its address and the process, once it answers; ended with the ``with``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    process = psutil.Popen(
        [sys.executable, "-m", "uvicorn", "service.app:create_app", "--factory", "--port", str(port)],
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
        process.terminate()
        process.wait(timeout=20)
