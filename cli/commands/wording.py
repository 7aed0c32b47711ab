"""Statuses, verdicts and reasons of an audit, as a terminal says them."""

from __future__ import annotations

from collections.abc import Sequence

ENDED = frozenset({"succeeded", "failed", "cancelled"})
"""Statuses that never change."""
RESTING = ENDED | {"paused"}
"""Statuses in which nothing happens until somebody does something."""

STYLES = {"detected": "bold green", "not_detected": "cyan", "inconclusive": "yellow"}

STATUSES = {
    "awaiting_nonce": "waiting for the auditor to show the nonce it committed to",
    "queued": "waiting for a worker",
    "running": "asking",
    "paused": "paused: the time was up before enough was seen",
    "succeeded": "finished",
}

VERDICTS = {
    "detected": "the answers depend on the committed key",
    "not_detected": "these answers show no evidence of the key; that does not clear the model",
    "inconclusive": "nothing can be said either way",
}

REASONS = {
    "missing_answers": "more than a tenth of the questions at the triggers, or elsewhere, got no answer",
    "differential_refusal": "odd answers fall on the triggers in another measure than elsewhere",
    "no_judge_answers": "fewer than half of the answers were Yes or No",
    "canaries_unanswered": "more than a tenth of the ordinary questions got no answer",
    "changed_during_audit": "the model changed during the audit",
    "unfinished": "the audit ended before all marks were asked and before the product reached its line",
    "research_preset": "a research preset claims nothing",
    "suspect_refused": "the suspect refused the connection",
    "suspect_unreachable": "the suspect could not be reached",
    "suspect_dns": "the suspect's name did not resolve",
    "suspect_not_allowed": "the suspect's name led to an address that may not be asked",
    "suspect_tls": "no trusted TLS connection to the suspect was possible",
    "suspect_timeout": "the suspect did not answer in time",
    "suspect_deadline": "the audit's time was up",
    "suspect_not_asked": "the audit ended before all was asked",
    "suspect_redirect": "the suspect redirected elsewhere, which is not followed",
    "suspect_too_slow": "the suspect's replies came in drops, slower than an audit reads",
    "suspect_too_large": "the suspect's replies were larger than an audit reads",
    "suspect_not_json": "the suspect's replies were not JSON",
    "suspect_no_answer": "the suspect's replies had no answer in them",
    "suspect_unknown": "the process that asked was lost before the answers were recorded",
}


def reason(code: str) -> str:
    """A reason in words; an unknown one is spelled out."""
    status = code.removeprefix("suspect_http_")
    if status != code and status.isdigit():
        return f"the suspect answered with HTTP status {status}"
    return REASONS.get(code, plain(code.replace("_", " ")))


def reasons(codes: Sequence[str]) -> list[str]:
    """One line for each."""
    return [reason(code) for code in codes]


def plain(text: str) -> str:
    """Foreign text without characters that steer a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)
