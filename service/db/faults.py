"""Telling a database that is away or busy from a bug of ours."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

TEMPORARY_CLASSES = frozenset({"08", "53", "55", "57", "40"})
"""SQLSTATE classes: connection, resources, object in use (lock timeout), operator intervention, rollback.

https://www.postgresql.org/docs/current/errcodes-appendix.html
"""


def is_temporary(error: Exception) -> bool:
    """True if the same request may work later: no connection, no room, a lock or a shutdown in the way."""
    if isinstance(error, PoolTimeout):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    state = getattr(error.orig, "sqlstate", None)
    if state is None:
        # psycopg has no SQLSTATE for a connection that could not be made or was lost
        return type(error.orig).__name__ in ("OperationalError", "InterfaceError", "ConnectionTimeout")
    return state[:2] in TEMPORARY_CLASSES
