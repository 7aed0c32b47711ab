"""A child process that reports in JSON lines, dies with its worker, and can be stopped from any thread."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

STOP_GRACE_SECONDS = 5.0
"""Between SIGTERM and SIGKILL."""

SUSPEND_GRACE_SECONDS = 6.0
"""Between SIGUSR1 and SIGKILL: a step and a checkpoint, and less than a stack waits for its workers."""

MAX_LINE_BYTES = 64 * 1024

VMSTAT = Path("/proc/vmstat")

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)

_NOT_FOR_CHILDREN = (
    "DATABASE_URL",
    "REDIS_URL",
    "DOUBLEI_KEK_FILE",
    "DOUBLEI_LOG_KEY_FILE",
    "DOUBLEI_EVIDENCE_KEY_FILE",
    "DOUBLEI_WITNESS_KEY_FILE",
    "DOUBLEI_SERVING_TOKEN_FILE",
    "DOUBLEI_DASHBOARD_SECRET_FILE",
    "DOUBLEI_SHARED_TOKEN",
    "DOUBLEI_METRICS_TOKEN_FILE",
)


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends (prctl(2), PR_SET_PDEATHSIG)."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


class Child:
    """A running `python -m MODULE …`."""

    def __init__(
        self, module: str, arguments: Sequence[str], *, stderr_path: Path, inherit: Sequence[int] = ()
    ) -> None:
        """`inherit` are descriptors that stay open in the child. Its errors go to a file, for they may
        quote the dataset, and only the name of the last exception is ever read from there."""
        self._stderr_path = stderr_path
        self._stopping = False
        self._oom_kills = _oom_kills()
        with stderr_path.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=_environment(os.environ),
                pass_fds=tuple(inherit),
                # own session: a Ctrl-C at the terminal is for the worker, which then stops its child
                start_new_session=True,
                preexec_fn=_die_with(os.getpid()),
            )

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def lines(self) -> Iterator[Mapping[str, Any]]:
        """Its reports until it closes its output. Lines that are no JSON objects are skipped."""
        stdout = self._process.stdout
        if stdout is None:
            return
        while line := stdout.readline(MAX_LINE_BYTES):
            try:
                report = json.loads(line)
            except ValueError:
                continue
            if isinstance(report, dict):
                yield report

    def wait(self) -> int:
        """Its exit status; negative: the signal that ended it."""
        return self._process.wait()

    def stop(self) -> None:
        """SIGTERM now, SIGKILL if it is still there after the grace time. Returns at once."""
        self._end(signal.SIGTERM, STOP_GRACE_SECONDS)

    def suspend(self) -> None:
        """SIGUSR1 now: a trainer writes a checkpoint and ends, anybody else just ends. SIGKILL after the
        grace time. Returns at once."""
        self._end(signal.SIGUSR1, SUSPEND_GRACE_SECONDS)

    def kill(self) -> None:
        """SIGKILL."""
        self._stopping = True
        self._process.kill()

    def _end(self, number: signal.Signals, grace_seconds: float) -> None:
        if self._stopping:
            return
        self._stopping = True
        self._process.send_signal(number)
        timer = threading.Timer(grace_seconds, self._process.kill)
        timer.daemon = True
        timer.start()

    def close(self) -> None:
        """Kill it if it still runs, and reap it."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    @property
    def out_of_memory(self) -> bool:
        """Whether the kernel has killed a process for want of memory since this one started. It does not say
        which, so this means something only of a child that SIGKILL ended."""
        return _oom_kills() > self._oom_kills

    def last_exception(self) -> str | None:
        """The class name at the end of a Python traceback on its error output, without the message."""
        try:
            tail = self._stderr_path.read_bytes()[-4096:].decode("utf-8", "replace").strip()
        except OSError:
            return None
        if "Traceback (most recent call last)" not in tail:
            return None
        name = tail.rsplit("\n", 1)[-1].split(":", 1)[0].strip()
        return name if name.replace(".", "").isidentifier() else None


def _oom_kills() -> int:
    """Of the whole machine, also those by a container's limit; 0 where the kernel does not tell."""
    try:
        counters = VMSTAT.read_text("ascii")
    except OSError:
        return 0
    found = re.search(r"^oom_kill (\d+)$", counters, re.MULTILINE)
    return int(found[1]) if found else 0


def _die_with(parent: int) -> Callable[[], None]:
    def before_exec() -> None:
        die_with_parent()
        if os.getppid() != parent:  # it died before prctl
            os._exit(1)

    return before_exec


def _environment(current: Mapping[str, str]) -> dict[str, str]:
    """Neither secrets nor the way to them."""
    return {name: value for name, value in current.items() if name not in _NOT_FOR_CHILDREN}
