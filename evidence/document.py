"""The evidence document: what one audit fixed, asked, received, opened and concluded, as one file.

Layout and meaning of every field: docs/evidence-format.md.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from evidence.audit import NOT_ASKED
from evidence.canonical import canonical_bytes, digest
from evidence.errors import MalformedEvidence
from probe.plan import RETRY_FAILURES
from watermark.replay import Reply

FORMAT = "doublei-evidence/2"
PREREGISTRATION_FORMAT = "doublei-preregistration/2"
EVIDENCE_DOMAIN = "doublei/evidence/v1"
PREREGISTRATION_DOMAIN = "doublei/preregistration/v1"

ANSWERED = "answered"
UNKNOWN = "unknown"
"""Sent, and then the process died: whether it was answered is not known."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One sending of one question, and what came back.

    ``outcome`` is ``answered``, ``unknown`` or a failure's code; ``text`` is set exactly if answered. Times
    are ISO 8601 in UTC, from the database's clock.
    """

    index: int
    attempt: int
    sent_at: str
    request: str
    """the exact ASCII body that was sent"""
    outcome: str
    http_status: int | None = None
    text: str | None = None
    body: bytes = b""
    latency_ms: int | None = None
    answered_at: str | None = None

    def to_record(self) -> dict[str, object]:
        """Fields without a value are left out."""
        record: dict[str, object] = {
            "index": self.index,
            "attempt": self.attempt,
            "sent_at": self.sent_at,
            "request": self.request,
            "outcome": self.outcome,
        }
        optional = {
            "http_status": self.http_status,
            "text": self.text,
            "latency_ms": self.latency_ms,
            "answered_at": self.answered_at,
        }
        record |= {name: value for name, value in optional.items() if value is not None}
        if self.outcome != UNKNOWN:
            record["body"] = base64.b64encode(self.body).decode("ascii")
        return record

    @classmethod
    def from_record(cls, value: object, path: str) -> Exchange:
        """Raises `MalformedEvidence`."""
        record = _object(value, path)
        known = {
            "index", "attempt", "sent_at", "request", "outcome", "http_status", "text", "latency_ms",
            "answered_at", "body",
        }  # fmt: skip
        if not set(record) <= known:
            raise MalformedEvidence(f"{path} has an unknown field")
        outcome = _get(record, "outcome", str, path)
        body = b""
        if outcome != UNKNOWN:
            try:
                body = base64.b64decode(_get(record, "body", str, path), validate=True)
            except (binascii.Error, ValueError):
                raise MalformedEvidence(f"{path}.body is not base64") from None
        exchange = cls(
            index=_get(record, "index", int, path),
            attempt=_get(record, "attempt", int, path),
            sent_at=_get(record, "sent_at", str, path),
            request=_get(record, "request", str, path),
            outcome=outcome,
            http_status=_get(record, "http_status", int, path) if "http_status" in record else None,
            text=_get(record, "text", str, path) if "text" in record else None,
            body=body,
            latency_ms=_get(record, "latency_ms", int, path) if "latency_ms" in record else None,
            answered_at=_get(record, "answered_at", str, path) if "answered_at" in record else None,
        )
        if exchange.to_record() != record:
            raise MalformedEvidence(f"{path} is not as this format writes it")
        return exchange


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """The public side of the key."""

    id: str
    owner: str
    """organization that committed to the key; part of the commitment"""
    origin: str
    grade: str
    commitment: str
    commitment_record: Mapping[str, object]
    """root and family commitments and the design, as published"""
    salt: str
    """hex; empty when there was none"""
    created_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """Everything but the digest around it. Law: ``read(write(document)) == document``."""

    verification: str
    claimant: str
    auditor: str
    key: KeyRecord
    opening: Mapping[str, object]
    nonces: Mapping[str, object]
    """what the pre-registration's commitments hid, and the beacon"""
    preregistration: str
    """the canonical text that was stored before the first question"""
    preregistration_sha256: str
    preregistered_at: str
    transcript: tuple[Exchange, ...]
    """in the order of sending"""
    asking_failure: str
    """why nothing could be sent at all (``dns``, ``not_allowed``), or empty"""
    peer_addresses: tuple[str, ...]
    peer_certificates_sha256: tuple[str, ...]
    decision: Mapping[str, object]
    verdict: str
    reasons: tuple[str, ...]
    started_at: str
    finished_at: str
    software: Mapping[str, object]

    def to_record(self) -> dict[str, object]:
        """Strings, integers, lists and objects with ASCII keys."""
        return {
            "verification": self.verification,
            "claimant": self.claimant,
            "auditor": self.auditor,
            "key": {
                "id": self.key.id,
                "owner": self.key.owner,
                "origin": self.key.origin,
                "grade": self.key.grade,
                "commitment": self.key.commitment,
                "commitment_record": dict(self.key.commitment_record),
                "salt": self.key.salt,
                "created_at": self.key.created_at,
            },
            "opening": dict(self.opening),
            "nonces": dict(self.nonces),
            "preregistration": {
                "text": self.preregistration,
                "sha256": self.preregistration_sha256,
                "registered_at": self.preregistered_at,
            },
            "transcript": [exchange.to_record() for exchange in self.transcript],
            "asking_failure": self.asking_failure,
            "peer": {
                "addresses": list(self.peer_addresses),
                "certificates_sha256": list(self.peer_certificates_sha256),
            },
            "decision": dict(self.decision),
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "started_at": self.started_at,
            "finished_at": self.finished_at,
            "software": dict(self.software),
        }

    @classmethod
    def from_record(cls, value: object) -> Document:
        """Raises `MalformedEvidence`."""
        record = _object(value, "document")
        key = _get(record, "key", dict, "document")
        preregistration = _get(record, "preregistration", dict, "document")
        peer = _get(record, "peer", dict, "document")
        document = cls(
            verification=_get(record, "verification", str, "document"),
            claimant=_get(record, "claimant", str, "document"),
            auditor=_get(record, "auditor", str, "document"),
            key=KeyRecord(
                id=_get(key, "id", str, "key"),
                owner=_get(key, "owner", str, "key"),
                origin=_get(key, "origin", str, "key"),
                grade=_get(key, "grade", str, "key"),
                commitment=_get(key, "commitment", str, "key"),
                commitment_record=_get(key, "commitment_record", dict, "key"),
                salt=_get(key, "salt", str, "key"),
                created_at=_get(key, "created_at", str, "key"),
            ),
            opening=_get(record, "opening", dict, "document"),
            nonces=_get(record, "nonces", dict, "document"),
            preregistration=_get(preregistration, "text", str, "preregistration"),
            preregistration_sha256=_get(preregistration, "sha256", str, "preregistration"),
            preregistered_at=_get(preregistration, "registered_at", str, "preregistration"),
            transcript=tuple(
                Exchange.from_record(item, f"transcript[{place}]")
                for place, item in enumerate(_get(record, "transcript", list, "document"))
            ),
            asking_failure=_get(record, "asking_failure", str, "document"),
            peer_addresses=_strings(peer, "addresses", "peer"),
            peer_certificates_sha256=_strings(peer, "certificates_sha256", "peer"),
            decision=_get(record, "decision", dict, "document"),
            verdict=_get(record, "verdict", str, "document"),
            reasons=_strings(record, "reasons", "document"),
            started_at=_get(record, "started_at", str, "document"),
            finished_at=_get(record, "finished_at", str, "document"),
            software=_get(record, "software", dict, "document"),
        )
        if document.to_record() != record:
            raise MalformedEvidence("the document has a field that this format does not have")
        return document


