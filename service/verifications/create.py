"""Pre-register an audit: who may, whom, what, and how; fixed in one transaction before the first question."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from evidence.document import preregistration_digest
from evidence.plan import Asking, Parties, Suspect, preregistration_text
from probe.adapters import Api
from probe.address import HostPort, SuspectUrl, parse_suspect_url, resolve_and_vet
from probe.credential import Credential
from probe.errors import AddressNotAllowed, NameNotResolved, SuspectUrlError
from probe.resolving import DnsServer
from probe.template import Template, TemplateError, parse_template
from service.db.models import Preregistration, Verification, WatermarkKey
from service.errors import InvalidRequest, NotFound
from service.ids import new_id
from service.sealing import Sealer
from service.verifications import statements
from service.verifications.lifecycle import VerificationStatus
from service.verifications.plans import PlanRequest, Shape, asking_of, plan_of, question_count
from watermark.errors import PlanError
from watermark.replay import Plan

CREDENTIAL_PURPOSE = "suspect-credential"
ORDER_SEED_BYTES = 16
RESOLVE_SECONDS = 2.0


class SuspectNotAllowed(InvalidRequest):
    """The suspect's URL is malformed, or leads where nothing may be sent."""

    code = "suspect_not_allowed"


class PlanCannotReachAlpha(InvalidRequest):
    """Whatever the answers, this plan could not be significant."""

    code = "plan_cannot_reach_alpha"


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspectRequest:
    """Whom to ask. ``api_key`` never leaves this object but sealed."""

    base_url: str
    model: str
    api: Api
    template: Mapping[str, Any] | None = None
    api_key: str | None = field(default=None, repr=False)

    def checked(self, url: SuspectUrl) -> Suspect:
        """As it will stand in the record.

        Raises:
            InvalidRequest: the template is none, or not for this api.
        """
        return Suspect(base_url=str(url), model=self.model, api=self.api, template=self._template())

    def _template(self) -> Template | None:
        if (self.template is not None) != (self.api is Api.template):
            raise InvalidRequest(
                'A template goes with the api "template", and only with it.', param="suspect.template"
            )
        if self.template is None:
            return None
        try:
            template = parse_template(self.template)
        except TemplateError as error:
            raise InvalidRequest(
                f"The template's {error}.",
                param=f"suspect.template.{error.field}".rstrip("."),
                code="invalid_template",
            ) from None
        if template.needs_credential and self.api_key is None:
            raise InvalidRequest(
                "The template has a place for a credential, and none was given.", param="suspect.api_key"
            )
        return template


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationRequest:
    """A request whose shape has been checked; what it names has not."""

    watermark: str
    suspect: SuspectRequest
    plan: PlanRequest


async def check_suspect(
    request: SuspectRequest, allow: Collection[HostPort], *, servers: Sequence[DnsServer] = ()
) -> SuspectUrl:
    """Parse the URL and judge the addresses it has now. The worker does both again before it connects.

    A name that does not resolve passes: the audit will then say so.

    Raises:
        SuspectNotAllowed: see the class.
        InvalidRequest: the credential can't travel in a header; the template is none.
    """
    try:
        url = parse_suspect_url(request.base_url)
        await resolve_and_vet(url, allow, timeout_seconds=RESOLVE_SECONDS, servers=servers)
    except NameNotResolved:
        pass
    except (SuspectUrlError, AddressNotAllowed) as error:
        raise SuspectNotAllowed(
            f"This suspect can't be asked: {error}. An operator can list host:port in DOUBLEI_SUSPECT_ALLOW.",
            param="suspect.base_url",
        ) from None
    request.checked(url)
    if request.api_key is not None:
        try:
            Credential(request.api_key)
        except ValueError as error:
            raise InvalidRequest(str(error), param="suspect.api_key", code="invalid_credential") from None
    return url


async def create(
    session: AsyncSession,
    sealer: Sealer,
    *,
    organization_id: str,
    request: VerificationRequest,
    url: SuspectUrl,
) -> tuple[Verification, Preregistration]:
    """Write the queued audit and its pre-registration. The caller rings the doorbell after the commit.

    Args:
        url: from `check_suspect`.

    Raises:
        NotFound: the key is neither the caller's nor covered by a live grant to it for this host and so
            many questions; or it has no such family.
        InvalidPlan, PlanCannotReachAlpha: see there.
    """
    asking = asking_of(request.plan)
    key = (await session.scalars(statements.key_for_audit(request.watermark, organization_id))).one_or_none()
    if key is None:
        raise NotFound(
            f"No such watermark: {request.watermark}", param="watermark", code="watermark_not_found"
        )
    shape = Shape.of(key)
    audit_index = 1 + (await session.execute(statements.audits_so_far(key.id))).scalar_one()
    plan = plan_of(
        request.plan,
        shape,
        grade=key.grade,
        audit_index=audit_index,
        order_seed=secrets.token_bytes(ORDER_SEED_BYTES),
    )
    verification_id = new_id("verif")
    parties = Parties(
        verification=verification_id,
        claimant=key.organization_id,
        auditor=organization_id,
        key_id=key.id,
        commitment=key.commitment,
        grade=key.grade,
        audit_index=audit_index,
    )
    suspect = request.suspect.checked(url)
    text = _preregistration(parties, suspect, asking, plan, shape)
    count = question_count(plan, shape, key.grade)
    grant_id = await _reserve(session, key, organization_id, url, count)
    verification = Verification(
        id=verification_id,
        organization_id=organization_id,
        key_id=key.id,
        grant_id=grant_id,
        status=VerificationStatus.queued,
        suspect=suspect.to_record(),
        sealed_credential=_sealed(sealer, request.suspect.api_key, organization_id, verification_id),
        plan=_plan_wire(plan, asking, count),
        progress={"asked": 0, "total": count},
    )
    session.add(verification)
    await session.flush()
    preregistration = Preregistration(
        verification_id=verification_id,
        key_id=key.id,
        audit_index=audit_index,
        canonical_bytes=text.encode(),
        sha256=preregistration_digest(text),
    )
    session.add(preregistration)
    await session.flush()
    await session.refresh(verification)
    await session.refresh(preregistration)
    return verification, preregistration


def _preregistration(parties: Parties, suspect: Suspect, asking: Asking, plan: Plan, shape: Shape) -> str:
    try:
        return preregistration_text(
            parties, suspect, asking, plan, cues=shape.cues, available_marks=shape.marks
        )
    except PlanError as error:
        raise PlanCannotReachAlpha(f"{error.message}.", param="plan.marks") from None


async def _reserve(
    session: AsyncSession, key: WatermarkKey, organization_id: str, url: SuspectUrl, count: int
) -> str | None:
    """The grant that pays for the questions; None for the key's owner."""
    if key.organization_id == organization_id:
        return None
    reserved = await session.execute(
        statements.reserve(key.id, organization_id, host_port=url.host_port, questions=count)
    )
    grant_id: str | None = reserved.scalar_one_or_none()
    if grant_id is None:
        raise NotFound(
            f"No live grant of yours for {key.id} covers {count} questions to {url.host_port}.",
            param="watermark",
            code="grant_not_found",
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
        "questions": count,
        "alpha": f"{plan.alpha.numerator}/{plan.alpha.denominator}",
        "temperature": asking.temperature,
        "max_tokens": asking.max_tokens,
        "concurrency": asking.concurrency,
        "probe_timeout_seconds": asking.probe_timeout_seconds,
        "total_timeout_seconds": asking.total_timeout_seconds,
        "retries": asking.retries,
    }
