"""SQL of the audit trail; for the API (async) and the worker (sync).

Every event about a verification takes its parties, grant, host and question count from the verification's own
row, so that no caller can write them down differently.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Insert, Select, case, func, insert, literal, select
from sqlalchemy.dialects.postgresql import JSONB

from service.db.models import AuditEvent, Verification, WatermarkKey
from service.db.paging import page_after
from service.ids import new_id

ID_PREFIX = "audit"

_COPIED = (
    "id", "organization_id", "actor_organization_id", "actor_key_id", "action", "key_id", "grant_id",
    "verification_id", "suspect_host", "detail",
)  # fmt: skip


def event(values: Mapping[str, Any]) -> Insert:
    """One event, all of it given."""
    return insert(AuditEvent).values(id=new_id(ID_PREFIX), **values)


def about_verification(
    verification_id: str,
    action: str,
    *,
    actor_organization_id: str | None = None,
    actor_key_id: str | None = None,
    detail: Mapping[str, Any] | None = None,
    with_outcome: bool = False,
    unless_within: timedelta | None = None,
) -> Insert:
    """One event about a verification that exists in this transaction; none if it does not.

    Args:
        actor_organization_id: None names who asked for the audit.
        actor_key_id: id of the API key used; None for what the service does by itself.
        with_outcome: add status and verdict as they stand now.
        unless_within: write nothing if the same actor's same event is younger than this.
    """
    actor: ColumnElement[str] = (
        Verification.organization_id.expression
        if actor_organization_id is None
        else literal(actor_organization_id)
    )
    source = (
        select(
            literal(new_id(ID_PREFIX)),
            WatermarkKey.organization_id,
            actor,
            literal(actor_key_id),
            literal(action),
            Verification.key_id,
            Verification.grant_id,
            Verification.id,
            _host_port(),
            _detail(detail, with_outcome=with_outcome),
        )
        .join(WatermarkKey, WatermarkKey.id == Verification.key_id)
        .where(Verification.id == verification_id)
    )
    if unless_within is not None:
        recent = select(AuditEvent.seq).where(
            AuditEvent.actor_organization_id == actor,
            AuditEvent.verification_id == verification_id,
            AuditEvent.action == action,
            AuditEvent.at > func.clock_timestamp() - unless_within,
        )
        source = source.where(~recent.exists())
    return insert(AuditEvent).from_select(list(_COPIED), source)


def page(
    *,
    owner_id: str | None = None,
    actor_id: str | None = None,
    hidden_actions: tuple[str, ...] = (),
    watermark: str | None = None,
    verification: str | None = None,
    after: str | None,
    limit: int,
) -> Select[AuditEvent]:
    """Newest first, one more than ``limit``; of one owner's keys, of one actor, or all."""
    statement = select(AuditEvent)
    for column, value in (
        (AuditEvent.organization_id, owner_id),
        (AuditEvent.actor_organization_id, actor_id),
        (AuditEvent.key_id, watermark),
        (AuditEvent.verification_id, verification),
    ):
        if value is not None:
            statement = statement.where(column == value)
    if hidden_actions:
        statement = statement.where(AuditEvent.action.not_in(hidden_actions))
    return page_after(statement, AuditEvent.at, AuditEvent.id, after=after, limit=limit)


def _host_port() -> ColumnElement[str]:
    """``host:port`` of the suspect. The stored URL is canonical: it leaves its scheme's own port out."""
    url = Verification.suspect["base_url"].astext
    authority = func.substring(url, "^https?://([^/]+)")
    default = case((url.startswith("https:"), ":443"), else_=":80")
    return case((authority.regexp_match(":[0-9]+$"), authority), else_=authority + default)


def _detail(extra: Mapping[str, Any] | None, *, with_outcome: bool) -> ColumnElement[Any]:
    known: list[Any] = ["questions", Verification.plan["questions"]]
    if with_outcome:
        known += ["status", Verification.status, "verdict", Verification.verdict]
    built = func.jsonb_build_object(*known, type_=JSONB)
    return func.jsonb_strip_nulls(built.concat(literal(dict(extra or {}), JSONB)), type_=JSONB)
