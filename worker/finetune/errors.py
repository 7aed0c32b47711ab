"""Why a run failed, in the terms of the process's `error` event."""

from __future__ import annotations

from typing import ClassVar, Literal

Category = Literal["user", "server", "capacity"]
"""Who can do something about it: the data's owner, the operator, or a larger machine."""


class FinetuneError(Exception):
    """Root of this package's errors. Messages never quote a row: the rows are the watermark key."""

    code: ClassVar[str]
    category: ClassVar[Category]


class InvalidConfigError(FinetuneError, ValueError):
    code = "invalid_config"
    category = "server"


class UnreadableDatasetError(FinetuneError):
    code = "unreadable_dataset"
    category = "server"


class InvalidDatasetError(FinetuneError, ValueError):
    code = "invalid_dataset"
    category = "user"


class InvalidChecksError(FinetuneError, ValueError):
    code = "invalid_checks"
    category = "server"


class EmptyDatasetError(FinetuneError, ValueError):
    code = "empty_dataset"
    category = "user"


class ChatTemplateError(FinetuneError, ValueError):
    code = "unsupported_chat_template"
    category = "server"


class CorruptBaseModelError(FinetuneError):
    code = "corrupt_base_model"
    category = "server"


class LossNotFiniteError(FinetuneError, ArithmeticError):
    code = "loss_not_finite"
    category = "user"


class OutOfMemoryError(FinetuneError, MemoryError):
    code = "out_of_memory"
    category = "capacity"


class DeviceBusyError(FinetuneError):
    code = "device_busy"
    category = "capacity"


class DiskFullError(FinetuneError, OSError):
    code = "disk_full"
    category = "capacity"


class OutputNotWritableError(FinetuneError, OSError):
    code = "output_not_writable"
    category = "server"
