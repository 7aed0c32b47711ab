"""How far a fetch has come, as data; `worker.weights.__main__` shows it to people or machines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Stage = Literal["download", "convert", "ready"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """`total_bytes` is 0 while the size is unknown."""

    stage: Stage
    done_bytes: int
    total_bytes: int
    note: str = ""
    """For people: which source is being tried, or why one was passed over."""


Reporter = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """A reporter for callers who do not care."""
