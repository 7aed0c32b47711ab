"""Who fixed the order of the questions: nobody alone.

The service draws a nonce and commits to it in the pre-registration; the auditor may have committed to one
before that. Only then is the auditor's nonce shown, and with it, if wanted, a value of a public beacon that
came later than both. The seed of the order is a hash of all of them, so no party could choose it.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

from watermark.canonical import canonical_bytes
from watermark.errors import OpeningError, RecordError
from watermark.keys import unhex
from watermark.prf import digest

NONCE_BYTES = 32
BEACON_FIELDS = ("source", "round", "value")
MAX_BEACON_CHARS = 256
SERVICE, AUDITOR = "service", "auditor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Nonces:
    """What was shown. ``auditor`` is empty when there was none; ``beacon`` is the auditor's word."""

    service: bytes = field(repr=False)
    auditor: bytes = field(default=b"", repr=False)
    beacon: Mapping[str, str] | None = None

    @property
    def order_seed(self) -> bytes:
        """What the order of the questions, the canaries and their places are drawn from."""
        beacon = b"" if self.beacon is None else canonical_bytes(dict(self.beacon))
        return digest("doublei/order-seed/v1", self.service, self.auditor, beacon)

    def to_record(self) -> dict[str, object]:
        """Hexadecimal; an absent beacon is left out."""
        record: dict[str, object] = {"service": self.service.hex(), "auditor": self.auditor.hex()}
        return record if self.beacon is None else record | {"beacon": dict(self.beacon)}

    @classmethod
    def from_record(cls, value: object) -> Nonces:
        """Raises `RecordError`."""
        if not isinstance(value, Mapping) or not set(value) <= {"service", "auditor", "beacon"}:
            raise RecordError("nonces is not an object with service, auditor and beacon")
        beacon = None if "beacon" not in value else parse_beacon(value["beacon"])
        return cls(
            service=unhex(value.get("service"), "nonces.service"),
            auditor=unhex(value.get("auditor"), "nonces.auditor"),
            beacon=beacon,
        )


def parse_beacon(value: object) -> dict[str, str]:
    """``{"source", "round", "value"}``, each a short text.

    Raises:
        RecordError: it is not.
    """
    if not isinstance(value, Mapping) or set(value) != set(BEACON_FIELDS):
        raise RecordError("a beacon has source, round and value")
    for name in BEACON_FIELDS:
        text = value[name]
        if not isinstance(text, str) or not 0 < len(text) <= MAX_BEACON_CHARS or not text.isprintable():
            raise RecordError(f"beacon.{name} is not a text of 1 to {MAX_BEACON_CHARS} characters")
    return {name: str(value[name]) for name in BEACON_FIELDS}


def nonce_commitment(party: str, nonce: bytes) -> str:
    """hex SHA-256 under which a party hides its nonce; 32 random bytes need no blinding.

    Raises:
        RecordError: the nonce has another length.
    """
    if len(nonce) != NONCE_BYTES:
        raise RecordError(f"a nonce has {NONCE_BYTES} bytes")
    return digest("doublei/nonce/v1", party.encode(), nonce).hex()


def check_nonces(committed: object, nonces: Nonces) -> None:
    """Whether the shown nonces are those that the pre-registration's ``nonces`` commit to.

    Raises:
        OpeningError: one is not, or is missing, or was not announced.
        RecordError: the commitments are malformed.
    """
    if not isinstance(committed, Mapping) or set(committed) != {SERVICE, AUDITOR}:
        raise RecordError("the pre-registration's nonces are not two commitments")
    for party, nonce in ((SERVICE, nonces.service), (AUDITOR, nonces.auditor)):
        expected = committed[party]
        if expected == "" and party == AUDITOR:
            if nonce or nonces.beacon is not None:
                raise OpeningError("the auditor had not announced a nonce")
            continue
        actual = nonce_commitment(party, nonce) if len(nonce) == NONCE_BYTES else ""
        if not isinstance(expected, str) or not hmac.compare_digest(actual, expected):
            raise OpeningError(f"the {party}'s nonce is not the committed one")
