"""Pre-register an audit: who may, under which number, and what is fixed before the first question."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from evidence.document import preregistration_digest
from evidence.plan import Asking, Campaign, Parties, Suspect, preregistration_text
from probe.address import SuspectUrl
from service.db.models import Preregistration, Verification, WatermarkKey
from service.errors import InvalidRequest, NotFound
from service.ids import new_id
from service.log import deeds
from service.log.deeds import Deed
from service.sealing import Sealer
from service.verifications import openings, statements
from service.verifications.lifecycle import VerificationStatus
from service.verifications.plans import PlanRequest, Shape, asking_of, plan_of, question_count, shape_of
from service.verifications.suspects import CREDENTIAL_PURPOSE, SuspectRequest
from service.watermarks import statements as watermark_statements
from service.watermarks.refusals import GrantDoesNotCover
from watermark.errors import PlanError
from watermark.nonces import AUDITOR, NONCE_BYTES, SERVICE, nonce_commitment
from watermark.replay import Plan


class PlanCannotReachAlpha(InvalidRequest):
    """Whatever the answers, this plan could not be significant."""

    code = "plan_cannot_reach_alpha"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A suspect whose address was judged."""

    suspect: SuspectRequest
    url: SuspectUrl


@dataclass(frozen=True, slots=True, kw_only=True)
class NextAudit:
    """A key held for its next audit: its row is locked, so that numbers come one after the other."""

    key: WatermarkKey
    audit_index: int
    owner_commitments: int
    auditor: str
    """the organization that asks"""

    @property
    def shape(self) -> Shape:
        """The key's public shape."""
        return shape_of(self.key)


async def next_audit(session: AsyncSession, key_id: str, *, organization_id: str) -> NextAudit:
    """Lock the key and take its next number.

    Raises:
        NotFound: the key is neither the caller's own nor under a live grant to it.
    """
    key = (await session.scalars(statements.key_for_audit(key_id, organization_id))).one_or_none()
    if key is None:
        raise NotFound(f"No such watermark: {key_id}", param="watermark", code="watermark_not_found")
    # after the row, always: the key may have been here under another id, with audits of its own
    await session.execute(watermark_statements.hold_commitment(key.organization_id, key.commitment))
    last = (await session.execute(statements.audits_so_far(key.id))).scalar_one()
    commitments = (await session.execute(statements.commitments_of(key.organization_id))).scalar_one()
    return NextAudit(key=key, audit_index=last + 1, owner_commitments=commitments, auditor=organization_id)


async def register(
    session: AsyncSession,
    sealer: Sealer,
    audit: NextAudit,
    target: Target,
    request: PlanRequest,
    *,
    auditor_commitment: str = "",
    campaign: Campaign | None = None,
    opening: Mapping[str, object] | None = None,
) -> tuple[Verification, Preregistration]:
    """Write the audit and its pre-registration; queued, or waiting for the auditor's nonce. The caller enters
    it into the log (`deed_of`), once it has registered all that it registers: who appends waits for nothing
    else.

    Raises:
        NotFound: the key has no such family, or no live grant covers this host and so many questions.
        InvalidPlan, PlanCannotReachAlpha, WrongOpening: see there.
    """
    key, shape = audit.key, audit.shape
    asking = asking_of(request)
    plan = plan_of(
        request,
        shape,
        grade=key.grade,
        audit_index=audit.audit_index,
        campaign_size=1 if campaign is None else campaign.size,
    )
    openings.check(key, opening, plan.family)
    verification_id, nonce = new_id("verif"), secrets.token_bytes(NONCE_BYTES)
    suspect = target.suspect.checked(target.url)
    nonces = {SERVICE: nonce_commitment(SERVICE, nonce), AUDITOR: auditor_commitment}
    text = _text(audit, verification_id, suspect, asking, plan, nonces, campaign)
    count = question_count(plan, shape, key.grade)
    api_key = target.suspect.api_key
    verification = Verification(
        id=verification_id,
        organization_id=audit.auditor,
        key_id=key.id,
        grant_id=await _reserve(session, audit, target.url, count),
        status=VerificationStatus.awaiting_nonce if auditor_commitment else VerificationStatus.queued,
        suspect=suspect.to_record(),
        sealed_credential=_sealed(sealer, api_key, audit.auditor, verification_id),
        sealed_opening=openings.seal(sealer, opening, owner_id=key.organization_id, audit_id=verification_id),
        plan=_plan_wire(plan, asking, count),
        progress={"asked": 0, "total": count},
        campaign_id=None if campaign is None else campaign.id,
    )
    session.add(verification)
    await session.flush()
    preregistration = Preregistration(
        verification_id=verification_id,
        key_id=key.id,
        audit_index=audit.audit_index,
        campaign_position=0 if campaign is None else campaign.position,
        service_nonce=nonce,
        canonical_bytes=text.encode(),
        sha256=preregistration_digest(text),
    )
    session.add(preregistration)
    await session.flush()
    await session.refresh(verification)
    await session.refresh(preregistration)
    return verification, preregistration