def preregistration_digest(text: str) -> str:
    """What is stored with a pre-registration and repeated in the evidence."""
    return digest(PREREGISTRATION_DOMAIN, text.encode())


def write(document: Document) -> bytes:
    """The exact bytes of the evidence file.

    Raises:
        watermark.errors.RecordError: a field has no canonical form.
    """
    record = document.to_record()
    return canonical_bytes(
        {
            "format": FORMAT,
            "document": record,
            "document_sha256": digest(EVIDENCE_DOMAIN, canonical_bytes(record)),
        }
    )


def is_settled(exchange: Exchange, retries: int) -> bool:
    """Whether a question whose last sending this is will not be sent again, whatever time is left."""
    return exchange.outcome not in RETRY_FAILURES or exchange.attempt >= retries


def last_sendings(transcript: Sequence[Exchange]) -> dict[int, Exchange]:
    """For each question that was sent its last attempt, which decides."""
    last: dict[int, Exchange] = {}
    for exchange in transcript:
        known = last.get(exchange.index)
        if known is None or exchange.attempt > known.attempt:
            last[exchange.index] = exchange
    return last


def final_replies(
    transcript: Sequence[Exchange], count: int, *, retries: int, asking_failure: str = ""
) -> tuple[list[Reply], list[str]]:
    """For each of ``count`` questions its reply, and for each one without an answer why.

    Indexes outside the range are ignored.
    """
    last = last_sendings(transcript)
    replies: list[Reply] = []
    failures: list[str] = []
    for index in range(count):
        final = last.get(index)
        text = final.text if final is not None and final.outcome == ANSWERED else None
        replies.append(Reply(text=text, settled=final is not None and is_settled(final, retries)))
        if text is None:
            failures.append(final.outcome if final is not None else asking_failure or NOT_ASKED)
    return replies, failures


def _object(value: object, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MalformedEvidence(f"{path} is not an object")
    return value


def _get(record: Mapping[str, Any], name: str, kind: type[T], path: str) -> T:
    value = record.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise MalformedEvidence(f"{path}.{name} is missing or has the wrong type")
    return value


def _strings(record: Mapping[str, Any], name: str, path: str) -> tuple[str, ...]:
    values = _get(record, name, list, path)
    if not all(isinstance(value, str) for value in values):
        raise MalformedEvidence(f"{path}.{name} is not a list of strings")
    return tuple(cast(list[str], values))
