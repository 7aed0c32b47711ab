"""Becomes a child that does not outlive its parent: ``launch.py PARENT_PID SIGNAL COMMAND...``.

A small program rather than a hook between fork and exec, which is unsafe in a process with threads.
Run as a file with ``python -I -S`` it takes about ten milliseconds. Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # prctl(2)
_RESET = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE, signal.SIGCHLD)


def launcher(death_signal: signal.Signals) -> tuple[str, ...]:
    """The words to put before a command so that it gets ``death_signal`` when this process dies.

    The kernel ties it to the *thread* that starts the child: that thread must live as long as the stack.
    """
    return (sys.executable, "-I", "-S", str(Path(__file__)), str(os.getpid()), str(int(death_signal)))


def _main(arguments: list[str]) -> None:
    parent, death_signal, command = int(arguments[0]), int(arguments[1]), arguments[2:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above
        raise SystemExit(1)
    # Dispositions and masks survive exec: a stack started in a shell's background must not make
    # children that ignore the signal they are stopped with.
    for number in _RESET:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.execvp(command[0], command)


if __name__ == "__main__":
    _main(sys.argv[1:])
