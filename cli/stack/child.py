"""One child of the stack while it lives: started, watched, stopped, and swept after."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from cli.stack.plan import ChildSpec
from cli.stack.processes import STACK_VARIABLE, Identity, end, identify, marked, reap

_KEPT_LOG_BYTES = 10 * 1024 * 1024
_TAIL_BYTES = 8192


class Child:
    """A running child. Made on the supervisor's thread, and used there only."""

    def __init__(self, spec: ChildSpec, log: Path) -> None:
        """Start it, in a session of its own so that the terminal's Ctrl-C passes it by."""
        self.spec = spec
        self.started = time.time()
        self._log = log
        self._line = b""
        _rotate(log)
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                spec.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if spec.reports_progress else output,
                stderr=output,
                env=dict(spec.environment),
                cwd=spec.folder,
                start_new_session=True,
            )
        if self._process.stdout is not None:
            os.set_blocking(self._process.stdout.fileno(), False)
        self.identity = identify(self._process.pid) or Identity(pid=self._process.pid, created=self.started)

    @property
    def returncode(self) -> int | None:
        """None while it runs; negative for the signal that ended it."""
        return self._process.poll()

    def is_ready(self) -> bool:
        """Whether it can be used now."""
        return self.spec.ready.is_ready(self.started)

    def progress(self) -> list[dict[str, object]]:
        """The records it has reported since the last call."""
        if self._process.stdout is None:
            return []
        with suppress(OSError, ValueError):
            while chunk := os.read(self._process.stdout.fileno(), 65536):
                self._line += chunk
        *lines, self._line = self._line.split(b"\n")
        return [record for line in lines if (record := _parse(line)) is not None]

    def send(self, number: signal.Signals) -> None:
        """Signal the child itself; harmless when it has ended."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it now, whatever it is doing."""
        self._process.kill()

    def sweep(self) -> None:
        """After its end: kill what it started and left behind, and let go of its resources."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        leftovers = list(marked(self.spec.environment[STACK_VARIABLE], child=self.spec.name))
        end(leftovers, first=signal.SIGKILL, patience_seconds=0)
        reap(process.pid for process in leftovers)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def last_words(self) -> str:
        """The last line it wrote to its log, for an error message."""
        with suppress(OSError), self._log.open("rb") as file:
            file.seek(max(0, self._log.stat().st_size - _TAIL_BYTES))
            lines = [
                line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()
            ]
            if lines:
                return lines[-1][:300]
        return ""


def _parse(line: bytes) -> dict[str, object] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _rotate(log: Path) -> None:
    with suppress(FileNotFoundError):
        if log.stat().st_size > _KEPT_LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
