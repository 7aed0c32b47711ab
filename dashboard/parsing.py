"""What the API says, parsed once into records.

Parsing is forgiving where the page can do without a field (it becomes None) and strict where it
can't (an object without an id is ``Unreachable``: whatever answered is not the API). Strings come
from owners and suspects, who may be hostile: control and direction-changing characters are
replaced, so that no name can disguise itself as another, and lengths are bounded.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any
from urllib.parse import urlsplit

from dashboard.errors import Unreachable
from dashboard.records import (
    Event,
    Failure,
    Health,
    Job,
    JobWatermark,
    Organization,
    Progress,
    Verification,
)

MAX_TEXT = 2000
"""Characters kept of any string of the API; nothing legitimate on this page is longer."""

_EXACT = re.compile(r"\d{1,4000}/\d{1,4000}|\d{1,40}(\.\d{1,400})?([eE][+-]?\d{1,4})?")
"""A fraction or decimal; the bounds keep a hostile exponent from becoming a number of gigabytes."""


def parse_job(value: object) -> Job:
    """A fine-tuning job object.

    Raises:
        Unreachable: it is not one.
    """
    record = _record(value, "a fine-tuning job")
    method = _mapping(record.get("method"))
    supervised = _mapping(_mapping(method.get(_text(method.get("type")) or "")).get("hyperparameters"))
    return Job(
        id=_identifier(record),
        organization=_organization(record),
        base_model=_text(record.get("model")),
        suffix=_text(record.get("user_provided_suffix") or record.get("suffix")),
        status=_text(record.get("status")) or "unknown",
        stage=_text(record.get("stage") or _mapping(record.get("progress")).get("stage")),
        created_at=_time(record.get("created_at")),
        started_at=_time(record.get("started_at")),
        finished_at=_time(record.get("finished_at")),
        fine_tuned_model=_text(record.get("fine_tuned_model")),
        training_file=_text(record.get("training_file")),
        seed=_integer(record.get("seed")),
        trained_tokens=_integer(record.get("trained_tokens")),
        attempt=_integer(record.get("attempt")),
        hyperparameters=_settings_of(_mapping(record.get("hyperparameters")) or supervised),
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
    record = _record(value, "a job event")
    data = _mapping(record.get("data"))
    return Event(
        id=_identifier(record),
        created_at=_time(record.get("created_at")),
        level=_text(record.get("level")) or "info",
        type=_text(record.get("type")) or "message",
        message=_text(record.get("message")) or "",
        step=_integer(data.get("step")),
        train_loss=_number(data.get("train_loss", data.get("loss"))),
        learning_rate=_number(data.get("learning_rate")),
    )


def parse_verification(value: object) -> Verification:
    """A verification object.

    Raises:
        Unreachable: it is not one.
    """
    record = _record(value, "a verification")
    suspect = _mapping(record.get("suspect"))
    progress = _mapping(record.get("progress"))
    registered = _mapping(record.get("preregistration"))
    found = {**registered, **_mapping(record.get("result")), **record}
    base_url = _text(suspect.get("base_url"))
    return Verification(
        id=_identifier(record),
        organization=_organization(record),
        status=_text(record.get("status")) or "unknown",
        asked=_integer(progress.get("asked")),
        total=_integer(progress.get("total")),
        suspect_model=_text(suspect.get("model")),
        suspect_host=_host(base_url),
        suspect_api=_text(suspect.get("api")),
        verdict=_text(record.get("verdict")),
        reasons=_texts(record.get("reasons")),
        p_value=_fraction(found.get("p_value")) or _fraction(found.get("p_value_decimal")),
        alpha=_fraction(found.get("alpha_i")) or _fraction(found.get("alpha_i_decimal")),
        trigger_hits=_integer(found.get("trigger_hits")),
        trigger_total=_integer(found.get("trigger_total")),
        reference_hits=_integer(found.get("reference_hits")),
        reference_total=_integer(found.get("reference_total")),
        other=_integer(found.get("other")),
        missing=_integer(found.get("missing")),
        watermark=_text(record.get("watermark")),
        audit_index=_integer(found.get("audit_index")),
        preregistration_digest=_text(registered.get("sha256")),
        error=_failure(record.get("error")),
        cancel_requested=record.get("cancel_requested") is True,
        created_at=_time(record.get("created_at")),
        started_at=_time(record.get("started_at")),
        finished_at=_time(record.get("finished_at")),
    )


def parse_organization(value: object) -> Organization:
    """An organization.

    Raises:
        Unreachable: it is not one.
    """
    record = _record(value, "an organization")
    identifier = _identifier(record)
    return Organization(
        id=identifier, name=_text(record.get("name")) or identifier, role=_text(record.get("role"))
    )


def parse_health(value: object, *, ready: bool) -> Health:
    """The body of /readyz, whatever of it is understood; ``ready`` is the HTTP status's word."""
    record = _mapping(value)
    checks = _mapping(record.get("checks")) or _mapping(_mapping(record.get("error")).get("checks"))
    parts = tuple(
        (plain(name)[:40], _is_well(state)) for name, state in checks.items() if isinstance(name, str)
    )
    return Health(ready=ready, parts=parts)


