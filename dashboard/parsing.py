"""What the API says, parsed once into records.

Parsing is forgiving where the page can do without a field (it becomes None) and strict where it
can't (an object without an id is ``Unreachable``: whatever answered is not the API).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from dashboard.fields import (
    an_object,
    fraction,
    identifier,
    integer,
    mapping,
    number,
    plain,
    text,
    texts,
    time,
)
from dashboard.records import (
    Campaign,
    CampaignMember,
    Event,
    Failure,
    Health,
    Job,
    JobWatermark,
    Look,
    Membership,
    Organization,
    Progress,
    Verification,
    log10_of,
)


def parse_job(value: object) -> Job:
    """A fine-tuning job object.

    Raises:
        Unreachable: it is not one.
    """
    record = an_object(value, "a fine-tuning job")
    method = mapping(record.get("method"))
    supervised = mapping(mapping(method.get(text(method.get("type")) or "")).get("hyperparameters"))
    return Job(
        id=identifier(record),
        organization=_organization(record),
        base_model=text(record.get("model")),
        suffix=text(record.get("user_provided_suffix") or record.get("suffix")),
        status=text(record.get("status")) or "unknown",
        stage=text(record.get("stage") or mapping(record.get("progress")).get("stage")),
        created_at=time(record.get("created_at")),
        started_at=time(record.get("started_at")),
        finished_at=time(record.get("finished_at")),
        fine_tuned_model=text(record.get("fine_tuned_model")),
        training_file=text(record.get("training_file")),
        seed=integer(record.get("seed")),
        trained_tokens=integer(record.get("trained_tokens")),
        attempt=integer(record.get("attempt")),
        hyperparameters=_settings_of(mapping(record.get("hyperparameters")) or supervised),
        progress=_progress(record.get("progress")),
        watermark=_watermark(record.get("watermark")),
        error=_failure(record.get("error")),
        cancel_requested=record.get("cancel_requested") is True,
    )


def parse_event(value: object) -> Event:
    """A fine-tuning job event.

    Raises:
        Unreachable: it is not one.
    """
    record = an_object(value, "a job event")
    data = mapping(record.get("data"))
    return Event(
        id=identifier(record),
        created_at=time(record.get("created_at")),
        level=text(record.get("level")) or "info",
        type=text(record.get("type")) or "message",
        message=text(record.get("message")) or "",
        step=integer(data.get("step")),
        train_loss=number(data.get("train_loss", data.get("loss"))),
        learning_rate=number(data.get("learning_rate")),
    )


def parse_verification(value: object) -> Verification:
    """A verification object.

    Raises:
        Unreachable: it is not one.
    """
    record = an_object(value, "a verification")
    suspect = mapping(record.get("suspect"))
    progress = mapping(record.get("progress"))
    registered = mapping(record.get("preregistration"))
    found = {**registered, **mapping(record.get("result")), **record}
    base_url = text(suspect.get("base_url"))
    return Verification(
        id=identifier(record),
        organization=_organization(record),
        status=text(record.get("status")) or "unknown",
        sequential=record.get("mode") == "sequential",
        looks=_looks(record.get("looks")),
        campaign=_membership(record.get("campaign")),
        asked=integer(progress.get("asked")),
        total=integer(progress.get("total")),
        suspect_model=text(suspect.get("model")),
        suspect_host=_host(base_url),
        suspect_api=text(suspect.get("api")),
        verdict=text(record.get("verdict")),
        reasons=texts(record.get("reasons")),
        p_value=fraction(found.get("p_value")) or fraction(found.get("p_value_decimal")),
        alpha=fraction(found.get("alpha_i")) or fraction(found.get("alpha_i_decimal")),
        trigger_hits=integer(found.get("trigger_hits")),
        trigger_total=integer(found.get("trigger_total")),
        reference_hits=integer(found.get("reference_hits")),
        reference_total=integer(found.get("reference_total")),
        other=integer(found.get("other")),
        missing=integer(found.get("missing")),
        watermark=text(record.get("watermark")),
        audit_index=integer(found.get("audit_index")),
        preregistration_digest=text(registered.get("sha256")),
        error=_failure(record.get("error")),
        cancel_requested=record.get("cancel_requested") is True,
        created_at=time(record.get("created_at")),
        started_at=time(record.get("started_at")),
        finished_at=time(record.get("finished_at")),
    )


def parse_campaign(value: object) -> Campaign:
    """A campaign object with its audits.

    Raises:
        Unreachable: it is not one.
    """
    record = an_object(value, "a campaign")
    audits = record.get("verifications")
    listed = [parse_verification(item) for item in audits] if isinstance(audits, list) else []
    holm = record.get("holm")
    steps = {step.get("verification"): step for step in map(mapping, holm if isinstance(holm, list) else ())}
    return Campaign(
        id=identifier(record),
        audit_index=integer(record.get("audit_index")),
        alpha=fraction(record.get("alpha_i")),
        decided=bool(steps),
        members=tuple(_member(item, mapping(steps.get(item.id))) for item in listed),
    )


def parse_organization(value: object) -> Organization:
    """An organization.

    Raises:
        Unreachable: it is not one.
    """
    record = an_object(value, "an organization")
    own = identifier(record)
    return Organization(id=own, name=text(record.get("name")) or own, role=text(record.get("role")))


def parse_health(value: object, *, ready: bool) -> Health:
    """The body of /readyz, whatever of it is understood; ``ready`` is the HTTP status's word."""
    record = mapping(value)
    checks = mapping(record.get("checks")) or mapping(mapping(record.get("error")).get("checks"))
    parts = tuple(
        (plain(name)[:40], _is_well(state)) for name, state in checks.items() if isinstance(name, str)
    )
    return Health(ready=ready, parts=parts)


