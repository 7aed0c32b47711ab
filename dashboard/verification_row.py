"""A verification as a row of the table: status and verdict, never what was asked or answered."""

from __future__ import annotations

from dashboard import wording
from dashboard.elements import Badge, Bar, Text, box, cell, frame
from dashboard.job_row import KINDS
from dashboard.listing import Context
from dashboard.records import Verification, share

COLUMNS = ("Suspect", "Host", "Status", "Progress", "Verdict", "Created")

AUDIT_KINDS = {**KINDS, "succeeded": "off"}
"""Colours of statuses: only the verdict of a finished audit is news."""

VERDICT_KINDS = {"detected": "found", "not_detected": "idle", "inconclusive": "warn"}


def title(verification: Verification) -> str:
    """What the audit is about: the suspect's model name as the auditor gave it."""
    return verification.suspect_model or verification.id


def words(verification: Verification, context: Context) -> str:
    """What a search looks at."""
    item = verification
    return " ".join(
        filter(
            None,
            (
                item.id,
                item.suspect_model,
                item.suspect_host,
                item.organization,
                context.organizations.get(item.organization or ""),
                item.status,
                wording.verdict(item.verdict) if item.verdict else None,
                item.watermark,
                item.campaign.id if item.campaign else None,
                *item.reasons,
            ),
        )
    )


def reasons(verification: Verification) -> str:
    """The reasons in one line."""
    return "; ".join(wording.reason(code) for code in verification.reasons)


def status_words(verification: Verification) -> str:
    """The status, or that a cancel is on its way."""
    if verification.cancel_requested and verification.active:
        return "Cancelling"
    return wording.audit_status(verification.status)


def verdict_note(verification: Verification) -> str:
    """What stands under a verdict: its p-value, where the API gives it, and its reasons."""
    p_value = verification.p_value
    notes = [reasons(verification)] if verification.reasons else []
    if p_value is not None and verification.verdict is not None:
        notes.insert(0, f"p = {wording.probability(p_value)}")
    return "; ".join(notes)


def _how_far(item: Verification) -> str:
    """Questions asked, and for a sequential audit under way the evidence so far."""
    asked = wording.steps(item.asked, item.total) if item.total else ""
    if not item.looks or not item.active:
        return asked
    return f"{asked} \N{MIDDLE DOT} evidence {wording.evidence(item.looks[-1].product)}"


class VerificationRow:
    """The cells of one verification."""

    def __init__(self) -> None:
        with box("cell-main", tag="td"):
            self._title = Text(tag="button", classes="row-open")
            self._id = Text(classes="mono muted small clip")
        self._host = cell("Host", "mono small clip")
        with frame("Status"):
            self._status = Badge()
        with frame("Progress", "cell-progress"):
            self._bar = Bar("Questions asked")
            self._asked = Text(classes="muted small")
        with frame("Verdict", "cell-verdict"):
            self._verdict = Badge("badge verdict")
            self._reasons = Text(classes="muted small clip")
        self._created = cell("Created", "number muted")

    def fill(self, item: Verification, context: Context) -> None:
        """Show a verification."""
        self._title.show(title(item), title=title(item))
        self._id.show(item.id, title=item.id)
        self._host.show(item.suspect_host or wording.NOTHING, title=item.suspect_host)
        self._status.tell(status_words(item), AUDIT_KINDS.get(item.status, "idle"))
        done = 1.0 if item.status == "succeeded" else share(item.asked, item.total)
        self._bar.show(
            done if done is not None or item.status == "running" else 0.0,
            kind=AUDIT_KINDS.get(item.status, "idle"),
        )
        self._asked.set_text(_how_far(item))
        if item.verdict is not None:
            self._verdict.tell(
                wording.verdict(item.verdict),
                VERDICT_KINDS.get(item.verdict, "idle"),
                title=wording.VERDICT_MEANINGS.get(item.verdict),
            )
        else:
            self._verdict.tell("Pending" if item.active else "None", "off")
        told = verdict_note(item)
        self._reasons.show(told, title=told or None)
        self._created.show(wording.ago(item.created_at, context.now), title=wording.moment(item.created_at))
