"""A verification's status says whether probing finished; its verdict says what was found."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class VerificationStatus(StrEnum):
    """How far the audit is."""

    queued = "queued"
    running = "running"
    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"


class Verdict(StrEnum):
    """What the answers show. Never more than that."""

    detected = "detected"
    not_detected = "not_detected"
    inconclusive = "inconclusive"


TERMINAL = frozenset({VerificationStatus.succeeded, VerificationStatus.failed, VerificationStatus.cancelled})

TRANSITIONS: Mapping[VerificationStatus, frozenset[VerificationStatus]] = {
    VerificationStatus.queued: frozenset(
        {VerificationStatus.running, VerificationStatus.failed, VerificationStatus.cancelled}
    ),
    VerificationStatus.running: frozenset(
        {
            VerificationStatus.succeeded,
            VerificationStatus.failed,
            VerificationStatus.cancelled,
            VerificationStatus.queued,
        }
    ),
    VerificationStatus.succeeded: frozenset(),
    VerificationStatus.failed: frozenset(),
    VerificationStatus.cancelled: frozenset(),
}
