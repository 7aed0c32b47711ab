"""Typed errors of the evidence room."""

from __future__ import annotations

from typing import ClassVar


class EvidenceError(Exception):
    """Root of this room's errors; messages quote no secret and no answer."""

    code: ClassVar[str]


class NotCanonical(EvidenceError):
    """Bytes that are not JSON, or not the one spelling of their value."""

    code = "not_canonical"


class MalformedEvidence(EvidenceError):
    """A document that lacks a field, or has one of another type."""

    code = "malformed_evidence"


class ProofInvalid(EvidenceError):
    """A Merkle proof from which the claim does not follow."""

    code = "proof_invalid"


class NoteInvalid(EvidenceError):
    """A text that is no signed note, no checkpoint or no key, or a signature that is not the named key's."""

    code = "note_invalid"


class MalformedEntry(EvidenceError):
    """Bytes that are no entry of a log."""

    code = "malformed_entry"


class ReceiptInvalid(EvidenceError):
    """A log's receipt that proves nothing: unreadable, not signed by a key that counts, or not following."""

    code = "receipt_invalid"


class DisputeInvalid(EvidenceError):
    """Audits that make up no cross test: of other keys or models than the places say, or not standing."""

    code = "dispute_invalid"