def deed_of(preregistration: Preregistration) -> Deed:
    """What the log gets, in the transaction that wrote it."""
    return deeds.preregistration(preregistration.verification_id, preregistration.sha256)


def _text(
    audit: NextAudit,
    verification_id: str,
    suspect: Suspect,
    asking: Asking,
    plan: Plan,
    nonces: Mapping[str, str],
    campaign: Campaign | None,
) -> str:
    key, shape = audit.key, audit.shape
    parties = Parties(
        verification=verification_id,
        claimant=key.claimant,
        auditor=audit.auditor,
        key_id=key.id,
        commitment=key.commitment,
        grade=key.grade,
        audit_index=audit.audit_index,
        owner_commitments=audit.owner_commitments,
    )
    try:
        return preregistration_text(
            parties,
            suspect,
            asking,
            plan,
            nonces=nonces,
            cues=shape.cues,
            available_marks=shape.marks,
            campaign=campaign,
        )
    except PlanError as error:
        raise PlanCannotReachAlpha(f"{error.message}.", param="plan.marks") from None


async def _reserve(session: AsyncSession, audit: NextAudit, url: SuspectUrl, count: int) -> str | None:
    """The grant that pays for the questions; None for the key's owner."""
    key = audit.key
    if key.organization_id == audit.auditor:
        return None
    reserved = await session.execute(
        statements.reserve(key.id, audit.auditor, host_port=url.host_port, questions=count)
    )
    grant_id: str | None = reserved.scalar_one_or_none()
    if grant_id is None:
        raise GrantDoesNotCover(
            f"No live grant of yours for {key.id} covers {count} questions to {url.host_port}.",
            host_port=url.host_port,
            questions=count,
        )
    return grant_id


def _sealed(sealer: Sealer, api_key: str | None, owner: str, subject: str) -> bytes | None:
    if api_key is None:
        return None
    return sealer.seal(api_key.encode("ascii"), purpose=CREDENTIAL_PURPOSE, owner=owner, subject=subject)


def _plan_wire(plan: Plan, asking: Asking, count: int) -> dict[str, object]:
    """What the row and the API show of the plan; the pre-registration is the record."""
    return {
        "family": plan.family,
        "marks": list(plan.marks),
        "probes_per_cue": plan.probes_per_cue,
        "mode": plan.mode,
        "canaries": plan.canaries,
        "questions": count,
        "alpha": f"{plan.alpha.numerator}/{plan.alpha.denominator}",
        "temperature": asking.temperature,
        "max_tokens": asking.max_tokens,
        "concurrency": asking.concurrency,
        "probe_timeout_seconds": asking.probe_timeout_seconds,
        "total_timeout_seconds": asking.total_timeout_seconds,
        "retries": asking.retries,
    }
