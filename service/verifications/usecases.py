"""Reading and cancelling verifications."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy.ext.asyncio import AsyncSession

from service import leases
from service.db.models import (
    Evidence,
    NonceReveal,
    Preregistration,
    Verification,
    VerificationLook,
    WatermarkKey,
)
from service.errors import Conflict, Forbidden, InvalidRequest, NotFound
from service.trail.usecases import Action, Actor, finished, verification_event
from service.verifications import statements
from service.verifications.lifecycle import TERMINAL, VerificationStatus
from service.verifications.plans import shape_of
from service.watermarks import statements as watermark_statements
from service.watermarks import usecases as watermarks
from watermark.nonces import AUDITOR, nonce_commitment


class VerificationHasEnded(Conflict):
    """A verification that succeeded or failed stays so."""

    code = "verification_already_ended"


class NotAwaited(Conflict):
    """No nonce is due."""

    code = "nonce_not_awaited"


class WrongNonce(InvalidRequest):
    """The nonce does not open its commitment."""

    code = "nonce_mismatch"


class NotPaused(Conflict):
    """There is nothing to continue."""

    code = "verification_not_paused"


class GrantEnded(Conflict):
    """Nothing more may be asked."""

    code = "grant_ended"


class NotFinished(Conflict):
    """There is no evidence yet, but there may be."""

    code = "verification_not_finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """One verification with what belongs to it."""

    verification: Verification
    preregistration: Preregistration
    evidence_sha256: str | None


async def get(session: AsyncSession, verification_id: str, *, organization_id: str | None) -> Audit:
    """One audit, for who asked it or owns its key; None sees all.

    Raises:
        NotFound: there is none, or it is neither's.
    """
    row = (await session.execute(statements.one(verification_id, organization_id=organization_id))).first()
    if row is None:
        raise NotFound(
            f"No such verification: {verification_id}",
            param="verification_id",
            code="verification_not_found",
        )
    return Audit(verification=row[0], preregistration=row[1], evidence_sha256=row[2])


async def get_asked(session: AsyncSession, verification_id: str, *, organization_id: str) -> Audit:
    """One audit, for who asked it; its key's owner may see and cancel it, but not carry it on.

    Raises:
        NotFound: there is none, or the caller may not see it.
        Forbidden: another organization asked it.
    """
    audit = await get(session, verification_id, organization_id=organization_id)
    if audit.verification.organization_id != organization_id:
        raise Forbidden(f"The verification {verification_id} is carried on by who asked for it.")
    return audit


async def page(
    session: AsyncSession, *, organization_id: str | None, after: str | None, limit: int
) -> list[Audit]:
    """Newest first, one more than ``limit``."""
    rows = await session.execute(statements.page(organization_id=organization_id, after=after, limit=limit))
    return [Audit(verification=row[0], preregistration=row[1], evidence_sha256=row[2]) for row in rows]


async def evidence(session: AsyncSession, audit: Audit) -> Evidence:
    """The finished record.

    Raises:
        NotFinished: the audit is queued or running.
        NotFound: it ended without a verdict, so there is none.
    """
    found = (await session.scalars(statements.evidence(audit.verification.id))).one_or_none()
    if found is not None:
        return found
    if VerificationStatus(audit.verification.status) not in TERMINAL:
        raise NotFinished(
            f"The verification {audit.verification.id} is {audit.verification.status}; ask again later."
        )
    raise NotFound(
        f"The verification {audit.verification.id} was {audit.verification.status} and has no evidence.",
        param="verification_id",
        code="evidence_not_found",
    )


def preregistration_record(audit: Audit) -> dict[str, Any]:
    """What was fixed before the first question, as a record."""
    return cast(dict[str, Any], json.loads(audit.preregistration.canonical_bytes))


async def owner_of(session: AsyncSession, audit: Audit) -> str:
    """The organization whose key was audited; its claimant may have another name."""
    return str(await session.scalar(watermark_statements.owner_of_any(audit.verification.key_id)))


async def families_left(session: AsyncSession, audit: Audit) -> int:
    """How many of the key's families no audit has asked about."""
    key = await session.get_one(WatermarkKey, audit.verification.key_id)
    used = await watermarks.families_used(session, [key])
    return max(0, shape_of(key).families - used.get(key.id, 0))


