"""What is asked all the time: one statement by itself, with as little around it as can be.

A session in a transaction costs a poll several times what its statement does: two round trips, objects that
know of their changes, the statement put together anew. Here a statement is put together once, asks for plain
columns, and runs on a connection that commits by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, Select
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util.concurrency import greenlet_spawn

__all__ = ["Query", "Reads"]


@dataclass(frozen=True, slots=True)
class Query:
    """A statement that is the same at each call, and the values of its parameters at this one."""

    statement: Select[*tuple[Any, ...]]
    values: Mapping[str, object]


class Reads:
    """Only for what reads: what such a statement wrote would be durable at once."""

    def __init__(self, engine: AsyncEngine) -> None:
        """The engine is one of statements that stand alone (`service.db.engine.async_engine`)."""
        self._engine = engine.sync_engine

    async def rows(self, query: Query) -> Sequence[Row[*tuple[Any, ...]]]:
        """All rows of a result that is short.

        Raises: sqlalchemy.exc.SQLAlchemyError.
        """
        # one switch for all of it, where AsyncConnection takes one for each of its steps
        return await greenlet_spawn(self._rows, query)

    async def first(self, query: Query) -> Row[*tuple[Any, ...]] | None:
        """The only row, or the first."""
        rows = await self.rows(query)
        return rows[0] if rows else None

    def _rows(self, query: Query) -> Sequence[Row[*tuple[Any, ...]]]:
        with self._engine.connect() as connection:
            return connection.execute(query.statement, query.values).all()
