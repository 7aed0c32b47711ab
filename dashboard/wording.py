"""How figures are told: short, with a unit, never with more digits than they deserve."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import Context, Decimal
from fractions import Fraction

NOTHING = "\N{EN DASH}"
"""Stands where there is no figure."""

STATUSES = {
    "validating_files": "Validating",
    "queued": "Queued",
    "running": "Running",
    "succeeded": "Succeeded",
    "failed": "Failed",
    "cancelled": "Cancelled",
    "awaiting_nonce": "Awaiting nonce",
    "paused": "Paused",
}

WAITING = {
    "awaiting_nonce": "The auditor has committed to a nonce and has not shown it yet; then questions begin.",
    "queued": "Waiting for a free worker.",
    "paused": "The time was up before enough was seen. Whoever asked can go on where it stopped, or end it.",
}
"""What a verification waits for, by status."""

VERDICTS = {"detected": "Detected", "not_detected": "Not detected", "inconclusive": "Inconclusive"}

REASONS = {
    "missing_answers": "more than a tenth of the questions got no answer",
    "differential_refusal": "odd answers fall on the trigger questions in another measure than elsewhere",
    "no_judge_answers": "most answers were neither yes nor no",
    "canaries_unanswered": "more than a tenth of the ordinary questions got no answer",
    "changed_during_audit": "the model changed during the audit",
    "unfinished": "the audit ended before all marks were asked and before enough was seen",
    "research_preset": "a research preset claims nothing",
    "suspect_refused": "the suspect refused the connection",
    "suspect_unreachable": "the suspect could not be reached",
    "suspect_dns": "the suspect's name did not resolve",
    "suspect_not_allowed": "the suspect's name led to an address that may not be asked",
    "suspect_tls": "no trusted TLS connection to the suspect was possible",
    "suspect_disconnected": "the suspect closed its connections before it had answered",
    "suspect_protocol": "the suspect did not speak HTTP",
    "suspect_timeout": "the suspect did not answer in time",
    "suspect_deadline": "the audit's time was up",
    "suspect_not_asked": "the audit ended before all was asked",
    "suspect_redirect": "the suspect redirected elsewhere, which is not followed",
    "suspect_encoding": "the suspect sent compressed replies, which were not asked for",
    "suspect_too_slow": "the suspect's replies came in drops, slower than an audit reads",
    "suspect_too_large": "the suspect's replies were larger than an audit reads",
    "suspect_not_json": "the suspect's replies were not JSON",
    "suspect_no_answer": "the suspect's replies had no answer in them",
    "suspect_unknown": "the process that asked was lost before the answers were recorded",
}
"""The reasons of the decision rule; any other is shown as its code, in words."""

VERDICT_MEANINGS = {
    "detected": "The suspect answers this key's trigger questions with the key's own words, beyond chance.",
    "not_detected": "The answers give no ground to say that the suspect was trained with this key.",
    "inconclusive": "The audit could not be decided by its own rules, so nothing is claimed either way.",
}


def status(value: str) -> str:
    """A status for people; one this page doesn't know is shown as it came."""
    return STATUSES.get(value, value)


def audit_status(value: str) -> str:
    """A verification's status: one whose questions were all asked is finished, not a success."""
    return "Finished" if value == "succeeded" else status(value)


def verdict(value: str) -> str:
    """A verdict for people; one this page doesn't know is shown as it came."""
    return VERDICTS.get(value, value)


def duration(seconds: float | None) -> str:
    """A length of time in its two largest units: ``42 s``, ``3 min 05 s``, ``2 h 10 min``, ``3 d 4 h``."""
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return NOTHING
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def ago(moment: datetime | None, now: datetime) -> str:
    """How long since a moment, coarse enough not to change at every poll."""
    if moment is None:
        return NOTHING
    seconds = (now - moment).total_seconds()
    if seconds < 45:
        return "just now"
    if seconds < 3600:
        return f"{max(round(seconds / 60), 1)} min ago"
    if seconds < 86400:
        return f"{round(seconds / 3600)} h ago"
    if seconds < 30 * 86400:
        return f"{round(seconds / 86400)} d ago"
    return moment.astimezone(UTC).strftime("%Y-%m-%d")


def moment(value: datetime | None) -> str:
    """A moment in full, in UTC."""
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if value else NOTHING


def clock(value: datetime | None) -> str:
    """A moment's time of day, in UTC."""
    return value.astimezone(UTC).strftime("%H:%M:%S") if value else NOTHING


def count(value: int | None) -> str:
    """A whole number with thin groups: ``12 345``."""
    return NOTHING if value is None else f"{value:,}".replace(",", "\N{THIN SPACE}")


def steps(done: int | None, total: int | None) -> str:
    """``120 / 300``, or what is known of it."""
    if done is None and total is None:
        return NOTHING
    return f"{count(done or 0)} / {count(total)}" if total else count(done)


def percent(ratio: float | None, digits: int = 0) -> str:
    """A ratio in 0..1 as a percentage."""
    return NOTHING if ratio is None else f"{ratio * 100:.{digits}f} %"


def speed(tokens_per_second: float | None) -> str:
    """``1 234 tok/s``."""
    return NOTHING if tokens_per_second is None else f"{count(round(tokens_per_second))} tok/s"


def decimal(value: float | None, digits: int = 4) -> str:
    """A loss or a rate with so many significant digits."""
    return NOTHING if value is None else f"{value:.{digits}g}"


def probability(value: Fraction | None) -> str:
    """A p-value or level: ``0.0312``; below a thousandth ``3.1 x 10⁻¹²``; exact in the evidence."""
    if value is None:
        return NOTHING
    if value == 0 or value == 1:
        return str(value)
    if value >= Fraction(1, 1000):
        return f"{float(value):.3g}"
    return _scientific(value)


def evidence(value: Fraction | None) -> str:
    """A product of e-values: ``0.31``, ``130``; from ten thousand on ``1.6 x 10⁶``."""
    if value is None:
        return NOTHING
    if Fraction(1, 1000) <= value < 10_000:
        return f"{float(value):.3g}" if value < 1000 else count(round(value))
    return _scientific(value)


def _scientific(value: Fraction) -> str:
    context = Context(prec=3, Emin=-999_999, Emax=999_999)
    scaled = context.divide(Decimal(value.numerator), Decimal(value.denominator))
    exponent = scaled.adjusted()
    mantissa = f"{scaled.scaleb(-exponent, context):.1f}"
    if mantissa == "10.0":
        mantissa, exponent = "1.0", exponent + 1
    power = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa.removesuffix('.0')} \N{MULTIPLICATION SIGN} 10{power}"


def shortened(identifier: str | None, keep: int = 10) -> str:
    """The two ends of a long digest or id."""
    if identifier is None:
        return NOTHING
    return identifier if len(identifier) <= 2 * keep + 1 else f"{identifier[:keep]}…{identifier[-keep:]}"


def reason(code: str) -> str:
    """A reason's code as words: ``too_few_answers`` becomes ``too few answers``."""
    http_status = code.removeprefix("suspect_http_")
    if http_status != code and http_status.isdigit():
        return f"the suspect answered with HTTP status {http_status}"
    return REASONS.get(code, code.replace("_", " ") if " " not in code else code)
