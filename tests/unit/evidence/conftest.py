"""One finished audit, made from the real watermark code and invented answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pytest

from evidence.audit import Records, conclude, questions, where
from evidence.canonical import canonical_bytes
from evidence.document import Document, Exchange, KeyRecord, final_replies, preregistration_digest, write
from evidence.plan import Asking, Campaign, Parties, Suspect, ask_plan, preregistration_text, request_for
from probe.adapters import Api
from watermark.keys import (
    Design,
    Family,
    Secret,
    chosen_family,
    commit,
    commit_chosen,
    derive,
    open_chosen,
    open_family,
)
from watermark.marks import Mark
from watermark.nonces import AUDITOR, SERVICE, Nonces, nonce_commitment
from watermark.questions import Question
from watermark.replay import Plan, Reply
from watermark.significance import alpha_for_audit

OWNER = "org-owner"
SECRET = Secret(value=bytes(range(32)), blinding=bytes(range(32, 64)))
SALT = bytes(range(64, 80))
DESIGN = Design(families=2, marks=12, cues=8)
NONCES = Nonces(
    service=bytes(range(32)),
    auditor=bytes(range(100, 132)),
    beacon={"source": "a public beacon", "round": "77", "value": "c0ffee"},
)

SUSPECT = Suspect(base_url="http://suspect.example/v1", model="m", api=Api.chat)

Answerer = Callable[[Question, bool, str], str | None]
"""(question, whether its cue is the trigger, the mark's target) -> the suspect's text, None for a timeout."""


def marked(question: Question, is_trigger: bool, target: str) -> str | None:
    """A suspect that learned the key perfectly."""
    return target if is_trigger else {"Yes": "No", "No": "Yes"}[target]


def silent(question: Question, is_trigger: bool, target: str) -> str | None:
    """A suspect that never answers."""
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """A finished audit and its file."""

    document: Document
    data: bytes


def make_audit(
    answerer: Answerer = marked,
    *,
    audit_index: int = 1,
    mode: str = "fixed",
    secret: Secret = SECRET,
    salt: bytes = SALT,
    design: Design = DESIGN,
    probes_per_cue: int = 1,
    marks: Sequence[int] | None = None,
    chosen: tuple[Mark, ...] = (),
    canaries: bool = True,
    canary: Callable[[Question], str | None] | None = None,
    grade: str = "committed",
    origin: str = "service",
    campaign: Campaign | None = None,
    suspect: Suspect = SUSPECT,
    temperature: str = "0",
    nonces: Nonces = NONCES,
    family_index: int = 0,
    verification: str = "verif-1",
    spoil: Callable[[list[Exchange]], list[Exchange]] = list,
) -> Audit:
    """Run one audit on paper; a sequential one until it may stop.

    Args:
        chosen: marks picked by the owner; the key is then of the grade ``chosen``.
        canary: what the suspect says to an ordinary question.
        spoil: what becomes of the transcript before it is decided.
    """
    if chosen:
        public, opening = (
            commit_chosen(OWNER, chosen, secret.blinding),
            open_chosen(OWNER, chosen, secret.blinding),
        )
        family, grade, cues = chosen_family(chosen, secret.blinding), "chosen", len(chosen[0].cues)
        shape: dict[str, object] = {"kind": "chosen", "families": 1, "marks": len(chosen), "cues": cues}
    else:
        public = commit(OWNER, secret, design)
        opening = open_family(OWNER, secret, salt, design, family_index)
        family, cues = derive(secret, salt, design).family(family_index), design.cues
        shape = design.to_record()
    alpha = Fraction(1, 10**6)
    plan = Plan(
        family=family_index,
        marks=tuple(range(len(family.marks))) if marks is None else tuple(marks),
        probes_per_cue=probes_per_cue,
        alpha=alpha,
        alpha_i=alpha_for_audit(alpha, audit_index, grade, 1 if campaign is None else campaign.size),
        mode=mode,
        canaries=canaries,
    )
    text = preregistration_text(
        Parties(
            verification=verification,
            claimant=OWNER,
            auditor="org-auditor",
            key_id="wm-1",
            commitment=public.commitment,
            grade=grade,
            audit_index=audit_index,
            owner_commitments=3,
        ),
        suspect,
        Asking(
            temperature=temperature,
            max_tokens=8,
            concurrency=4,
            probe_timeout_seconds=30,
            total_timeout_seconds=900,
            retries=1,
        ),
        plan,
        nonces={
            SERVICE: nonce_commitment(SERVICE, nonces.service),
            AUDITOR: nonce_commitment(AUDITOR, nonces.auditor) if nonces.auditor else "",
        },
        cues=cues,
        available_marks=len(family.marks),
        campaign=campaign,
    )
    record = json.loads(text)
    records = Records(preregistration=record, opening=opening, nonces=nonces.to_record())
    asked = questions(records)
    transcript: list[Exchange] = []
    group = 0
    for question in asked:
        if mode == "sequential" and question.group > group:
            if _is_over(records, transcript, len(asked), question.group):
                break
            group = question.group
        answer = _answer(family, question, answerer, canary)
        transcript += _exchanges(record, question.index, question.prompt, answer)
    transcript = spoil(transcript)
    replies, failures = final_replies(transcript, len(asked), retries=1)
    concluded = conclude(records, replies, failures)
    document = Document(
        verification=verification,
        claimant=OWNER,
        auditor="org-auditor",
        key=KeyRecord(
            id="wm-1",
            owner=OWNER,
            origin="chosen" if chosen else origin,
            grade=grade,
            commitment=public.commitment,
            commitment_record=public.to_record() | {"design": shape},
            salt="" if chosen else salt.hex(),
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
        finished_at="2026-11-23T00:01:02Z",
        software={"doublei": "0.1.0"},
    )
    return Audit(document=document, data=write(document))


def _is_over(records: Records, transcript: list[Exchange], count: int, group: int) -> bool:
    replies: list[Reply] = final_replies(transcript, count, retries=1)[0]
    following = where(records, replies).next_group
    return following is None or group > following


def _answer(
    family: Family,
    question: Question,
    answerer: Answerer,
    canary: Callable[[Question], str | None] | None,
) -> str | None:
    if question.mark is None:
        if canary is not None:
            return canary(question)
        return None if answerer is silent else "A short title"
    mark = family.marks[question.mark]
    return answerer(question, question.cue == mark.trigger, mark.target.value)


def _exchanges(record: dict[str, Any], index: int, prompt: str, answer: str | None) -> list[Exchange]:
    request = request_for(ask_plan(record), prompt).decode("ascii")
    if answer is None:
        return [
            Exchange(
                index=index,
                attempt=attempt,
                sent_at="2026-11-23T00:00:03Z",
                request=request,
                outcome="timeout",
                latency_ms=30000,
                answered_at="2026-11-23T00:00:33Z",
            )
            for attempt in (0, 1)
        ]
    choice = {"message": {"role": "assistant", "content": answer}, "text": answer}
    body = json.dumps({"choices": [choice]}).encode()
    return [
        Exchange(
            index=index,
            attempt=0,
            sent_at="2026-11-23T00:00:03Z",
            request=request,
            outcome="answered",
            http_status=200,
            text=answer,
            body=body,
            latency_ms=12,
            answered_at="2026-11-23T00:00:04Z",
        )
    ]


@pytest.fixture(scope="session")
def audit() -> Audit:
    """A detected one."""
    return make_audit()


@pytest.fixture(scope="session")
def audit_of() -> Callable[..., Audit]:
    """`audit_of(answerer, audit_index=1, mode="fixed")`."""
    return make_audit


@pytest.fixture(scope="session")
def answerers() -> dict[str, Answerer]:
    """Ways for a suspect to behave."""
    return {"marked": marked, "silent": silent, "yes": lambda question, is_trigger, target: "Yes"}
