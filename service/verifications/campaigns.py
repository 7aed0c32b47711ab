"""Several suspects under one number of a key, decided together by Holm's rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from sqlalchemy.ext.asyncio import AsyncSession

from evidence.plan import Campaign as CampaignRecord
from service.db.models import Campaign
from service.errors import InvalidRequest, NotFound
from service.ids import new_id
from service.log.usecases import enter
from service.sealing import Sealer
from service.verifications import statements
from service.verifications.lifecycle import TERMINAL, VerificationStatus
from service.verifications.plans import PlanRequest, alpha_of
from service.verifications.register import Target, deed_of, next_audit, register
from service.verifications.usecases import Audit
from watermark.campaign import holm
from watermark.numerals import decimal_text, fraction_text, parse_fraction
from watermark.significance import alpha_for_audit

MAX_SUSPECTS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignView:
    """A campaign with its audits, in their order."""

    campaign: Campaign
    audits: tuple[Audit, ...]

    @property
    def ended(self) -> bool:
        """Whether no member can change any more."""
        return all(VerificationStatus(audit.verification.status) in TERMINAL for audit in self.audits)

    def holm_record(self) -> list[dict[str, object]] | None:
        """Holm's steps once all members have ended. One without a decisive result counts as p = 1."""
        if not self.ended:
            return None
        p_values = [_p_value(audit) for audit in self.audits]
        alpha_i = parse_fraction(self.campaign.alpha_i, "alpha_i")
        return [
            {
                "verification": self.audits[step.member].verification.id,
                "p_value": decimal_text(step.p_value),
                "threshold": decimal_text(step.threshold),
                "detected": step.detected,
            }
            for step in holm(p_values, alpha_i)
        ]


async def create(
    session: AsyncSession,
    sealer: Sealer,
    *,
    organization_id: str,
    watermark: str,
    targets: Sequence[Target],
    plan: PlanRequest,
    opening: Mapping[str, object] | None = None,
) -> CampaignView:
    """Pre-register an audit of each suspect, all or none. The caller rings for each after the commit.

    Raises:
        InvalidRequest: no suspects, too many, or one twice.
        NotFound, InvalidPlan, PlanCannotReachAlpha, WrongOpening: as for a single audit.
    """
    if not 1 <= len(targets) <= MAX_SUSPECTS:
        raise InvalidRequest(f"a campaign has 1 to {MAX_SUSPECTS} suspects", param="suspects")
    named = [(str(target.url), target.suspect.model) for target in targets]
    for place, suspect in enumerate(named):
        if suspect in named[:place]:
            raise InvalidRequest("this suspect is in the campaign already", param=f"suspects[{place}]")
    audit = await next_audit(session, watermark, organization_id=organization_id)
    campaign_id = new_id("camp")
    campaign = Campaign(
        id=campaign_id,
        organization_id=organization_id,
        key_id=audit.key.id,
        audit_index=audit.audit_index,
        size=len(targets),
        alpha_i=fraction_text(alpha_for_audit(alpha_of(plan.alpha), audit.audit_index, audit.key.grade)),
    )
    session.add(campaign)
    await session.flush()
    audits = []
    for position, target in enumerate(targets):
        record = CampaignRecord(id=campaign_id, position=position, size=len(targets))
        verification, preregistration = await register(
            session, sealer, audit, target, plan, campaign=record, opening=opening
        )
        audits.append(Audit(verification=verification, preregistration=preregistration, evidence_sha256=None))
    await session.refresh(campaign)
    await enter(session, *(deed_of(audit.preregistration) for audit in audits))
    return CampaignView(campaign=campaign, audits=tuple(audits))


async def get(session: AsyncSession, campaign_id: str, *, organization_id: str | None) -> CampaignView:
    """One campaign, for who asked for it or owns its key; None sees all.

    Raises:
        NotFound: there is none, or it is neither's.
    """
    found = (
        await session.scalars(statements.campaign(campaign_id, organization_id=organization_id))
    ).one_or_none()
    if found is None:
        raise NotFound(f"No such campaign: {campaign_id}", param="campaign_id", code="campaign_not_found")
    rows = await session.execute(statements.members(campaign_id))
    audits = [Audit(verification=row[0], preregistration=row[1], evidence_sha256=row[2]) for row in rows]
    return CampaignView(campaign=found, audits=tuple(audits))


def _p_value(audit: Audit) -> Fraction:
    row = audit.verification
    if row.status != VerificationStatus.succeeded or row.verdict == "inconclusive" or row.result is None:
        return Fraction(1)
    return parse_fraction(row.result["p_value"], "p_value")
