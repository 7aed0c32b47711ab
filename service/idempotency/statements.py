"""SQL of the answers on record. All times are the database's."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Delete, Select, delete, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate

from service.db.models import IdempotencyRecord as Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request, as its record knows it."""

    api_key_id: str
    name: bytes
    """see `IdempotencyRecord.name`"""
    request: bytes
    """see `IdempotencyRecord.request`"""
    retry_count: int
    lifetime: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a deed answered."""

    status: int
    sealed: bytes
    subject: str | None


def claim(asked: Asked, answer: Answer | None = None) -> ReturningInsert[datetime]:
    """Take the name. Waits for a transaction that has it; no row: it is on record already."""
    values = {
        "api_key_id": asked.api_key_id,
        "name": asked.name,
        "request": asked.request,
        "retry_count": asked.retry_count,
        "expires_at": func.clock_timestamp() + asked.lifetime,
    }
    if answer is not None:
        values |= _values(answer)
    return insert(Record).values(values).on_conflict_do_nothing().returning(Record.started_at)


def take_over(asked: Asked, started_at: datetime, answer: Answer | None = None) -> ReturningUpdate[datetime]:
    """Put this request in the place of the one that began at that time. No row: somebody else did."""
    blank = {"status": None, "sealed_answer": None, "subject": None}
    return (
        update(Record)
        .where(*_is(asked), Record.started_at == started_at)
        .values(
            request=asked.request,
            retry_count=asked.retry_count,
            started_at=func.clock_timestamp(),
            expires_at=func.clock_timestamp() + asked.lifetime,
            **(blank if answer is None else _values(answer)),
        )
        .returning(Record.started_at)
    )


def keep(asked: Asked, started_at: datetime, answer: Answer) -> ReturningUpdate[datetime]:
    """Write the answer to one's own claim. No row: another request has taken it over."""
    return (
        update(Record)
        .where(*_is(asked), Record.started_at == started_at)
        .values(_values(answer))
        .returning(Record.started_at)
    )


def find(asked: Asked) -> Select[Record, timedelta, bool]:
    """The record of the name, its age, and whether its time is over."""
    now = func.clock_timestamp()
    return (
        select(Record, now - Record.started_at, Record.expires_at < now)
        .where(*_is(asked))
        # asked for again after a lost race, the row is another one
        .execution_options(populate_existing=True)
    )


def forget(subject: str) -> Delete:
    """Delete the answers that showed a thing whose secret is being destroyed."""
    return delete(Record).where(Record.subject == subject)


def delete_expired(limit: int) -> Delete:
    """Delete records whose time is over, at most so many."""
    expired = (
        select(Record.api_key_id, Record.name)
        .where(Record.expires_at < func.clock_timestamp())
        .order_by(Record.expires_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return delete(Record).where(tuple_(Record.api_key_id, Record.name).in_(expired))


def _is(asked: Asked) -> tuple:  # type: ignore[type-arg]
    return (Record.api_key_id == asked.api_key_id, Record.name == asked.name)


def _values(answer: Answer) -> dict[str, object]:
    return {"status": answer.status, "sealed_answer": answer.sealed, "subject": answer.subject}
