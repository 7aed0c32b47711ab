"""One training a device: a file lock that is held for as long as the process lives.

The process that uses the device holds the lock, so the kernel lets it go exactly when the device is free:
not when a worker is lost, and not while a stopped process still has its memory there.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import torch

from worker.finetune.errors import DeviceBusyError, DeviceFailedError

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""Names this machine until it restarts, in every container on it alike."""

DEVICE_FILES = Path("/dev")

POLL_SECONDS = 0.5
PATIENCE_SECONDS = 600.0
"""A job whose device stays taken for so long is better tried elsewhere."""


def choose_device() -> torch.device:
    """The GPU, or the processor where there is none.

    Raises: DeviceFailedError if there is one that does not answer: a training that quietly goes on on the
    processor would take days, and hold its worker for as long.
    """
    if torch.cuda.is_available():
        return torch.device("cuda")
    wanted = torch.version.cuda is not None and os.environ.get("CUDA_VISIBLE_DEVICES") != ""
    if wanted and any(DEVICE_FILES.glob("nvidia[0-9]*")):
        raise DeviceFailedError("there is a GPU, but CUDA can't use it")
    return torch.device("cpu")


def device_name(device: torch.device) -> str:
    """The same for every process that would use this device, and for no other device of any machine, so that
    the locks' folder may lie on a shared file system."""
    if device.type == "cuda":
        return f"gpu-{_plain(str(torch.cuda.get_device_properties(device).uuid))}"
    return f"{device.type}-{_plain(BOOT_ID.read_text('ascii'))}"


def hold(
    folder: Path,
    device: torch.device,
    *,
    slots: int,
    waiting: Callable[[], None],
    patience_seconds: float = PATIENCE_SECONDS,
) -> int:
    """Take one of the device's `slots` locks, waiting for it if need be; `waiting` is called once then.

    Returns: the descriptor that holds the lock. It is never closed: the end of the process does that.

    Raises: DeviceBusyError.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = device_name(device)
    deadline = time.monotonic() + patience_seconds
    told = False
    while True:
        for slot in range(slots):
            if (held := _try(folder / f"{name}.{slot}.lock")) is not None:
                return held
        if not told:
            waiting()
            told = True
        if time.monotonic() >= deadline:
            raise DeviceBusyError(f"for {patience_seconds:.0f} seconds")
        time.sleep(POLL_SECONDS)


def _try(path: Path) -> int | None:
    # Never removed: whoever unlinks a lock's file lets two processes hold "the" lock.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return None
        raise
    return descriptor


def _plain(text: str) -> str:
    return re.sub(r"[^0-9A-Za-z-]", "", text)
