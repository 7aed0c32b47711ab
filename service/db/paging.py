"""Keyset pages: newest first by (created_at, id), after the row of a given id."""

from __future__ import annotations

from typing import Any, TypeVar

from sqlalchemy import BindParameter, Select, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute

S = TypeVar("S", bound=Select[*tuple[Any, ...]])


def page_after(
    statement: S,
    created_at: InstrumentedAttribute[Any],
    identity: InstrumentedAttribute[str],
    *,
    after: str | BindParameter[str] | None,
    limit: int | BindParameter[int],
    ascending: bool = False,
) -> S:
    """Order, cut after the cursor, and take one row more than ``limit``.

    A cursor that names no row gives an empty page. The caller's own filter (whose rows) is in ``statement``;
    the cursor only positions, so a foreign id in it shows nothing of that row but its place in time.
    """
    order = (created_at.asc(), identity.asc()) if ascending else (created_at.desc(), identity.desc())
    if after is not None:
        place = select(created_at, identity).where(identity == after).scalar_subquery()
        key = tuple_(created_at, identity)
        statement = statement.where(key > place if ascending else key < place)
    return statement.order_by(*order).limit(limit + 1)
