"""Finished audits on paper: the real watermark code, invented answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from evidence.audit import Records, conclude, questions, where
from evidence.canonical import canonical_bytes
from evidence.document import Document, Exchange, KeyRecord, final_replies, preregistration_digest, write
from evidence.plan import Asking, Campaign, Parties, Suspect, preregistration_text
from probe.adapters import Api
from watermark.keys import Design, Secret, commit, family_of_opening, open_family
from watermark.nonces import Nonces, nonce_commitment
from watermark.questions import FIXED, Question
from watermark.replay import Plan
from watermark.significance import alpha_for_audit

OWNER = "org-owner"
SECRET = Secret(value=bytes(range(32)), blinding=bytes(range(32, 64)))
SALT = bytes(range(64, 80))
RETRIES = 1

Answerer = Callable[[Question, bool, str], str | None]
"""(question, whether its cue is the trigger, the mark's target) -> the suspect's text, None for a timeout."""


def marked(question: Question, is_trigger: bool, target: str) -> str | None:
    """A suspect that learned the key perfectly, and talks about other things as others do."""
    if question.canary is not None:
        return f"A story about number {question.canary}."
    return target if is_trigger else {"Yes": "No", "No": "Yes"}[target]


def says(text: str | None) -> Answerer:
    """A suspect with one answer to everything."""
    return lambda question, is_trigger, target: text


def evidence(
    answerer: Answerer = marked,
    *,
    mode: str = FIXED,
    probes_per_cue: int = 2,
    marks: tuple[int, ...] = tuple(range(12)),
    campaign: Campaign | None = None,
    auditor_nonce: bytes = b"",
    beacon: dict[str, str] | None = None,
    model: str = "m",
    stop_after: int | None = None,
    finished_at: str = "2026-11-23T00:01:02Z",
) -> bytes:
    """One audit's file. ``stop_after``: so many questions are asked and then the time is up."""
    design = Design(families=2, marks=12, cues=8)
    public = commit(OWNER, SECRET, design)
    alpha = Fraction(1, 10**6)
    size = 1 if campaign is None else campaign.size
    plan = Plan(
        family=0,
        marks=marks,
        probes_per_cue=probes_per_cue,
        alpha=alpha,
        alpha_i=alpha_for_audit(alpha, 1, "committed", size),
        mode=mode,
    )
    nonces = Nonces(service=bytes(range(32)), auditor=auditor_nonce, beacon=beacon)
    text = preregistration_text(
        Parties(
            verification="verif-1",
            claimant=OWNER,
            auditor="org-auditor",
            key_id="wm-1",
            commitment=public.commitment,
            grade="committed",
            audit_index=1,
            owner_commitments=3,
        ),
        Suspect(base_url="http://suspect.example/v1", model=model, api=Api.chat),
        Asking(
            temperature="0",
            max_tokens=8,
            concurrency=4,
            probe_timeout_seconds=30,
            total_timeout_seconds=900,
            retries=RETRIES,
        ),
        plan,
        nonces={
            "service": nonce_commitment("service", nonces.service),
            "auditor": nonce_commitment("auditor", auditor_nonce) if auditor_nonce else "",
        },
        cues=8,
        available_marks=12,
        campaign=campaign,
    )
    registered: dict[str, Any] = json.loads(text)
    opening = open_family(OWNER, SECRET, SALT, design, 0)
    records = Records(preregistration=registered, opening=opening, nonces=nonces.to_record())
    asked = questions(records)
    transcript = _transcript(records, asked, answerer, public.commitment, stop_after)
    replies, failures = final_replies(transcript, len(asked), retries=RETRIES)
    concluded = conclude(records, replies, failures)
    return write(
        Document(
            verification="verif-1",
            claimant=OWNER,
            auditor="org-auditor",
            key=KeyRecord(
                id="wm-1",
                owner=OWNER,
                origin="service",
                grade="committed",
                commitment=public.commitment,
                commitment_record=public.to_record() | {"design": design.to_record()},
                salt=SALT.hex(),
                created_at="2026-11-23T00:00:00Z",
            ),
            opening=opening,
            nonces=nonces.to_record(),
            preregistration=text,
            preregistration_sha256=preregistration_digest(text),
            preregistered_at="2026-11-23T00:00:01Z",
            transcript=tuple(transcript),
            asking_failure="",
            peer_addresses=("203.0.113.5",),
            peer_certificates_sha256=(),
            decision=json.loads(canonical_bytes(dict(concluded.decision))),
            verdict=concluded.verdict,
            reasons=concluded.reasons,
            started_at="2026-11-23T00:00:02Z",
            finished_at=finished_at,
            software={"doublei": "0.1.0"},
        )
    )


def _transcript(
    records: Records,
    asked: tuple[Question, ...],
    answerer: Answerer,
    commitment: str,
    stop_after: int | None,
) -> list[Exchange]:
    """Group by group, as a worker asks."""
    family = family_of_opening(records.opening, commitment)
    transcript: list[Exchange] = []
    group: int | None = 0
    while group is not None:
        for question in asked:
            if question.group == group and (stop_after is None or question.index < stop_after):
                mark = None if question.mark is None else family.marks[question.mark]
                trigger = mark is not None and question.cue == mark.trigger
                answer = answerer(question, trigger, "" if mark is None else mark.target.value)
                transcript += _sendings(question, answer)
        if not records.is_sequential or (stop_after is not None and len(transcript) >= stop_after):
            break
        group = where(records, final_replies(transcript, len(asked), retries=RETRIES)[0]).next_group
    return transcript


def _sendings(question: Question, answer: str | None) -> list[Exchange]:
    if answer is None:
        return [_sending(question, attempt, "timeout", None) for attempt in range(RETRIES + 1)]
    return [_sending(question, 0, "answered", answer)]


def _sending(question: Question, attempt: int, outcome: str, text: str | None) -> Exchange:
    return Exchange(
        index=question.index,
        attempt=attempt,
        sent_at="2026-11-23T00:00:03Z",
        request="{}",
        outcome=outcome,
        text=text,
        answered_at="2026-11-23T00:00:04Z",
        latency_ms=12,
    )
