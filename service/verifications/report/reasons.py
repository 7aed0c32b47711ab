"""Why a verdict reads as it does, in words: every code that an audit can give."""

from __future__ import annotations

REASONS = {
    "missing_answers": "more than a tenth of the questions at the triggers, or at the other cues, brought no "
    "answer",
    "differential_refusal": "answers that are neither Yes nor No fall on the triggers in another measure "
    "than on the other cues, as they do where somebody avoids the secret words",
    "no_judge_answers": "fewer than half of the answers were a Yes or a No; a host that suppresses such "
    "answers looks the same",
    "canaries_unanswered": "more than a tenth of the ordinary questions, which have nothing to do with the "
    "key, brought no answer: the suspect was not answering as it usually does",
    "changed_during_audit": "ordinary questions were answered in one way up to some point and in another way "
    "after it, so these are hardly the answers of one model; a missing detection says nothing then",
    "unfinished": "the audit ended before all planned marks were asked and before the product of e-values "
    "had reached its line",
    "research_preset": "the key is one of the paper's presets: its words are public, so nothing is claimed",
    "suspect_refused": "the suspect's address refused the connection",
    "suspect_unreachable": "the suspect's address could not be reached",
    "suspect_dns": "the suspect's name did not resolve",
    "suspect_not_allowed": "the suspect's name led to an address that may not be asked",
    "suspect_tls": "no trusted TLS connection to the suspect was possible",
    "suspect_disconnected": "the suspect closed its connections before it had answered",
    "suspect_protocol": "the suspect did not speak HTTP",
    "suspect_timeout": "the suspect did not answer in time",
    "suspect_deadline": "the audit's time was up",
    "suspect_not_asked": "the audit's time was up, or the suspect was given up, before all was asked",
    "suspect_redirect": "the suspect redirected elsewhere, which is not followed",
    "suspect_encoding": "the suspect sent compressed replies, which were not asked for",
    "suspect_too_slow": "the suspect's replies came in drops, slower than an audit reads",
    "suspect_too_large": "the suspect's replies were larger than an audit reads",
    "suspect_not_json": "the suspect's replies were not JSON (an HTML page, for instance)",
    "suspect_no_answer": "the suspect's replies were JSON without an answer",
    "suspect_unknown": "the process that asked was lost before the answers were recorded",
}

_HTTP = "suspect_http_"


def reason_text(code: str) -> str:
    """The reason in words; a code that nobody has explained is spelled out."""
    if code.startswith(_HTTP) and (status := code.removeprefix(_HTTP)).isdigit():
        extra = ": it asked to be left in peace" if status == "429" else ""
        return f"the suspect answered with HTTP status {status}{extra}"
    return REASONS.get(code, code.replace("_", " "))
