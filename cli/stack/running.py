"""A stack that runs in another process: whether it does, how to stop it, and its API keys."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field

from cli.errors import StackError
from cli.stack import state
from cli.stack.home import Home, is_locked
from cli.stack.processes import is_alive
from cli.stack.state import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """One organization of the first start and its API key."""

    organization: str
    api_key: str = field(repr=False)


def read_credentials(home: Home) -> dict[str, Credential]:
    """The API keys of the first start.

    Raises:
        StackError: the file is missing or is not what the bootstrap writes.
    """
    try:
        record = json.loads(home.credentials_file.read_text(encoding="utf-8"))
        return {
            role: Credential(organization=entry["organization"], api_key=entry["api_key"])
            for role, entry in record.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise StackError(f"{home.credentials_file} can't be read") from None


def is_running(home: Home, current: State) -> bool:
    """Whether the supervisor that wrote ``current`` still owns the folder."""
    return is_alive(current.supervisor) and is_locked(home)


def stop_running(home: Home, *, timeout_seconds: float) -> bool:
    """Ask the folder's supervisor to stop and wait for it; False when there was none.

    Raises:
        StackError: it did not end in time.
    """
    current = state.read(home)
    if current is None or not is_running(home, current):
        return False
    with suppress(ProcessLookupError):
        os.kill(current.supervisor.pid, signal.SIGTERM)
    deadline = time.monotonic() + timeout_seconds
    while is_running(home, current):
        if time.monotonic() > deadline:
            raise StackError(f"process {current.supervisor.pid} has not ended after {timeout_seconds:.0f} s")
        time.sleep(0.1)
    return True
