"""SQL of the transparency log; for the API (async) and the worker (sync)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, BigInteger, Insert, Integer, Select, func, insert, literal, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.sql.selectable import CompoundSelect

from evidence.log.merkle import Node
from service.db.models import LogCheckpoint, LogEntry, LogNode, LogRecord

LOCK = 0x646F75626C652D6C
"""ASCII of "double-l": one transaction at a time appends, until it ends."""


def lock() -> Select[Any]:
    """Wait until nobody else appends. Take it last: whoever waits behind it waits for our commit."""
    return select(func.pg_advisory_xact_lock(LOCK))


def head() -> Select[int, datetime]:
    """(size, time for the next entry). A statement of its own, after the lock: its snapshot must be taken
    when the last appender has committed. A clock that was set back does not show."""
    last = select(LogEntry.index, LogEntry.logged_at).order_by(LogEntry.index.desc()).limit(1).subquery()
    return select(
        func.coalesce(select(last.c.index).scalar_subquery() + 1, 0),
        func.greatest(func.clock_timestamp(), select(last.c.logged_at).scalar_subquery()),
    )


def nodes(wanted: Sequence[Node]) -> CompoundSelect[int, int, bytes]:
    """(level, index, hash) of those that are there. One text whatever is wanted, so it is planned once."""
    leaves = (
        func.unnest(literal([index for level, index in wanted if level == 0], ARRAY(BigInteger)))
        .table_valued("index")
        .render_derived()
    )
    inner = (
        func.unnest(
            literal([level for level, _ in wanted if level], ARRAY(Integer)),
            literal([index for level, index in wanted if level], ARRAY(BigInteger)),
        )
        .table_valued("level", "index")
        .render_derived()
    )
    return (
        select(literal(0), LogEntry.index, LogEntry.leaf_hash)
        .join(leaves, leaves.c.index == LogEntry.index)
        .union_all(
            select(LogNode.level, LogNode.index, LogNode.hash).join(
                inner, (inner.c.level == LogNode.level) & (inner.c.index == LogNode.index)
            )
        )
    )


def add_entries(rows: Sequence[dict[str, Any]]) -> Insert:
    """Entries, under the lock."""
    return insert(LogEntry).values(list(rows))


def add_nodes(rows: Sequence[dict[str, Any]]) -> Insert:
    """Nodes that became full."""
    return insert(LogNode).values(list(rows))


def add_records(rows: Sequence[dict[str, Any]]) -> Insert:
    """What the entries digest."""
    return insert(LogRecord).values(list(rows))


def entries(*, start: int, limit: int) -> Select[bytes]:
    """Exact bytes, in order."""
    return (
        select(LogEntry.entry)
        .where(LogEntry.index >= start, LogEntry.index < start + limit)
        .order_by(LogEntry.index)
    )


def leaf(index: int) -> Select[bytes]:
    """An entry's leaf hash."""
    return select(LogEntry.leaf_hash).where(LogEntry.index == index)


def of_subject(subject: str) -> Select[str, int]:
    """(kind, index) of every entry about a key, a job or a verification."""
    return select(LogEntry.kind, LogEntry.index).where(LogEntry.subject == subject).order_by(LogEntry.index)


def same_record(subject: str, kind: str, record: str) -> Select[int]:
    """The entry that already tells of this very record, if there is one."""
    return (
        select(LogEntry.index)
        .join(LogRecord, LogRecord.index == LogEntry.index)
        .where(LogEntry.subject == subject, LogEntry.kind == kind, LogRecord.record == record)
        .limit(1)
    )


def standing() -> Select[int, str | None]:
    """(size, the largest checkpoint's note), as of one moment: the log never looks smaller than what it
    signed because somebody appended in between."""
    size = select(func.coalesce(func.max(LogEntry.index) + 1, 0)).scalar_subquery()
    last = select(LogCheckpoint.note).order_by(LogCheckpoint.size.desc()).limit(1).scalar_subquery()
    return select(size, last)


def size() -> Select[int]:
    """How many entries are committed."""
    return select(func.coalesce(func.max(LogEntry.index) + 1, 0))


def add_checkpoint(size: int, note: str) -> Insert:
    """Keep what was signed. Another process may have signed the same size: a signature has one value."""
    return upsert(LogCheckpoint).values(size=size, note=note).on_conflict_do_nothing()
