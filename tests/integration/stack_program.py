"""A supervisor in a process of its own, for tests that signal or kill it.

``python stack_program.py HOME PLAN``: prints ``ready`` and the stack's id once it is up, then waits.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from cli.errors import StackError
from cli.stack.checks import TouchesFile
from cli.stack.home import Home
from cli.stack.launch import launcher
from cli.stack.plan import ChildSpec, Site, stores
from cli.stack.processes import CHILD_VARIABLE, STACK_VARIABLE
from cli.stack.stack import Interrupted, Stack

# Starts a grandchild in a session of its own, as a worker does with its training process.
_WORKER = """
import subprocess, sys, time, pathlib, signal
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
{prelude}
pathlib.Path({ready!r}).touch()
time.sleep(600)
"""


def worker(
    site: Site, *, name: str = "worker", prelude: str = "", stop_timeout_seconds: float = 5
) -> ChildSpec:
    """A child with a child."""
    ready = site.socket_dir / f"{name}.ready"
    code = _WORKER.format(prelude=prelude, ready=str(ready))
    return ChildSpec(
        name=name,
        command=(*launcher(signal.SIGKILL), sys.executable, "-c", code),
        environment={STACK_VARIABLE: site.stack_id, CHILD_VARIABLE: name},
        folder=site.home.root,
        ready=TouchesFile(path=ready),
        stop_stage=1,
        stop_timeout_seconds=stop_timeout_seconds,
    )


def stores_and_worker(site: Site) -> tuple[ChildSpec, ...]:
    """Postgres, Valkey and a child with a child."""
    return (*stores(site), worker(site))


def stubborn(site: Site) -> tuple[ChildSpec, ...]:
    """A child that does not stop when asked."""
    ignoring = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    return (worker(site, prelude=ignoring, stop_timeout_seconds=600),)


PLANS = {"stores_and_worker": stores_and_worker, "stubborn": stubborn}


def main(home: Path, plan: str) -> int:
    """Run until told to stop."""
    try:
        with Stack(Home(root=home), plan=PLANS[plan]) as stack:
            print("ready", stack.state.stack_id, flush=True)
            stack.wait()
    except Interrupted as interrupt:
        return interrupt.exit_code
    except StackError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
