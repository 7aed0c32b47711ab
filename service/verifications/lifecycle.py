"""A verification's status says whether probing finished; its verdict says what was found."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class VerificationStatus(StrEnum):
    """How far the audit is."""

    awaiting_nonce = "awaiting_nonce"
    """pre-registered with an auditor's commitment; its nonce has not been shown yet."""
    queued = "queued"
    running = "running"
    paused = "paused"
    """a sequential audit that ran out of time undecided; it can be continued or concluded."""
    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"


class Verdict(StrEnum):
    """What the answers show. Never more than that."""

    detected = "detected"
    not_detected = "not_detected"
    inconclusive = "inconclusive"


TERMINAL = frozenset({VerificationStatus.succeeded, VerificationStatus.failed, VerificationStatus.cancelled})

WAITING = (VerificationStatus.awaiting_nonce, VerificationStatus.queued, VerificationStatus.paused)
"""States in which no worker has the audit."""

TRANSITIONS: Mapping[VerificationStatus, frozenset[VerificationStatus]] = {
    VerificationStatus.awaiting_nonce: frozenset({VerificationStatus.queued, VerificationStatus.cancelled}),
    VerificationStatus.paused: frozenset({VerificationStatus.queued, VerificationStatus.cancelled}),
    VerificationStatus.queued: frozenset(
        {VerificationStatus.running, VerificationStatus.failed, VerificationStatus.cancelled}
    ),
    VerificationStatus.running: frozenset(
        {
            VerificationStatus.succeeded,
            VerificationStatus.failed,
            VerificationStatus.cancelled,
            VerificationStatus.queued,
            VerificationStatus.paused,
        }
    ),
    VerificationStatus.succeeded: frozenset(),
    VerificationStatus.failed: frozenset(),
    VerificationStatus.cancelled: frozenset(),
}
