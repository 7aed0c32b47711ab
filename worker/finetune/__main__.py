"""`python -m worker.finetune --config run.json`: one run, reported as JSON lines on stdout.

Exit codes: 0 finished; 1 failed, after an `error` event; 143 stopped by SIGTERM (130 by SIGINT); 75 ended by
SIGUSR1, after a checkpoint (138, if there was nothing yet to keep).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import NoReturn

from worker.finetune.checks import read_checks
from worker.finetune.config import RunConfig, read_config
from worker.finetune.dataset import read_rows
from worker.finetune.errors import FinetuneError
from worker.finetune.events import Events, claim_stdout
from worker.finetune.faults import of_the_machine
from worker.finetune.suspension import EXIT_SUSPENDED, Suspended, Suspension


class _Stopped(BaseException):
    """A signal asked the run to end."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.exit_code = 128 + signal_number


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m worker.finetune", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, metavar="run.json")
    options = parser.parse_args()
    events = claim_stdout()
    suspension = Suspension()

    def suspend(signal_number: int, frame: FrameType | None) -> None:
        suspension.requested = True
        if not suspension.armed:
            _stop(signal_number, frame)

    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _stop)
        signal.signal(signal.SIGUSR1, suspend)
        _run(read_config(options.config), events, suspension)
    except _Stopped as stopped:
        return stopped.exit_code
    except Suspended:
        return EXIT_SUSPENDED
    except BrokenPipeError:
        return 1  # whoever started the run is gone, so nobody wants its result
    except FinetuneError as error:
        return _fail(events, error.code, str(error), error)
    except Exception as error:
        if (known := of_the_machine(error)) is not None:
            return _fail(events, known.code, str(known), error)
        # Its text may quote a row, and rows are the watermark key: only the type is reported.
        return _fail(events, "internal_error", f"unexpected {type(error).__name__}", error)
    return 0


def _run(config: RunConfig, events: Events, suspension: Suspension) -> None:
    events.send("loading")
    rows = read_rows(config.dataset)  # before the heavy imports, so that bad data fails at once
    checks = read_checks(config.checks)
    # OpenMP's idle threads spin by default. That is harmless on idle processors, but beside other work they
    # burn the very time the busy threads wait for: measured on two shared cores, a layer's product takes
    # 25 ms instead of 70. Read by the OpenMP runtime when torch is loaded, so it is set before.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Imported only now: the heavy imports take seconds, and a stop must be heard during them.
    from worker.finetune.artifacts import remove_partial
    from worker.finetune.train import train

    try:
        train(config, rows, checks, events, suspension)
    except _Stopped:
        remove_partial(config.output_dir)
        raise


def _fail(events: Events, code: str, message: str, error: Exception) -> int:
    with contextlib.suppress(BrokenPipeError):
        events.send("error", code=code, message=message)
    with contextlib.suppress(OSError):  # its disk may be the full one
        traceback.print_tb(error.__traceback__, file=sys.stderr)
        sys.stderr.flush()
    return 1


def _stop(signal_number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal_number, signal.SIG_IGN)  # a second signal must not interrupt the cleaning up
    raise _Stopped(signal_number)


if __name__ == "__main__":
    code = main()
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(code)  # skips the teardown of thread pools, which takes long after an interrupted step
