"""/v1/verify and /v1/verifications: an audit's status is not its verdict, and a negative result is a 200."""

from __future__ import annotations

import asyncio
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field, JsonValue, SecretStr, StrictInt, StringConstraints
from starlette.responses import HTMLResponse, Response

from probe.adapters import Api
from service.api.dependencies import (
    AppSealer,
    AppSettings,
    CurrentPrincipal,
    DbSession,
    Doorbell,
    Principal,
    Role,
    require_role,
)
from service.api.pagination import DEFAULT_LIMIT, After, Limit
from service.api.pagination import page as list_object
from service.dispatch import TaskName
from service.verifications import create as creating
from service.verifications import usecases
from service.verifications.plans import PlanRequest
from service.verifications.report import render
from service.verifications.usecases import Audit

router = APIRouter(tags=["verifications"])

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

Text = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]
Count = Annotated[StrictInt, Field(ge=0, le=1_000_000)]


class Body(BaseModel):
    """Unknown fields are refused: a misspelt limit must not be ignored in an audit."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SuspectBody(Body):
    """Whom to ask."""

    base_url: Annotated[str, StringConstraints(min_length=1, max_length=2048)]
    model: Text
    api_key: Annotated[SecretStr, Field(min_length=1, max_length=4096)] | None = None
    api: Api = Api.chat
    template: dict[str, JsonValue] | None = None
    """For the api "template"; docs/suspects.md says what it may hold."""

    def to_request(self) -> creating.SuspectRequest:
        """As the domain knows it."""
        return creating.SuspectRequest(
            base_url=self.base_url,
            model=self.model,
            api=self.api,
            template=self.template,
            api_key=None if self.api_key is None else self.api_key.get_secret_value(),
        )


class PlanBody(Body):
    """How to ask; every field has a default. `marks` is a count or a list of mark numbers."""

    family: Count | None = None
    marks: Count | Annotated[list[Count], Field(min_length=1, max_length=64)] | None = None
    probes_per_cue: Count = 2
    alpha: Annotated[str, StringConstraints(max_length=64)] = "1e-6"
    temperature: Annotated[Decimal, Field(ge=0, le=2, max_digits=6, decimal_places=4)] = Decimal(0)
    max_tokens: Count = 8
    concurrency: Count = 8
    probe_timeout_seconds: Count = 30
    total_timeout_seconds: Count = 900
    retries: Count = 1

    def to_request(self) -> PlanRequest:
        """As the domain knows it."""
        values = self.model_dump()
        if isinstance(self.marks, list):
            values["marks"] = tuple(self.marks)
        return PlanRequest(**values)


class VerifyBody(Body):
    """The body of POST /v1/verify."""

    watermark: Text
    suspect: SuspectBody
    plan: PlanBody = PlanBody()

    def to_request(self) -> creating.VerificationRequest:
        """As the domain knows it."""
        return creating.VerificationRequest(
            watermark=self.watermark,
            suspect=self.suspect.to_request(),
            plan=self.plan.to_request(),
        )


@router.post("/v1/verify")
@router.post("/verify", include_in_schema=False)
async def verify(
    body: VerifyBody,
    principal: OwnerOrAuditor,
    settings: AppSettings,
    session: DbSession,
    sealer: AppSealer,
    bells: Doorbell,
) -> dict[str, Any]:
    """Pre-register an audit and queue it. Needs the key's owner, or the owner's grant."""
    request = body.to_request()
    url = await creating.check_suspect(
        request.suspect, settings.suspect_allow_list, servers=settings.dns_server_list
    )
    verification, preregistration = await creating.create(
        session, sealer, organization_id=principal.organization_id, request=request, url=url
    )
    bells.ring(TaskName.verify_run, verification.id)
    audit = Audit(verification=verification, preregistration=preregistration, evidence_sha256=None)
    return _wire(audit, principal)


@router.get("/v1/verifications")
async def list_verifications(
    principal: Reader, session: DbSession, after: After = None, limit: Limit = DEFAULT_LIMIT
) -> dict[str, Any]:
    """Newest first: the caller's, those of its keys, and for the provider everybody's."""
    audits = await usecases.page(session, organization_id=_scope(principal), after=after, limit=limit)
    return list_object(audits, limit, lambda audit: _wire(audit, principal))


@router.get("/v1/verifications/{verification_id}")
async def retrieve_verification(
    verification_id: str, principal: Reader, session: DbSession
) -> dict[str, Any]:
    """One verification."""
    return _wire(await usecases.get(session, verification_id, organization_id=_scope(principal)), principal)


@router.post("/v1/verifications/{verification_id}/cancel")
async def cancel_verification(verification_id: str, principal: Reader, session: DbSession) -> dict[str, Any]:
    """Stop an audit that has not ended. Its number stays spent."""
    audit = await usecases.get(session, verification_id, organization_id=_scope(principal))
    await usecases.cancel(session, audit.verification)
    return _wire(audit, principal)


@router.get("/v1/verifications/{verification_id}/evidence", response_class=Response)
async def download_evidence(verification_id: str, principal: OwnerOrAuditor, session: DbSession) -> Response:
    """The exact bytes; `doublei evidence check FILE` re-decides from them alone."""
    audit = await usecases.get(session, verification_id, organization_id=principal.organization_id)
    evidence = await usecases.evidence(session, audit)
    return Response(
        evidence.canonical_bytes,
        media_type="application/json",
        headers={
            "content-disposition": f'attachment; filename="evidence-{verification_id}.json"',
            "etag": f'"{evidence.sha256}"',
            "cache-control": "no-store",
        },
    )


@router.get("/v1/verifications/{verification_id}/report", response_class=HTMLResponse)
async def show_report(verification_id: str, principal: OwnerOrAuditor, session: DbSession) -> HTMLResponse:
    """The evidence as a page to read."""
    audit = await usecases.get(session, verification_id, organization_id=principal.organization_id)
    evidence = await usecases.evidence(session, audit)
    left = await usecases.families_left(session, audit)
    page = await asyncio.to_thread(
        render, evidence.canonical_bytes, sha256=evidence.sha256, families_left=left
    )
    return HTMLResponse(page, headers=REPORT_HEADERS)


def _scope(principal: Principal) -> str | None:
    """The provider sees every organization's, with less of each."""
    return None if principal.role is Role.provider else principal.organization_id


