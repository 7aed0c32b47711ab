"""The pre-registration: everything about an audit that is fixed before its first question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evidence.audit import RESEARCH, reading_rules
from evidence.canonical import canonical_text
from evidence.document import PREREGISTRATION_FORMAT
from evidence.errors import MalformedEvidence
from probe.adapters import Api
from probe.plan import AUDIT_REPLY_BYTES, BODY_BYTES, GIVE_UP_AFTER, RETRY_FAILURES, AskPlan
from probe.template import Template, TemplateError, template_of_record
from watermark.replay import Plan, preregister


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """Who is asked. Never a credential."""

    base_url: str
    model: str
    api: Api
    template: Template | None = None

    def to_record(self) -> dict[str, object]:
        """As it stands in the pre-registration."""
        record: dict[str, object] = {"base_url": self.base_url, "model": self.model, "api": self.api.value}
        if self.template is not None:
            record["template"] = self.template.to_record()
        return record


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How it is asked. ``temperature`` is a decimal as text."""

    temperature: str
    max_tokens: int
    concurrency: int
    probe_timeout_seconds: int
    total_timeout_seconds: int
    retries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Parties:
    """Who claims, who asks, and under which numbers."""

    verification: str
    claimant: str
    auditor: str
    key_id: str
    commitment: str
    grade: str
    audit_index: int
    owner_commitments: int
    """how many keys the owner had committed to, this one included"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """The campaign an audit belongs to: ``size`` suspects share one number of the key."""

    id: str
    position: int
    size: int

    def to_record(self) -> dict[str, object]:
        """As it stands in the pre-registration."""
        return {"id": self.id, "position": self.position, "size": self.size}


def preregistration_text(
    parties: Parties,
    suspect: Suspect,
    asking: Asking,
    plan: Plan,
    *,
    nonces: Mapping[str, str],
    cues: int,
    available_marks: int,
    campaign: Campaign | None = None,
) -> str:
    """The canonical text to store before the first question.

    Args:
        nonces: the commitments of ``service`` and ``auditor`` (empty where it brought none).

    Raises:
        PlanError: the plan can't reach its alpha_i (not asked of a research preset, which claims nothing).
    """
    fixed = _key_and_plan(parties, plan, cues, available_marks)
    if campaign is not None:
        fixed["campaign"] = campaign.to_record()
    return canonical_text(
        fixed
        | {
            "format": PREREGISTRATION_FORMAT,
            "verification": parties.verification,
            "claimant": parties.claimant,
            "auditor": parties.auditor,
            "key_id": parties.key_id,
            "nonces": dict(nonces),
            "suspect": suspect.to_record(),
            "asking": _asking_record(asking),
            "reading": reading_rules(),
        }
    )


def _key_and_plan(parties: Parties, plan: Plan, cues: int, available_marks: int) -> dict[str, object]:
    if parties.grade != RESEARCH:
        return preregister(
            commitment=parties.commitment,
            grade=parties.grade,
            audit_index=parties.audit_index,
            owner_commitments=parties.owner_commitments,
            plan=plan,
            cues=cues,
            available_marks=available_marks,
        )
    key = {"commitment": parties.commitment, "grade": parties.grade, "audit_index": parties.audit_index}
    return {
        "rule": {"version": "paper-pooled-fisher"},
        "key": key | {"owner_commitments": parties.owner_commitments},
        "plan": plan.to_record(),
    }


def _asking_record(asking: Asking) -> dict[str, object]:
    return {
        "temperature": asking.temperature,
        "max_tokens": asking.max_tokens,
        "concurrency": asking.concurrency,
        "probe_timeout_seconds": asking.probe_timeout_seconds,
        "total_timeout_seconds": asking.total_timeout_seconds,
        "retries": asking.retries,
        "retry_on": sorted(str(code) for code in RETRY_FAILURES),
        "give_up_after": GIVE_UP_AFTER,
        "reply_bytes": BODY_BYTES,
        "audit_reply_bytes": AUDIT_REPLY_BYTES,
    }


def ask_plan(preregistration: Mapping[str, object]) -> AskPlan:
    """How to ask, read back from the record.

    Raises:
        MalformedEvidence: a field is missing or odd.
    """
    suspect, asking = _part(preregistration, "suspect"), _part(preregistration, "asking")
    try:
        return AskPlan(
            api=Api(_text(suspect, "api")),
            template=_template(suspect),
            model=_text(suspect, "model"),
            temperature=_text(asking, "temperature"),
            max_tokens=_number(asking, "max_tokens"),
            concurrency=_number(asking, "concurrency"),
            probe_timeout_seconds=_number(asking, "probe_timeout_seconds"),
            total_timeout_seconds=_number(asking, "total_timeout_seconds"),
            retries=_number(asking, "retries"),
            give_up_after=_number(asking, "give_up_after"),
            reply_bytes=_number(asking, "audit_reply_bytes"),
        )
    except ValueError:
        raise MalformedEvidence("the pre-registration names an unknown api") from None


def _template(suspect: Mapping[str, object]) -> Template | None:
    if (suspect.get("api") == Api.template) != ("template" in suspect):
        raise MalformedEvidence("a template goes with the api that needs one, and with no other")
    if "template" not in suspect:
        return None
    try:
        return template_of_record(_part(suspect, "template"))
    except TemplateError as error:
        raise MalformedEvidence(f"the pre-registered template is none: {error}") from None


def request_for(plan: AskPlan, prompt: str) -> bytes:
    """The exact body that asks one question under this plan.

    Raises:
        MalformedEvidence: the pre-registered temperature is no number.
    """
    try:
        return plan.request(prompt)
    except ValueError:
        raise MalformedEvidence("the pre-registered temperature is no number") from None


def _part(record: Mapping[str, object], name: str) -> Mapping[str, object]:
    part = record.get(name)
    if not isinstance(part, Mapping):
        raise MalformedEvidence(f"the pre-registration lacks {name}")
    return part


def _text(record: Mapping[str, object], name: str) -> str:
    value = record.get(name)
    if not isinstance(value, str):
        raise MalformedEvidence(f"the pre-registration's {name} is not text")
    return value


def _number(record: Mapping[str, object], name: str) -> int:
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise MalformedEvidence(f"the pre-registration's {name} is not an integer")
    return value
