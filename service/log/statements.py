"""SQL of the transparency log; for the API (async) and the worker (sync)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Insert, ScalarSelect, Select, TextClause, func, select, text
from sqlalchemy.dialects.postgresql import aggregate_order_by, insert
from sqlalchemy.orm import InstrumentedAttribute

from evidence.log.merkle import Node
from service.db.models import LogCheckpoint, LogEntry, LogRecord

LOCK = 0x646F75626C652D6C
"""ASCII of "double-l": one transaction at a time appends, until it ends."""


# What runs while everybody else who appends is waiting is written as text: it costs no time to build.

_LOCK = text("SELECT pg_advisory_xact_lock(:key)").bindparams(key=LOCK)


def lock() -> TextClause:
    """Wait until nobody else appends. Take it last: whoever waits behind it waits for our commit."""
    return _LOCK


_HEAD = text(
    """
    SELECT coalesce(last.index + 1, 0), greatest(clock_timestamp(), last.logged_at)
    FROM (SELECT) AS one
    LEFT JOIN (SELECT index, logged_at FROM log_entries ORDER BY index DESC LIMIT 1) AS last ON true
    """
)


def head() -> TextClause:
    """(size, time for the next entry). A statement of its own, after the lock: its snapshot must be taken
    when the last appender has committed. A clock that was set back does not show."""
    return _HEAD


_NODES = text(
    """
    SELECT 0, e.index, e.leaf_hash
    FROM unnest(CAST(:leaves AS bigint[])) AS w (index) JOIN log_entries e ON e.index = w.index
    UNION ALL
    SELECT n.level, n.index, n.hash
    FROM unnest(CAST(:levels AS integer[]), CAST(:places AS bigint[])) AS w (level, index)
    JOIN log_nodes n ON n.level = w.level AND n.index = w.index
    """
)


def nodes(wanted: Sequence[Node]) -> TextClause:
    """(level, index, hash) of those that are there. One text whatever is wanted, so it is planned once."""
    inner = [node for node in wanted if node[0]]
    return _NODES.bindparams(
        leaves=[index for level, index in wanted if level == 0],
        levels=[level for level, _ in inner],
        places=[index for _, index in inner],
    )


_ENTER = text(
    """
    WITH entered AS (
        INSERT INTO log_entries (index, kind, subject, entry, leaf_hash, logged_at)
        SELECT e.*, CAST(:logged_at AS timestamptz) FROM unnest(
            CAST(:indexes AS bigint[]), CAST(:kinds AS text[]), CAST(:subjects AS text[]),
            CAST(:entries AS bytea[]), CAST(:leaf_hashes AS bytea[])
        ) AS e
    ), filled AS (
        INSERT INTO log_nodes (level, index, hash)
        SELECT * FROM unnest(
            CAST(:levels AS integer[]), CAST(:places AS bigint[]), CAST(:hashes AS bytea[])
        )
    )
    INSERT INTO log_records (index, record)
    SELECT * FROM unnest(CAST(:indexes AS bigint[]), CAST(:records AS text[]))
    """
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEntry:
    """One entry to be inserted."""

    index: int
    kind: str
    subject: str
    entry: bytes
    leaf_hash: bytes
    record: str


def enter(entries: Sequence[NewEntry], full: Mapping[Node, bytes], logged_at: datetime) -> TextClause:
    """Entries, the nodes above the leaves that they fill, and their records: one statement, since everybody
    else who appends is waiting."""
    inner = [(node, made) for node, made in full.items() if node[0]]
    return _ENTER.bindparams(
        logged_at=logged_at,
        indexes=[one.index for one in entries],
        kinds=[one.kind for one in entries],
        subjects=[one.subject for one in entries],
        entries=[one.entry for one in entries],
        leaf_hashes=[one.leaf_hash for one in entries],
        records=[one.record for one in entries],
        levels=[level for (level, _), _ in inner],
        places=[index for (_, index), _ in inner],
        hashes=[made for _, made in inner],
    )


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


def entered(subject: InstrumentedAttribute[str]) -> ScalarSelect[list[dict[str, object]]]:
    """The same as a column beside the thing's own row: a JSON array of {kind, index}."""
    entry = func.jsonb_build_object("kind", LogEntry.kind, "index", LogEntry.index)
    array = func.jsonb_agg(aggregate_order_by(entry, LogEntry.index))
    return (
        select(func.coalesce(array, text("'[]'::jsonb")))
        .where(LogEntry.subject == subject)
        .correlate(subject.class_)
        .scalar_subquery()
    )


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
    return insert(LogCheckpoint).values(size=size, note=note).on_conflict_do_nothing()
