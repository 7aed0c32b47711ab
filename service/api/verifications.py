"""/v1/verify and /v1/verifications: an audit's status is not its verdict, and a negative result is a 200."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import HTMLResponse, Response

from service.api.dependencies import (
    AppSealer,
    AppSessions,
    AppSettings,
    AppSigners,
    DbSession,
    Doorbell,
    Principal,
    Role,
    actor_of,
    require_role,
)
from service.api.idempotency import DeedRoute
from service.api.pagination import DEFAULT_LIMIT, After, Limit
from service.api.pagination import page as list_object
from service.api.suspects import Judged, judge
from service.api.verification_bodies import NonceBody, VerifyBody
from service.api.verification_wire import verification_object
from service.dispatch import TaskName
from service.log.usecases import enter, entered
from service.trail.usecases import Action, provider_read, verification_event
from service.verifications import usecases
from service.verifications.bundles import bundled, published
from service.verifications.register import deed_of, next_audit, register
from service.verifications.report import render, render_pdf
from service.verifications.usecases import Audit
from service.watermarks.refusals import noted

router = APIRouter(tags=["verifications"], route_class=DeedRoute)

OwnerOrAuditor = Annotated[Principal, Depends(require_role(Role.owner, Role.auditor))]
Reader = Annotated[Principal, Depends(require_role(Role.owner, Role.auditor, Role.provider))]

REPORT_HEADERS = {
    # nothing a suspect answered can load, run or frame anything, should escaping ever fail
    "content-security-policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


async def _judged(body: VerifyBody, _: OwnerOrAuditor, settings: AppSettings) -> Judged:
    return await judge([body.suspect], settings)


JudgedSuspect = Annotated[Judged, Depends(_judged)]


@router.post("/v1/verify")
@router.post("/verify", include_in_schema=False)
async def verify(
    body: VerifyBody,
    principal: OwnerOrAuditor,
    judged: JudgedSuspect,  # before the session: see service.api.suspects
    sessions: AppSessions,
    session: DbSession,
    sealer: AppSealer,
    bells: Doorbell,
) -> dict[str, Any]:
    """Pre-register an audit and queue it. Needs the key's owner, or the owner's grant."""
    (target,) = judged.targets()
    actor, hosts = actor_of(principal), [target.url.host_port]
    async with noted(sessions, actor=actor, watermark=body.watermark, suspect_hosts=hosts):
        audit = await next_audit(session, body.watermark, organization_id=principal.organization_id)
        verification, preregistration = await register(
            session,
            sealer,
            audit,
            target,
            body.plan.to_request(),
            auditor_commitment=body.auditor_nonce_commitment or "",
            opening=body.opening,
        )
    registered = {"audit_index": preregistration.audit_index}
    await session.execute(verification_event(verification.id, Action.preregistered, actor, registered))
    await enter(session, deed_of(preregistration))
    if body.auditor_nonce_commitment is None:
        bells.ring(TaskName.verify_run, verification.id)
    return verification_object(
        Audit(verification=verification, preregistration=preregistration, evidence_sha256=None), principal
    )


@router.get("/v1/verifications")
async def list_verifications(
    principal: Reader, session: DbSession, after: After = None, limit: Limit = DEFAULT_LIMIT
) -> dict[str, Any]:
    """Newest first: the caller's, those of its keys, and for the provider everybody's."""
    audits = await usecases.page(session, organization_id=_scope(principal), after=after, limit=limit)
    seen = await usecases.looks(session, audits)
    return list_object(
        audits,
        limit,
        lambda audit: verification_object(audit, principal, seen.get(audit.verification.id, ())),
    )


@router.get("/v1/verifications/{verification_id}")
async def retrieve_verification(
    verification_id: str, principal: Reader, session: DbSession
) -> dict[str, Any]:
    """One verification. The owner's trail says that the provider's operator looked."""
    audit = await usecases.get(session, verification_id, organization_id=_scope(principal))
    if principal.role is Role.provider:
        await session.execute(provider_read(verification_id, actor_of(principal)))
    shown = await _shown(session, audit, principal)
    return shown | {"log": await entered(session, verification_id)}


@router.post("/v1/verifications/{verification_id}/cancel")
async def cancel_verification(verification_id: str, principal: Reader, session: DbSession) -> dict[str, Any]:
    """Stop an audit that has not ended. Its number stays spent."""
    audit = await usecases.get(session, verification_id, organization_id=_scope(principal))
    await usecases.cancel(session, audit.verification, actor_of(principal))
    return await _shown(session, audit, principal)


@router.post("/v1/verifications/{verification_id}/nonce")
async def show_nonce(
    verification_id: str, body: NonceBody, principal: OwnerOrAuditor, session: DbSession, bells: Doorbell
) -> dict[str, Any]:
    """Show the nonce that was committed to, and with it, if wanted, a beacon; the audit is queued."""
    audit = await usecases.get_asked(session, verification_id, organization_id=principal.organization_id)
    beacon = None if body.beacon is None else body.beacon.model_dump()
    await usecases.show_nonce(session, audit, bytes.fromhex(body.nonce), beacon)
    await session.execute(verification_event(verification_id, Action.nonce_revealed, actor_of(principal)))
    bells.ring(TaskName.verify_run, verification_id)
    return await _shown(session, audit, principal)


@router.post("/v1/verifications/{verification_id}/continue")
async def continue_verification(
    verification_id: str, principal: OwnerOrAuditor, session: DbSession, bells: Doorbell
) -> dict[str, Any]:
    """Take a paused audit up where it stopped. What was sent is not sent again."""
    audit = await usecases.get_asked(session, verification_id, organization_id=principal.organization_id)
    await usecases.take_up(session, audit.verification, conclude=False)
    await session.execute(verification_event(verification_id, Action.continued, actor_of(principal)))
    bells.ring(TaskName.verify_run, verification_id)
    return await _shown(session, audit, principal)


@router.post("/v1/verifications/{verification_id}/conclude")
async def conclude_verification(
    verification_id: str, principal: OwnerOrAuditor, session: DbSession, bells: Doorbell
) -> dict[str, Any]:
    """End a paused audit as it is, with evidence of what was asked."""
    audit = await usecases.get_asked(session, verification_id, organization_id=principal.organization_id)
    await usecases.take_up(session, audit.verification, conclude=True)
    await session.execute(verification_event(verification_id, Action.concluded, actor_of(principal)))
    bells.ring(TaskName.verify_run, verification_id)
    return await _shown(session, audit, principal)


@router.get("/v1/verifications/{verification_id}/evidence", response_class=Response)
async def download_evidence(verification_id: str, principal: OwnerOrAuditor, session: DbSession) -> Response:
    """The exact bytes; `doublei evidence check FILE` re-decides from them alone."""
    audit = await usecases.get(session, verification_id, organization_id=principal.organization_id)
    evidence = await usecases.evidence(session, audit)
    await session.execute(verification_event(verification_id, Action.evidence_read, actor_of(principal)))
    return Response(
        evidence.canonical_bytes,
        media_type="application/json",
        headers={
            "content-disposition": f'attachment; filename="evidence-{verification_id}.json"',
            "etag": f'"{evidence.sha256}"',
            "cache-control": "no-store",
        },
    )


@router.get("/v1/verifications/{verification_id}/bundle", response_class=Response)
async def download_bundle(
    verification_id: str,
    principal: OwnerOrAuditor,
    session: DbSession,
    settings: AppSettings,
    signers: AppSigners,
) -> Response:
    """The evidence with its log proofs and timestamps, signed: a zip that a stranger checks alone."""
    audit = await usecases.get(session, verification_id, organization_id=principal.organization_id)
    evidence = await usecases.evidence(session, audit)
    found = await published(session, audit, signers, authority=settings.tsa_url)
    await session.execute(verification_event(verification_id, Action.evidence_read, actor_of(principal)))
    bundle = await asyncio.to_thread(bundled, evidence.canonical_bytes, found, settings.evidence_signer)
    return Response(
        bundle,
        media_type="application/zip",
        headers={
            "content-disposition": f'attachment; filename="evidence-{verification_id}.zip"',
            "etag": f'"{sha256(bundle).hexdigest()}"',
            "cache-control": "no-store",
        },
    )


@router.get("/v1/verifications/{verification_id}/report", response_class=HTMLResponse)
async def show_report(verification_id: str, principal: OwnerOrAuditor, session: DbSession) -> HTMLResponse:
    """The evidence as a page to read."""
    audit = await usecases.get(session, verification_id, organization_id=principal.organization_id)
    evidence = await usecases.evidence(session, audit)
    left = await usecases.families_left(session, audit)
    await session.execute(verification_event(verification_id, Action.report_read, actor_of(principal)))
    page = await asyncio.to_thread(
        render, evidence.canonical_bytes, sha256=evidence.sha256, families_left=left
    )
    return HTMLResponse(page, headers=REPORT_HEADERS)


@router.get("/v1/verifications/{verification_id}/report.pdf", response_class=Response)
async def download_report(verification_id: str, principal: OwnerOrAuditor, session: DbSession) -> Response:
    """The same report to print and to file: PDF/A, the same bytes as long as no further family is asked."""
    audit = await usecases.get(session, verification_id, organization_id=principal.organization_id)
    evidence = await usecases.evidence(session, audit)
    left = await usecases.families_left(session, audit)
    await session.execute(verification_event(verification_id, Action.report_read, actor_of(principal)))
    document = await asyncio.to_thread(
        render_pdf, evidence.canonical_bytes, sha256=evidence.sha256, families_left=left
    )
    return Response(
        document,
        media_type="application/pdf",
        headers={
            "content-disposition": f'inline; filename="report-{verification_id}.pdf"',
            "x-content-type-options": "nosniff",
            "cache-control": "no-store",
        },
    )


def _scope(principal: Principal) -> str | None:
    """The provider sees every organization's, with less of each."""
    return None if principal.role is Role.provider else principal.organization_id


async def _shown(session: AsyncSession, audit: Audit, principal: Principal) -> dict[str, Any]:
    seen = await usecases.looks(session, [audit])
    return verification_object(audit, principal, seen.get(audit.verification.id, ()))
