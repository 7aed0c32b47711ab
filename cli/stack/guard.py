"""``python -m cli.stack.guard STACK_ID SOCKET_DIR DATA_DIR``: ends a stack whose supervisor was killed.

The kernel's death signal reaches a supervisor's children, not theirs: a killed worker would leave its
training process behind. The guard holds the other end of a pipe. When it closes without a farewell, the
supervisor died, and the guard ends everything that carries the stack's id.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import psutil

from cli.stack.processes import end, marked, working_in
from cli.stack.sockets import remove_socket_dir

FAREWELL = b"bye\n"
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_STORES = ("postgres", "valkey")
_STORE_PATIENCE_SECONDS = 10


def main(stack_id: str, socket_dir: Path, data_dir: Path) -> None:
    """Wait for the supervisor's end; tidy up if it was not a proper one."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    if sys.stdin.buffer.read() != FAREWELL:
        clear(stack_id, socket_dir, data_dir)


def clear(stack_id: str, socket_dir: Path, data_dir: Path) -> None:
    """End every process of the stack and remove its socket folder. Harmless when nothing is left."""
    end(_all_but_stores(stack_id), first=signal.SIGKILL, patience_seconds=0)
    # The stores had their death signal and have lost their clients: they get the time to end clean.
    end(marked(stack_id, child="valkey"), first=signal.SIGTERM, patience_seconds=_STORE_PATIENCE_SECONDS)
    end(working_in(data_dir), first=signal.SIGINT, patience_seconds=_STORE_PATIENCE_SECONDS)
    remove_socket_dir(socket_dir)


def _all_but_stores(stack_id: str) -> list[psutil.Process]:
    stores = {process.pid for name in _STORES for process in marked(stack_id, child=name)}
    return [process for process in marked(stack_id) if process.pid not in stores]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
