"""SQL of the transparency log; for the API (async) and the worker (sync)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Insert, ScalarSelect, Select, TextClause, func, select, text
from sqlalchemy.dialects.postgresql import aggregate_order_by, insert
from sqlalchemy.orm import InstrumentedAttribute

from evidence.log.merkle import Node
from service.db.models import LogCheckpoint, LogCosignature, LogEntry, LogRecord, LogTimestamp

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


def first_told(subject: str, kind: str) -> Select[int, bytes, str]:
    """(index, exact bytes, record) of the first entry of a kind about a thing."""
    return (
        select(LogEntry.index, LogEntry.entry, LogRecord.record)
        .join(LogRecord, LogRecord.index == LogEntry.index)
        .where(LogEntry.subject == subject, LogEntry.kind == kind)
        .order_by(LogEntry.index)
        .limit(1)
    )


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


def all_told(subject: str) -> Select[int, str, bytes, str | None]:
    """(index, kind, entry, record) of every entry about a key, a job or a verification, in order. The record
    is None when it was deleted."""
    return (
        select(LogEntry.index, LogEntry.kind, LogEntry.entry, LogRecord.record)
        .outerjoin(LogRecord, LogRecord.index == LogEntry.index)
        .where(LogEntry.subject == subject)
        .order_by(LogEntry.index)
    )


def covering(index: int) -> Select[int, str]:
    """(size, note) of the smallest signed checkpoint that covers an entry."""
    return (
        select(LogCheckpoint.size, LogCheckpoint.note)
        .where(LogCheckpoint.size > index)
        .order_by(LogCheckpoint.size)
        .limit(1)
    )


def stamped(index: int) -> Select[int, str, LogTimestamp]:
    """(size, note, stamp) of the smallest stamped checkpoint that covers an entry."""
    return (
        select(LogCheckpoint.size, LogCheckpoint.note, LogTimestamp)
        .join(LogTimestamp, LogTimestamp.size == LogCheckpoint.size)
        .where(LogCheckpoint.size > index)
        .order_by(LogCheckpoint.size)
        .limit(1)
    )


def last_of(kinds: Sequence[str]) -> Select[int | None]:
    """The index of the newest entry of these kinds."""
    return select(func.max(LogEntry.index)).where(LogEntry.kind.in_(kinds))


def add_stamp(size: int, *, authority: str, reply: bytes, stamped_at: datetime) -> Insert:
    """Keep a stamp; the first one of a size stays."""
    values = {"size": size, "authority": authority, "reply": reply, "stamped_at": stamped_at}
    return insert(LogTimestamp).values(values).on_conflict_do_nothing()


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


def successions(subject: str) -> Select[int, str]:
    """(index, record) of every change of the log's key, in order."""
    return (
        select(LogEntry.index, LogRecord.record)
        .join(LogRecord, LogRecord.index == LogEntry.index)
        .where(LogEntry.subject == subject)
        .order_by(LogEntry.index)
    )


def cosignatures(size: int) -> Select[str, str]:
    """(witness, line) below a checkpoint, the first one first."""
    return (
        select(LogCosignature.witness, LogCosignature.line)
        .where(LogCosignature.size == size)
        .order_by(LogCosignature.created_at, LogCosignature.witness)
    )


def cosigned_size(witness: str) -> Select[int]:
    """The largest size that a witness has cosigned; 0: none."""
    return select(func.coalesce(func.max(LogCosignature.size), 0)).where(LogCosignature.witness == witness)


def add_cosignature(size: int, witness: str, line: str) -> Insert:
    """Keep a witness's answer; the first one for a size stays."""
    return insert(LogCosignature).values(size=size, witness=witness, line=line).on_conflict_do_nothing()
