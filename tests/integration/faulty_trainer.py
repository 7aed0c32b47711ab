"""The real trainer, with one fault put into it: ``python -m faulty_trainer --config run.json``.

FAULT names the fault. It happens at the second step unless its name says otherwise, and only in the first
FAULT_TIMES processes, which count themselves in the file FAULT_COUNTER.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

FAULT_STEP = 2
NOTHING_BYTES = 100
"""A file-size limit under which no checkpoint and no model fits."""


def limit(kind: int, value: int) -> None:
    """The soft one, so that it can be lifted again."""
    resource.setrlimit(kind, (value, resource.getrlimit(kind)[1]))


def memory_allocation(run: Any) -> None:
    """The kernel refuses torch an allocation."""
    import torch

    limit(resource.RLIMIT_AS, address_space_bytes() + (64 << 20))
    torch.empty(1 << 30)


def python_allocation(run: Any) -> None:
    """The kernel refuses Python one."""
    limit(resource.RLIMIT_AS, address_space_bytes() + (64 << 20))
    bytearray(1 << 30)


def device_memory(run: Any) -> None:
    """As torch tells it."""
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total …")


def device_failure(run: Any) -> None:
    """As torch tells it, with advice on further lines."""
    import torch

    raise torch.AcceleratorError(
        "CUDA error: unspecified launch failure\nCUDA kernel errors might be asynchronously reported"
    )


def library_failure(run: Any) -> None:
    """As the libraries' errors arrive."""
    raise RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")


def not_finite(run: Any) -> None:
    """A parameter overflows: the loss that follows is really not a number."""
    import torch

    with torch.no_grad():
        run._trainee.parameters[0].fill_(float("inf"))


def killed(run: Any) -> None:
    """As by the kernel."""
    os.kill(os.getpid(), signal.SIGKILL)


def bug(run: Any) -> None:
    """Its text quotes the data."""
    raise KeyError("Zanzibar")


AT_STEP: dict[str, Callable[[Any], None]] = {
    function.__name__: function
    for function in (
        memory_allocation, python_allocation, device_memory, device_failure, library_failure, not_finite,
        killed, bug,
    )
}  # fmt: skip


def address_space_bytes() -> int:
    """What the process has mapped now."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def install(fault: str) -> None:
    """Put the fault into the trainer."""
    from worker.finetune import checkpoints, train
    from worker.finetune.device import hold

    if fault in AT_STEP:
        take = train._Run._take

        def take_faulty(run: Any, *arguments: Any, **named: Any) -> None:
            if run.step + 1 == FAULT_STEP:
                AT_STEP[fault](run)
            take(run, *arguments, **named)

        setattr(train._Run, "_take", take_faulty)  # noqa: B010
    elif fault == "disk_full":
        limit(resource.RLIMIT_FSIZE, NOTHING_BYTES)
    elif fault == "disk_full_at_checkpoints":
        write = checkpoints.Checkpoints.write

        def write_faulty(self: Any, snapshot: Any) -> Any:
            limit(resource.RLIMIT_FSIZE, NOTHING_BYTES)
            try:
                return write(self, snapshot)
            finally:
                limit(resource.RLIMIT_FSIZE, resource.RLIM_INFINITY)

        setattr(checkpoints.Checkpoints, "write", write_faulty)  # noqa: B010
    elif fault == "impatient":
        setattr(train, "hold", partial(hold, patience_seconds=0.5))  # noqa: B010
    elif fault == "dataset_unreadable":
        os.close(json.loads(Path(sys.argv[2]).read_text())["dataset"]["fd"])
    else:
        raise ValueError(fault)


def happens() -> bool:
    """Whether it is this process's turn; counts it."""
    with Path(os.environ["FAULT_COUNTER"]).open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        before = len(file.read())
        file.write("x")
    return before < int(os.environ["FAULT_TIMES"])


def main() -> int:
    """Run the trainer."""
    from worker.finetune import __main__ as program

    if happens():
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        if os.environ["FAULT"] == "address_space":
            limit(resource.RLIMIT_AS, 400 << 20)  # before torch is loaded, which needs more
        else:
            install(os.environ["FAULT"])
    return program.main()


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)
