"""Reading and cancelling verifications."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy.ext.asyncio import AsyncSession

from service import leases
from service.db.models import Evidence, Preregistration, Verification, WatermarkKey
from service.errors import Conflict, NotFound
from service.verifications import statements
from service.verifications.lifecycle import TERMINAL, VerificationStatus
from service.verifications.plans import Shape
from service.watermarks import usecases as watermarks


class VerificationHasEnded(Conflict):
    """A verification that succeeded or failed stays so."""

    code = "verification_already_ended"


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


async def families_left(session: AsyncSession, audit: Audit) -> int:
    """How many of the key's families no audit has asked about."""
    key = await session.get_one(WatermarkKey, audit.verification.key_id)
    used = await watermarks.families_used(session, [key])
    return max(0, Shape.of(key).families - used.get(key.id, 0))


async def cancel(session: AsyncSession, verification: Verification) -> Verification:
    """Cancel or ask for it; asking twice is asking once. The audit's number stays spent.

    Raises:
        VerificationHasEnded: there is nothing left to cancel.
    """
    # A queued one may be claimed and a running one queued again between the two statements, hence twice.
    for _ in range(2):
        if (await session.execute(leases.cancel_queued(Verification, verification.id))).first() is not None:
            await session.execute(statements.drop_credential(verification.id))
            break
        if (await session.execute(leases.request_cancel(Verification, verification.id))).first() is not None:
            break
    await session.refresh(verification)
    if VerificationStatus(verification.status) in TERMINAL - {VerificationStatus.cancelled}:
        raise VerificationHasEnded(
            f"The verification {verification.id} has {verification.status}, so it can't be cancelled."
        )
    return verification
