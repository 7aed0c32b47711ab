"""What clients poll: a job, the list of jobs, a job's events and checkpoints.

Rows of plain columns, by the names of the tables' attributes.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import Integer, Select, bindparam, inspect, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import aliased

from service.db.models import Base, Checkpoint, Job, JobEvent, Model
from service.db.paging import page_after
from service.db.reads import Query
from service.log.statements import entered

_Statement = Select[*tuple[Any, ...]]


def _columns(table: type[Base], *, hidden: frozenset[str] = frozenset()) -> list[Any]:
    names = [attribute.key for attribute in inspect(table).column_attrs]
    return [getattr(table, name).label(name) for name in names if name not in hidden]


_JOB = _columns(Job, hidden=frozenset({"max_attempts", "lease_owner", "lease_epoch", "lease_expires_at"}))
_LIMIT = bindparam("limit", type_=Integer)
_AFTER: Any = bindparam("after")


def job(job_id: str, *, organization_id: str | None) -> Query:
    """A job of that organization, with what the log has of it as `log`; None sees every organization's."""
    statement = _job(with_log=True, scoped=organization_id is not None)
    return Query(statement, {"id": job_id, "organization_id": organization_id})


def exists(job_id: str, *, organization_id: str | None) -> Query:
    """Its id, if there is such a job of that organization."""
    statement = _job(with_log=False, scoped=organization_id is not None)
    return Query(statement, {"id": job_id, "organization_id": organization_id})


def page(
    *, organization_id: str | None, after: str | None, limit: int, metadata: dict[str, str] | None = None
) -> Query:
    """Newest first, one row more than `limit`, so that the caller knows whether there are more."""
    statement = _page(scoped=organization_id is not None, cut=after is not None, filtered=bool(metadata))
    values = {"organization_id": organization_id, "after": after, "limit": limit, "metadata": metadata}
    return Query(statement, values)


def events(job_id: str, *, after: str | None, limit: int) -> Query:
    """Newest first, one more than `limit`. Whose job it is was decided before."""
    return Query(_events(cut=after is not None), {"id": job_id, "after": after, "limit": limit})


def checkpoints(job_id: str, *, after: str | None, limit: int) -> Query:
    """Those that can be used, newest first, one more than `limit`: each with its `model` and the job's
    `watermark_key_id`. Whose job it is was decided before."""
    return Query(_checkpoints(cut=after is not None), {"id": job_id, "after": after, "limit": limit})


@cache
def _job(*, with_log: bool, scoped: bool) -> _Statement:
    columns = [*_JOB, entered(Job.id).label("log")] if with_log else [Job.id]
    statement = select(*columns).where(Job.id == bindparam("id"))
    return _of_organization(statement) if scoped else statement


@cache
def _page(*, scoped: bool, cut: bool, filtered: bool) -> _Statement:
    statement: _Statement = select(*_JOB)
    if scoped:
        statement = _of_organization(statement)
    if filtered:
        statement = statement.where(Job.metadata_.contains(bindparam("metadata", type_=JSONB)))
    return page_after(statement, Job.created_at, Job.id, after=_AFTER if cut else None, limit=_LIMIT)


@cache
def _events(*, cut: bool) -> _Statement:
    statement: _Statement = select(*_columns(JobEvent)).where(JobEvent.job_id == bindparam("id"))
    if cut:
        cursor = aliased(JobEvent)
        position = select(cursor.seq).where(cursor.id == _AFTER).scalar_subquery()
        statement = statement.where(JobEvent.seq < position)
    return statement.order_by(JobEvent.seq.desc()).limit(_LIMIT + 1)


@cache
def _checkpoints(*, cut: bool) -> _Statement:
    columns = (*_columns(Checkpoint), Model.id.label("model"), Job.watermark_key_id)
    statement: _Statement = (
        select(*columns)
        .join(Model, Model.checkpoint_id == Checkpoint.id)
        .join(Job, Job.id == Checkpoint.job_id)
        .where(Checkpoint.job_id == bindparam("id"), Model.deleted_at.is_(None))
    )
    after = _AFTER if cut else None
    return page_after(statement, Checkpoint.created_at, Checkpoint.id, after=after, limit=_LIMIT)


def _of_organization(statement: _Statement) -> _Statement:
    return statement.where(Job.organization_id == bindparam("organization_id"))
