"""What can go wrong with weights."""

from __future__ import annotations

from typing import ClassVar


class WeightsError(Exception):
    """Root of this package's errors; `code` is stable and machine-readable."""

    code: ClassVar[str]


class ModelNotCachedError(WeightsError):
    """The model is not in the cache yet; the message gives the command that fetches it."""

    code = "base_model_not_cached"


class CorruptModelError(WeightsError):
    """Files of a cached model are missing or differ from its manifest. `reason` says so without the folder's
    path."""

    code = "corrupt_base_model"

    def __init__(self, message: str, *, reason: str = "its manifest does not fit") -> None:
        super().__init__(message)
        self.reason = reason


class SourceError(WeightsError):
    """One source did not give the model; the next one is tried."""

    code = "base_model_source_failed"


class FetchError(WeightsError):
    """No source gave the model; the message lists what each said."""

    code = "base_model_unavailable"
