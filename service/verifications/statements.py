"""Statements on verifications and their INSERT-only records; for the API (async) and the worker (sync)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Insert,
    LargeBinary,
    Select,
    String,
    Update,
    and_,
    any_,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import aliased

from evidence.log.entry import EntryKind
from service import leases
from service.db.models import (
    Campaign,
    Evidence,
    Grant,
    Job,
    LogEntry,
    Model,
    NonceReveal,
    Preregistration,
    ProbeAnswer,
    ProbeSent,
    Verification,
    VerificationLook,
    WatermarkKey,
)
from service.db.paging import page_after
from service.verifications.lifecycle import WAITING, VerificationStatus
from service.watermarks import statements as watermark_statements


def _seen() -> Select[Verification, Preregistration, str]:
    """A verification, its pre-registration, and the evidence's digest once there is evidence."""
    return (
        select(Verification, Preregistration, Evidence.sha256)
        .join(Preregistration, Preregistration.verification_id == Verification.id)
        .outerjoin(Evidence, Evidence.verification_id == Verification.id)
    )


def _visible_to(organization_id: str) -> ColumnElement[bool]:
    """Who asked, and the key's owner whoever asked."""
    own_keys = select(WatermarkKey.id).where(WatermarkKey.organization_id == organization_id)
    return or_(Verification.organization_id == organization_id, Verification.key_id.in_(own_keys))


def one(verification_id: str, *, organization_id: str | None) -> Select[Verification, Preregistration, str]:
    """See `_seen`; None sees every organization's."""
    statement = _seen().where(Verification.id == verification_id)
    return statement if organization_id is None else statement.where(_visible_to(organization_id))


def page(
    *, organization_id: str | None, after: str | None, limit: int
) -> Select[Verification, Preregistration, str]:
    """See `_seen`; newest first, one more than ``limit``."""
    statement = _seen()
    if organization_id is not None:
        statement = statement.where(_visible_to(organization_id))
    return page_after(statement, Verification.created_at, Verification.id, after=after, limit=limit)


def campaign(campaign_id: str, *, organization_id: str | None) -> Select[Campaign]:
    """A campaign of the caller's, or of a key of its own; None sees every organization's."""
    statement = select(Campaign).where(Campaign.id == campaign_id)
    if organization_id is None:
        return statement
    own_keys = select(WatermarkKey.id).where(WatermarkKey.organization_id == organization_id)
    return statement.where(or_(Campaign.organization_id == organization_id, Campaign.key_id.in_(own_keys)))


def members(campaign_id: str) -> Select[Verification, Preregistration, str]:
    """See `_seen`; a campaign's audits in their order."""
    return _seen().where(Verification.campaign_id == campaign_id).order_by(Preregistration.campaign_position)


def looks_of(verification_ids: Sequence[str]) -> Select[VerificationLook]:
    """What sequential audits saw after each completed mark, in order."""
    return (
        select(VerificationLook)
        .where(VerificationLook.verification_id.in_(verification_ids))
        .order_by(VerificationLook.verification_id, VerificationLook.look)
    )


def reveal_of(verification_id: str) -> Select[NonceReveal]:
    """The auditor's nonce, once it was shown."""
    return select(NonceReveal).where(NonceReveal.verification_id == verification_id)


def nonce_shown(verification_id: str) -> Update:
    """Let the audit be claimed. Returns (id), or no row: it does not wait for a nonce."""
    return (
        update(Verification)
        .where(Verification.id == verification_id, Verification.status == "awaiting_nonce")
        .values(status="queued")
        .returning(Verification.id)
    )


def take_up(verification_id: str, *, conclude: bool) -> Update:
    """Queue a paused audit again, to ask on or to conclude. Returns (id), or no row: it is not paused."""
    return (
        update(Verification)
        .where(Verification.id == verification_id, Verification.status == "paused")
        .values(
            status="queued",
            attempt=0,
            sitting_started_at=func.clock_timestamp(),
            conclude_requested=conclude,
        )
        .returning(Verification.id)
    )