async def show_nonce(
    session: AsyncSession, audit: Audit, nonce: bytes, beacon: Mapping[str, str] | None
) -> Verification:
    """The auditor's nonce, to which it had committed; the audit can begin. The caller rings for it.

    Raises:
        WrongNonce: it is not the committed one.
        NotAwaited: the audit does not wait for a nonce.
    """
    committed = str(preregistration_record(audit)["nonces"][AUDITOR])
    row = audit.verification
    if not committed or (await session.execute(statements.nonce_shown(row.id))).first() is None:
        raise NotAwaited(f"The verification {row.id} does not wait for a nonce; it is {row.status}.")
    if not hmac.compare_digest(nonce_commitment(AUDITOR, nonce), committed):
        raise WrongNonce("This is not the nonce that was committed to.", param="nonce")
    session.add(
        NonceReveal(
            verification_id=row.id, auditor_nonce=nonce, beacon=None if beacon is None else dict(beacon)
        )
    )
    await session.flush()
    await session.refresh(row)
    return row


async def take_up(session: AsyncSession, verification: Verification, *, conclude: bool) -> Verification:
    """Continue a paused audit, or conclude it as it is. The caller rings for it.

    Raises:
        NotPaused: it is not.
        GrantEnded: it was asked under a grant that has been revoked or has expired.
    """
    if not conclude:
        await _check_grant_lives(session, verification)
    if (await session.execute(statements.take_up(verification.id, conclude=conclude))).first() is None:
        raise NotPaused(
            f"The verification {verification.id} is {verification.status}; only a paused one is taken up "
            "again. An audit never starts anew: pre-register another one."
        )
    await session.refresh(verification)
    return verification


async def _check_grant_lives(session: AsyncSession, verification: Verification) -> None:
    grant_id = verification.grant_id
    if grant_id is None or (await session.execute(statements.live_grant(grant_id))).first() is not None:
        return
    raise GrantEnded(
        f"The grant {grant_id} has ended, so nothing more may be asked under it; conclude the "
        "verification, or cancel it."
    )


async def looks(session: AsyncSession, audits: Sequence[Audit]) -> dict[str, list[VerificationLook]]:
    """For each sequential audit what it saw after each completed mark."""
    ids = [audit.verification.id for audit in audits if audit.verification.plan.get("mode") == "sequential"]
    seen: dict[str, list[VerificationLook]] = {}
    if ids:
        for look in await session.scalars(statements.looks_of(ids)):
            seen.setdefault(look.verification_id, []).append(look)
    return seen


async def cancel(session: AsyncSession, verification: Verification, actor: Actor) -> Verification:
    """Cancel or ask for it; asking twice is asking once. The audit's number stays spent.

    Raises:
        VerificationHasEnded: there is nothing left to cancel.
    """
    asked_for = verification_event(verification.id, Action.cancelled, actor)
    # A queued one may be claimed and a running one queued again between the two statements, hence twice.
    for _ in range(2):
        if (await session.execute(statements.cancel_waiting(verification.id))).first() is not None:
            await session.execute(statements.drop_secrets(verification.id))
            await session.execute(asked_for)
            await session.execute(finished(verification.id))
            break
        if (await session.execute(leases.request_cancel(Verification, verification.id))).first() is not None:
            await session.execute(asked_for)
            break
    await session.refresh(verification)
    if VerificationStatus(verification.status) in TERMINAL - {VerificationStatus.cancelled}:
        raise VerificationHasEnded(
            f"The verification {verification.id} has {verification.status}, so it can't be cancelled."
        )
    return verification
