"""A job's stored dataset, read as its validation read it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from service.files import reading
from service.storage import Storage
from watermark.errors import RowError
from watermark.examples import Example
from worker.errors import RunFailed


def read_examples(storage: Storage, sha256: str) -> list[Example]:
    """Every row.

    Raises:
        RunFailed: the file is gone, can't be read or is not the one that was uploaded.
    """
    path = storage.path(sha256)
    try:
        with path.open("rb") as file:
            # The log says which bytes a model was trained on, so they are looked at.
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise RunFailed("training_file_damaged")
        examples = list(reading.read_examples(path))
    except FileNotFoundError:
        raise RunFailed("training_file_missing") from None
    except OSError as error:
        raise RunFailed("training_file_unreadable", error.strerror) from None
    except RowError as error:
        raise RunFailed("invalid_dataset", error.reason) from None
    if not examples:
        raise RunFailed("empty_dataset", "it has no rows")
    return examples


def mean_characters(examples: Sequence[Example]) -> float:
    """Characters of text in an example, on average."""
    total = sum(len(message.content) for example in examples for message in example.messages)
    return total / max(len(examples), 1)