def cancel_waiting(verification_id: str) -> Update:
    """Cancel an audit that no worker has. Returns (id), or no row if one has it or it has ended."""
    waiting = literal([status.value for status in WAITING], ARRAY(String))
    return (
        update(Verification)
        .where(Verification.id == verification_id, Verification.status == any_(waiting))
        .values(status="cancelled", cancel_requested=True, finished_at=func.clock_timestamp())
        .returning(Verification.id)
    )


def pause(verification_id: str, *, epoch: int) -> Update:
    """Let a sequential audit wait, undecided. Returns (id), or no row: the lease is lost."""
    return (
        update(Verification)
        .where(leases.held(Verification, verification_id, epoch), Verification.cancel_requested.is_(False))
        .values(status="paused", lease_owner=None, lease_expires_at=None)
        .returning(Verification.id)
    )


def looked(rows: Sequence[dict[str, Any]]) -> Insert:
    """Looks; one that is on record already stays as it is."""
    return upsert(VerificationLook).values(list(rows)).on_conflict_do_nothing()


def evidence(verification_id: str) -> Select[Evidence]:
    """The exact bytes. Who may see them was decided before."""
    return select(Evidence).where(Evidence.verification_id == verification_id)


def job_of_model(model_id: str, *, key_id: str) -> Select[str]:
    """The job that published this model and was marked with this key."""
    return (
        select(Model.job_id)
        .join(Job, Job.id == Model.job_id)
        .where(Model.id == model_id, Job.watermark_key_id == key_id)
    )


def first_job(key_id: str) -> Select[str]:
    """The job that first trained with a key."""
    return (
        select(LogEntry.subject)
        .join(Job, Job.id == LogEntry.subject)
        .where(LogEntry.kind == EntryKind.training.value, Job.watermark_key_id == key_id)
        .order_by(LogEntry.index)
        .limit(1)
    )


def key_for_audit(key_id: str, organization_id: str) -> Select[WatermarkKey]:
    """The caller's own key, or one it holds a live grant for; held until the transaction ends, so that
    audits of one key are numbered one after the other."""
    visible = watermark_statements.visible(key_id, organization_id)
    return visible.with_for_update(key_share=True, of=WatermarkKey)


def audits_so_far(key_id: str) -> Select[int]:
    """The number of the key's last pre-registered audit, aborted ones included; 0 before the first. Whatever
    id it had here, and whatever a key file brought along."""
    same = aliased(WatermarkKey)
    last = func.coalesce(func.max(Preregistration.audit_index), 0)
    brought = func.coalesce(func.max(func.jsonb_array_length(same.audits_before)), 0)
    return (
        select(func.greatest(last, brought))
        .select_from(WatermarkKey)
        .join(same, watermark_statements.same_key(same))
        .outerjoin(Preregistration, Preregistration.key_id == same.id)
        .where(WatermarkKey.id == key_id)
    )


def commitments_of(owner_id: str) -> Select[int]:
    """How many keys an owner has committed to so far, deleted ones included. The same commitment with another
    salt is another key; with the same one, exported and imported again, it is not."""
    salt = func.coalesce(WatermarkKey.salt, literal(b"", LargeBinary))
    different = select(WatermarkKey.commitment, salt).where(WatermarkKey.organization_id == owner_id)
    return select(func.count()).select_from(different.distinct().subquery())


def reserve(key_id: str, auditor_id: str, *, host_port: str, questions: int) -> Update:
    """Take questions from the oldest live grant that covers them. Returns (id), or no row.

    Reserved questions are not given back: what was pre-registered may have been seen.
    """
    covering = and_(
        Grant.key_id == key_id,
        Grant.auditor_id == auditor_id,
        watermark_statements.is_live(),
        Grant.suspect_hosts.contains(literal([host_port], JSONB)),
        Grant.probes_reserved + questions <= Grant.probe_budget,
    )
    chosen = select(Grant.id).where(covering).order_by(Grant.created_at, Grant.id).limit(1)
    return (
        update(Grant)
        .where(Grant.id == chosen.with_for_update().scalar_subquery(), covering)
        .values(probes_reserved=Grant.probes_reserved + questions)
        .returning(Grant.id)
    )