def _member(item: Verification, step: Mapping[str, Any]) -> CampaignMember:
    detected = step.get("detected")
    return CampaignMember(
        verification=item,
        p_value=fraction(step.get("p_value")),
        threshold=fraction(step.get("threshold")),
        detected=detected if isinstance(detected, bool) else None,
    )


def _looks(value: object) -> tuple[Look, ...]:
    """A product that is no positive number makes the look invisible, not the audit."""
    looks = []
    for entry in map(mapping, value[:100] if isinstance(value, list) else ()):
        product, factor = fraction(entry.get("product")), fraction(entry.get("e_value"))
        if product is not None and product > 0:
            looks.append(
                Look(
                    mark=integer(entry.get("mark")), factor=factor, product=product, height=log10_of(product)
                )
            )
    return tuple(looks)


def _membership(value: object) -> Membership | None:
    record = mapping(value)
    own = text(record.get("id"))
    if own is None:
        return None
    return Membership(id=own, position=integer(record.get("position")), size=integer(record.get("size")))


def _is_well(state: object) -> bool:
    if isinstance(state, Mapping):
        state = state.get("ok", state.get("status"))
    return state is True or (
        isinstance(state, str) and state.lower() in ("ok", "ready", "up", "true", "healthy")
    )


def _organization(record: Mapping[str, Any]) -> str | None:
    return text(record.get("organization_id")) or text(record.get("organization"))


def _host(base_url: str | None) -> str | None:
    """host:port of a suspect; never the rest of the URL, which may hold a credential."""
    if base_url is None:
        return None
    try:
        parts = urlsplit(base_url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return None
    return f"{parts.hostname}{port}" if parts.hostname else None


def _settings_of(values: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (plain(name), plain(str(value)))
        for name, value in sorted(values.items())
        if isinstance(name, str) and isinstance(value, str | int | float)
    )


def _progress(value: object) -> Progress | None:
    if not isinstance(value, Mapping):
        return None
    return Progress(
        step=integer(value.get("step")),
        total_steps=integer(value.get("total_steps")),
        loss=number(value.get("loss", value.get("train_loss"))),
        tokens_per_second=number(value.get("tokens_per_second")),
        eta_seconds=number(value.get("eta_seconds")),
    )


def _watermark(value: object) -> JobWatermark | None:
    if not isinstance(value, Mapping):
        return None
    return JobWatermark(
        key=text(value.get("key")),
        commitment=text(value.get("commitment")),
        watermark_rows=integer(value.get("watermark_rows")),
        watermark_ratio=number(value.get("watermark_ratio")),
        watermark_token_ratio=number(value.get("watermark_token_ratio")),
    )


def _failure(value: object) -> Failure | None:
    if not isinstance(value, Mapping):
        return None
    message, code = text(value.get("message")), text(value.get("code"))
    if message is None and code is None:
        return None
    return Failure(
        message=message or "No reason was given.",
        code=code,
        param=text(value.get("param")),
        category=text(value.get("category")),
        hint=text(value.get("hint")),
    )
