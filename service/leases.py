"""How a row that stands for work is claimed, kept and let go. Statements for jobs and verifications alike.

A claim is a compare-and-swap: it takes a queued row, or a running one whose lease has expired, and raises
the row's epoch. Every later write of that run names its epoch, so a worker that was paused and comes back
(or a second delivery of the same message) changes nothing. All times are the database's: a worker's clock
never decides who owns a row. Each function returns one statement; the caller executes and commits.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, Update, and_, func, or_, select, text, update

from service.db.models import Job, Verification

LeasedTable = type[Job] | type[Verification]

REAPER_LOCK = 0x0D0B1E01
"""Advisory lock: one reaper pass at a time in one database."""


def claim(table: LeasedTable, row_id: str, *, owner: str, lease_seconds: int) -> Update:
    """Take the row if it is free. Returns (lease_epoch, attempt), or no row if somebody else has it.

    `owner` names the run for people who look; it decides nothing.
    """
    return (
        update(table)
        .where(
            table.id == row_id,
            table.cancel_requested.is_(False),
            table.attempt < table.max_attempts,
            or_(due(table), expired(table)),
        )
        .values(
            status="running",
            lease_owner=owner,
            lease_epoch=table.lease_epoch + 1,
            attempt=table.attempt + 1,
            lease_expires_at=_from_now(lease_seconds),
            started_at=func.coalesce(table.started_at, func.clock_timestamp()),
        )
        .returning(table.lease_epoch, table.attempt)
    )


def heartbeat(
    table: LeasedTable, row_id: str, *, epoch: int, lease_seconds: int, values: dict[str, Any] | None = None
) -> Update:
    """Extend the lease and store progress. Returns (cancel_requested), or no row: the lease is lost."""
    return (
        update(table)
        .where(held(table, row_id, epoch))
        .values(lease_expires_at=_from_now(lease_seconds), **(values or {}))
        .returning(table.cancel_requested)
    )


def finish(
    table: LeasedTable, row_id: str, *, epoch: int, status: str, values: dict[str, Any] | None = None
) -> Update:
    """End the run. Returns (id), or no row: the lease is lost, or a success comes after a cancellation.

    A row whose cancellation was asked for can't succeed: what the owner gave up is not published.
    """
    condition = held(table, row_id, epoch)
    if status == "succeeded":
        condition = and_(condition, table.cancel_requested.is_(False))
    return (
        update(table)
        .where(condition)
        .values(
            status=status,
            finished_at=func.clock_timestamp(),
            lease_owner=None,
            lease_expires_at=None,
            **(values or {}),
        )
        .returning(table.id)
    )


def hand_back(
    table: LeasedTable,
    row_id: str,
    *,
    epoch: int,
    count_attempt: bool,
    wait_seconds: float = 0.0,
    values: dict[str, Any] | None = None,
) -> Update:
    """Queue the row again before its lease ends. Returns (id), or no row: the lease is lost.

    The attempt does not count when the worker is only shutting down. A row whose cancellation was asked for
    can't go back: nobody could claim it. For `wait_seconds` it stays under a lease that is nobody's.
    """
    return (
        update(table)
        .where(held(table, row_id, epoch), table.cancel_requested.is_(False))
        .values(
            status="queued",
            lease_owner=None,
            lease_expires_at=_from_now(wait_seconds) if wait_seconds else None,
            progress=None,
            attempt=table.attempt if count_attempt else table.attempt - 1,
            **(values or {}),
        )
        .returning(table.id)
    )


def cancel_queued(table: LeasedTable, row_id: str) -> Update:
    """Cancel a row that no worker has. Returns (id), or no row if one has it or it has ended."""
    return (
        update(table)
        .where(table.id == row_id, table.status == "queued")
        .values(status="cancelled", cancel_requested=True, finished_at=func.clock_timestamp())
        .returning(table.id)
    )


def request_cancel(table: LeasedTable, row_id: str) -> Update:
    """Ask the worker that has the row to stop. Returns (id), or no row if none has it or it was asked."""
    return (
        update(table)
        .where(table.id == row_id, table.status == "running", table.cancel_requested.is_(False))
        .values(cancel_requested=True)
        .returning(table.id)
    )


def held(table: LeasedTable, row_id: str, epoch: int) -> ColumnElement[bool]:
    """The fence: this run, and no other, has the row."""
    return and_(table.id == row_id, table.lease_epoch == epoch, table.status == "running")


def reap_cancelled(table: LeasedTable, *, values: dict[str, Any] | None = None) -> Update:
    """End the expired rows whose cancellation was asked for. Returns (id)."""
    return (
        update(table)
        .where(reapable(table, table.cancel_requested.is_(True)))
        .values(
            status="cancelled",
            finished_at=func.clock_timestamp(),
            lease_owner=None,
            lease_expires_at=None,
            **(values or {}),
        )
        .returning(table.id)
    )


def reap_exhausted(
    table: LeasedTable, *, error: dict[str, Any], values: dict[str, Any] | None = None
) -> Update:
    """Fail the expired rows that have no attempts left. Returns (id)."""
    return (
        update(table)
        .where(reapable(table, table.cancel_requested.is_(False), table.attempt >= table.max_attempts))
        .values(
            status="failed",
            error=error,
            finished_at=func.clock_timestamp(),
            lease_owner=None,
            lease_expires_at=None,
            **(values or {}),
        )
        .returning(table.id)
    )


def reap_expired(table: LeasedTable, *, values: dict[str, Any] | None = None) -> Update:
    """Queue the expired rows that have attempts left. Returns (id)."""
    return (
        update(table)
        .where(reapable(table, table.cancel_requested.is_(False), table.attempt < table.max_attempts))
        .values(status="queued", lease_owner=None, lease_expires_at=None, progress=None, **(values or {}))
        .returning(table.id)
    )


def overdue(table: LeasedTable, *, older_than_seconds: float, limit: int) -> Select[str]:
    """Ids of rows that could have been claimed for a while, oldest first."""
    age = timedelta(seconds=older_than_seconds)
    return (
        select(table.id)
        .where(due(table), table.created_at < func.clock_timestamp() - age)
        .order_by(table.created_at, table.id)
        .limit(limit)
    )


def try_reaper_lock() -> Select[bool]:
    """True if this transaction now is the only one that reaps."""
    return select(func.pg_try_advisory_xact_lock(text(str(REAPER_LOCK))))


def due(table: LeasedTable) -> ColumnElement[bool]:
    """Queued rows that may be claimed: all but those that wait after an attempt that failed."""
    lease = table.lease_expires_at
    return and_(table.status == "queued", or_(lease.is_(None), lease <= func.clock_timestamp()))


def expired(table: LeasedTable) -> ColumnElement[bool]:
    """Rows whose worker was lost."""
    return and_(table.status == "running", table.lease_expires_at < func.clock_timestamp())


def reapable(table: LeasedTable, *conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Those of the expired rows that nobody is writing to. A worker that was stopped in the middle of a
    transaction keeps its row locked; a pass that waited for it would reap nobody else's."""
    free = select(table.id).where(expired(table), *conditions).with_for_update(skip_locked=True)
    return table.id.in_(free)


def _from_now(seconds: float) -> ColumnElement[Any]:
    return func.clock_timestamp() + timedelta(seconds=seconds)
