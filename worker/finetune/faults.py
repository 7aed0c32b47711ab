"""What a library's exception says of the machine: no memory, no disk, a device that failed.

torch, safetensors and the system tell these in exceptions of many types, some of which also stand for other
things (a RuntimeError, an OSError), so they are told apart before anything else is concluded from them.
"""

from __future__ import annotations

import errno
import re
import sys

from worker.finetune.errors import (
    DeviceFailedError,
    DeviceOutOfMemoryError,
    DiskFullError,
    FinetuneError,
    OutOfMemoryError,
)

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The disk, the account's quota or the process's file-size limit is exhausted."""

_NO_MEMORY = re.compile(
    r"not enough memory|failed to map segment|can(?:not|'t) allocate memory|bad_alloc|can't start new thread",
    re.I,
)
_DEVICE = re.compile(r"\b(?:CUDA|cuBLAS|CUBLAS_STATUS|cuDNN|CUDNN_STATUS|cuSOLVER|NVML|HIP)\b", re.I)
_REFUSED = "an allocation was refused"
_MAX_TEXT_CHARACTERS = 120
"""Of what a driver says, which knows no rows; its first line names the error, the others give advice."""
_DEVICE_NO_MEMORY = re.compile(r"out of memory|ALLOC_FAILED", re.I)


def is_disk_full(error: BaseException) -> bool:
    """Also of safetensors, which has an error type of its own, with the system's number in its text."""
    if isinstance(error, OSError):
        return error.errno in NO_SPACE
    return any(f"os error {number})" in str(error) for number in NO_SPACE)


def of_the_machine(error: BaseException) -> FinetuneError | None:
    """The exception in this package's terms, or None if it is about something else."""
    text = str(error)
    torch = sys.modules.get("torch")  # not imported for this: memory may be what is missing
    if torch is not None and isinstance(error, getattr(torch, "OutOfMemoryError", ())):
        return DeviceOutOfMemoryError(_REFUSED)
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return OutOfMemoryError(_REFUSED)
    if is_disk_full(error):
        return DiskFullError("a file could not be written")
    of_device = torch is not None and isinstance(error, getattr(torch, "AcceleratorError", ()))
    if of_device or (isinstance(error, RuntimeError) and _DEVICE.search(text)):
        if _DEVICE_NO_MEMORY.search(text):
            return DeviceOutOfMemoryError(_REFUSED)
        return DeviceFailedError(text.partition("\n")[0][:_MAX_TEXT_CHARACTERS])
    if isinstance(error, RuntimeError | ImportError | OSError) and _NO_MEMORY.search(text):
        return OutOfMemoryError(_REFUSED)
    return None