def _wire(audit: Audit, principal: CurrentPrincipal) -> dict[str, Any]:
    """The verification object. The provider's operator gets neither figures nor evidence."""
    row = audit.verification
    parties = principal.role is not Role.provider
    return {
        "id": row.id,
        "object": "verification",
        "created_at": _seconds(row.created_at),
        "started_at": _seconds(row.started_at),
        "finished_at": _seconds(row.finished_at),
        "organization_id": row.organization_id,
        "watermark": row.key_id,
        "suspect": row.suspect,
        "plan": row.plan,
        "status": row.status,
        "progress": row.progress or {"asked": 0, "total": row.plan["questions"]},
        "verdict": row.verdict,
        "reasons": row.reasons,
        "result": row.result if parties else None,
        "evidence_sha256": audit.evidence_sha256 if parties else None,
        "preregistration": _preregistration_wire(audit),
        "error": row.error,
        "attempt": row.attempt,
        "cancel_requested": row.cancel_requested,
    }


def _preregistration_wire(audit: Audit) -> dict[str, Any]:
    record = usecases.preregistration_record(audit)
    return {
        "sha256": audit.preregistration.sha256,
        "registered_at": _seconds(audit.preregistration.created_at),
        "audit_index": audit.preregistration.audit_index,
        "alpha": record["plan"]["alpha"],
        "alpha_i": record["plan"]["alpha_i"],
        "rule": record["rule"]["version"],
    }


def _seconds(time: datetime | None) -> int | None:
    return None if time is None else int(time.timestamp())