def live_grant(grant_id: str) -> Select[str]:
    """Returns (id), or no row: the grant was revoked or has expired since."""
    return select(Grant.id).where(Grant.id == grant_id, watermark_statements.is_live())


def drop_secrets(verification_id: str) -> Update:
    """Forget the suspect's credential and the opened family of a verification that has ended."""
    return (
        update(Verification)
        .where(
            Verification.id == verification_id,
            Verification.status == any_(literal(["succeeded", "failed", "cancelled"], ARRAY(String))),
        )
        .values(sealed_credential=None, sealed_opening=None)
    )


def claim(verification_id: str, *, owner: str, lease_seconds: int) -> Update:
    """See `leases.claim`."""
    return leases.claim(Verification, verification_id, owner=owner, lease_seconds=lease_seconds)


def heartbeat(verification_id: str, *, epoch: int, lease_seconds: int) -> Update:
    """See `leases.heartbeat`."""
    return leases.heartbeat(Verification, verification_id, epoch=epoch, lease_seconds=lease_seconds)


def hand_back(verification_id: str, *, epoch: int) -> Update:
    """See `leases.hand_back`."""
    return leases.hand_back(Verification, verification_id, epoch=epoch, count_attempt=False)


def lock_while_held(verification_id: str, *, epoch: int) -> Select[str]:
    """The fence of a transaction that only inserts. Returns (id), or no row: the lease is lost."""
    return (
        select(Verification.id)
        .where(leases.held(Verification, verification_id, epoch))
        .with_for_update(read=True)
    )


def progress(verification_id: str, *, epoch: int, asked: int, total: int) -> Update:
    """How far the asking is; a fence too. Returns (id), or no row: the lease is lost."""
    return (
        update(Verification)
        .where(leases.held(Verification, verification_id, epoch))
        .values(progress={"asked": asked, "total": total})
        .returning(Verification.id)
    )


def finish(
    verification_id: str, *, epoch: int, status: VerificationStatus, values: dict[str, Any] | None = None
) -> Update:
    """See `leases.finish`. Forgets the suspect's credential and the opened family."""
    ended = {"sealed_credential": None, "sealed_opening": None, **(values or {})}
    return leases.finish(Verification, verification_id, epoch=epoch, status=status, values=ended)


def for_run(verification_id: str) -> Select[Verification, Preregistration, WatermarkKey]:
    """Everything a worker needs to know of a claimed audit."""
    return (
        select(Verification, Preregistration, WatermarkKey)
        .join(Preregistration, Preregistration.verification_id == Verification.id)
        .join(WatermarkKey, WatermarkKey.id == Verification.key_id)
        .where(Verification.id == verification_id)
    )


def sent(rows: Sequence[dict[str, Any]]) -> Insert:
    """Sendings, before they leave. A repeated one breaks the primary key, and so is never sent."""
    return insert(ProbeSent).values(list(rows))


def answered(rows: Sequence[dict[str, Any]]) -> Insert:
    """What came back."""
    return insert(ProbeAnswer).values(list(rows))


def transcript(verification_id: str) -> Select[ProbeSent, ProbeAnswer]:
    """Every sending with its answer, or None where none is recorded, in the order of sending."""
    same = and_(
        ProbeAnswer.verification_id == ProbeSent.verification_id,
        ProbeAnswer.probe_index == ProbeSent.probe_index,
        ProbeAnswer.attempt == ProbeSent.attempt,
    )
    return (
        select(ProbeSent, ProbeAnswer)
        .outerjoin(ProbeAnswer, same)
        .where(ProbeSent.verification_id == verification_id)
        .order_by(ProbeSent.sent_at, ProbeSent.probe_index, ProbeSent.attempt)
    )


def add_evidence(row: dict[str, Any]) -> Insert:
    """The finished record, in the transaction that ends the verification."""
    return insert(Evidence).values(**row)


def now() -> Select[datetime]:
    """The database's clock."""
    return select(func.clock_timestamp())