def plain(text: str) -> str:
    """The text without control, format, surrogate and private characters, at most MAX_TEXT long.

    Direction overrides and zero-width characters are among those: a name made of them can be made
    to look like another one.
    """
    return "".join(
        " "
        if char in "\n\t"
        else "\N{REPLACEMENT CHARACTER}"
        if unicodedata.category(char)[0] == "C"
        else char
        for char in text[:MAX_TEXT]
    )


def _is_well(state: object) -> bool:
    if isinstance(state, Mapping):
        state = state.get("ok", state.get("status"))
    return state is True or (
        isinstance(state, str) and state.lower() in ("ok", "ready", "up", "true", "healthy")
    )


def _record(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise Unreachable(f"The answer is not {what}. Is this the Double-I API?")
    return value


def _identifier(record: Mapping[str, Any]) -> str:
    value = record.get("id")
    if not isinstance(value, str) or not value or plain(value) != value:
        raise Unreachable("The answer holds an object without an id. Is this the Double-I API?")
    return value


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str | None:
    return plain(value) if isinstance(value, str) and value else None


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return ()
    return tuple(plain(item) for item in value[:50] if isinstance(item, str))


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _fraction(value: object) -> Fraction | None:
    """Exact probabilities travel as "n/d" or decimal strings, or as [n, d]."""
    if isinstance(value, list) and len(value) == 2:
        value = f"{value[0]}/{value[1]}"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and not _EXACT.fullmatch(value):
        return None
    try:
        return Fraction(value)
    except (ValueError, ZeroDivisionError, OverflowError):
        return None


def _time(value: object) -> datetime | None:
    seconds = _number(value)
    try:
        if seconds is not None:
            return datetime.fromtimestamp(seconds, UTC)
        if isinstance(value, str):
            parsed = datetime.fromisoformat(value)
            return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError):
        pass
    return None


def _organization(record: Mapping[str, Any]) -> str | None:
    return _text(record.get("organization_id")) or _text(record.get("organization"))


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
        step=_integer(value.get("step")),
        total_steps=_integer(value.get("total_steps")),
        loss=_number(value.get("loss", value.get("train_loss"))),
        tokens_per_second=_number(value.get("tokens_per_second")),
        eta_seconds=_number(value.get("eta_seconds")),
    )


def _watermark(value: object) -> JobWatermark | None:
    if not isinstance(value, Mapping):
        return None
    return JobWatermark(
        key=_text(value.get("key")),
        commitment=_text(value.get("commitment")),
        watermark_rows=_integer(value.get("watermark_rows")),
        watermark_ratio=_number(value.get("watermark_ratio")),
        watermark_token_ratio=_number(value.get("watermark_token_ratio")),
    )


def _failure(value: object) -> Failure | None:
    if not isinstance(value, Mapping):
        return None
    message, code = _text(value.get("message")), _text(value.get("code"))
    if message is None and code is None:
        return None
    return Failure(
        message=message or "No reason was given.",
        code=code,
        param=_text(value.get("param")),
        category=_text(value.get("category")),
    )
