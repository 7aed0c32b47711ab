"""How a verification looks on the wire."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from service.accounts.principal import Principal, Role
from service.db.models import VerificationLook
from service.verifications import usecases
from service.verifications.usecases import Audit


def verification_object(
    audit: Audit, principal: Principal, looks: Sequence[VerificationLook] = ()
) -> dict[str, Any]:
    """The verification object. The provider's operator gets neither figures nor evidence, but how far a
    sequential audit is."""
    row = audit.verification
    parties = principal.role is not Role.provider
    return {
        "id": row.id,
        "object": "verification",
        "created_at": seconds(row.created_at),
        "started_at": seconds(row.started_at),
        "finished_at": seconds(row.finished_at),
        "organization_id": row.organization_id,
        "watermark": row.key_id,
        "suspect": row.suspect,
        "plan": row.plan,
        "mode": row.plan.get("mode", "fixed"),
        "status": row.status,
        "progress": row.progress or {"asked": 0, "total": row.plan["questions"]},
        "looks": [_look(look) for look in looks],
        "campaign": usecases.preregistration_record(audit).get("campaign"),
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
        "registered_at": seconds(audit.preregistration.created_at),
        "audit_index": audit.preregistration.audit_index,
        "alpha": record["plan"]["alpha"],
        "alpha_i": record["plan"]["alpha_i"],
        "rule": record["rule"]["version"],
        "owner_commitments": record["key"].get("owner_commitments"),
        "nonces": record.get("nonces"),
    }


def _look(look: VerificationLook) -> dict[str, Any]:
    return {
        "look": look.look,
        "mark": look.mark,
        "e_value": look.e_value,
        "product": look.product,
        "at": seconds(look.created_at),
    }


def seconds(time: datetime | None) -> int | None:
    """Unix time, as everywhere on this wire."""
    return None if time is None else int(time.timestamp())
