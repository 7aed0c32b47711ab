"""A job's stored dataset, read as its validation read it."""

from __future__ import annotations

from collections.abc import Sequence

from service.files import reading
from service.storage import Storage
from watermark.errors import RowError
from watermark.examples import Example
from worker.errors import RunFailed


def read_examples(storage: Storage, sha256: str) -> list[Example]:
    """Every row.

    Raises:
        RunFailed: the file is gone, or a row is not what it was when it was validated.
    """
    try:
        examples = list(reading.read_examples(storage.path(sha256)))
    except OSError:
        raise RunFailed(
            "training_file_missing", "The training file is no longer stored.", param="training_file"
        ) from None
    except RowError as error:
        raise RunFailed(
            "invalid_dataset", f"A row can't be used ({error.reason}).", param="training_file"
        ) from None
    if not examples:
        raise RunFailed("empty_dataset", "The training file has no rows.", param="training_file")
    return examples


def mean_characters(examples: Sequence[Example]) -> float:
    """Characters of text in an example, on average."""
    total = sum(len(message.content) for example in examples for message in example.messages)
    return total / max(len(examples), 1)
