"""OpenAI's lists: ``{"object": "list", "data": […], "first_id", "last_id", "has_more"}`` after a cursor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Query

T = TypeVar("T")

DEFAULT_LIMIT = 20
MAX_LIMIT = 100

Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT)]
After = Annotated[str | None, Query(max_length=200)]


def page(rows: Sequence[T], limit: int, shape: Callable[[T], dict[str, Any]]) -> dict[str, Any]:
    """A list object from at most ``limit + 1`` rows; the one more only says that there are more."""
    data = [shape(row) for row in rows[:limit]]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(rows) > limit,
    }
