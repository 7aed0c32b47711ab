"""Why a run failed, in the terms of the process's `error` event.

What each code means, who can do something about it and whether another attempt is worth it, says
`service.jobs.failures`; here is only what happened this time.
"""

from __future__ import annotations

from typing import ClassVar


class FinetuneError(Exception):
    """Root of this package's errors. Messages never quote a row, for the rows are the watermark key, and name
    no path of the machine: a job's owner reads them."""

    code: ClassVar[str]


class InvalidConfigError(FinetuneError, ValueError):
    code = "invalid_config"


class UnreadableDatasetError(FinetuneError):
    code = "unreadable_dataset"


class InvalidDatasetError(FinetuneError, ValueError):
    code = "invalid_dataset"


class InvalidChecksError(FinetuneError, ValueError):
    code = "invalid_checks"


class EmptyDatasetError(FinetuneError, ValueError):
    code = "empty_dataset"


class ChatTemplateError(FinetuneError, ValueError):
    code = "unsupported_chat_template"


class CorruptBaseModelError(FinetuneError):
    code = "corrupt_base_model"


class LossNotFiniteError(FinetuneError, ArithmeticError):
    code = "loss_not_finite"


class OutOfMemoryError(FinetuneError, MemoryError):
    """Of the machine."""

    code = "out_of_memory"


class DeviceOutOfMemoryError(FinetuneError, MemoryError):
    code = "device_out_of_memory"


class DeviceFailedError(FinetuneError):
    """The device, its driver, or a library that drives it; not this process's doing."""

    code = "device_failed"


class DeviceBusyError(FinetuneError):
    code = "device_busy"


class DiskFullError(FinetuneError, OSError):
    code = "disk_full"


class OutputNotWritableError(FinetuneError, OSError):
    code = "output_not_writable"
