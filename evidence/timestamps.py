"""Timestamps of others (RFC 3161): a signature of an authority over a digest and a time.

What is stamped is a checkpoint's text, and with it everything that lies under it in the log. No connection is
opened here: service.stamping asks an authority, and whoever checks needs its root certificate alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from cryptography.x509 import Certificate
from rfc3161_client import (
    HashAlgorithm,
    TimestampRequestBuilder,
    TimeStampResponse,
    VerificationError,
    VerifierBuilder,
    decode_timestamp_response,
)

from evidence.errors import EvidenceError

SHA256_OID = "2.16.840.1.101.3.4.2.1"
MAX_REPLY_BYTES = 64 * 1024
RESOLUTION = timedelta(seconds=1)
"""Most authorities give whole seconds, rounded down: what says 12:00:05 may have been made at 12:00:05.9."""
SKEW = timedelta(seconds=60)
"""By so much two honest clocks may differ: a stamp that is older than what it stamps by more is refused. The
times of a stamp are whole seconds."""


class TimestampInvalid(EvidenceError):
    """Bytes that are no timestamp of this text by this authority."""

    code = "timestamp_invalid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What an authority is sent, ``application/timestamp-query``."""

    body: bytes
    nonce: int


def question(text: str) -> Question:
    """Ask for a stamp over the SHA-256 of a checkpoint's text, with the authority's certificates in it."""
    builder = TimestampRequestBuilder().data(text.encode()).hash_algorithm(HashAlgorithm.SHA256)
    built = builder.cert_request(cert_request=True).build()
    assert built.nonce is not None  # the builder's default
    return Question(body=built.as_bytes(), nonce=built.nonce)


def stamped_at(reply: bytes, text: str) -> datetime:
    """When the stamp says that this text was there; whose stamp it is, is for `verify` to say.

    Raises:
        TimestampInvalid: it is no granted reply, or over another text.
    """
    return _time_of(_read(reply), text)


def verify(
    reply: bytes, text: str, authorities: Sequence[Certificate], *, nonce: int | None = None
) -> datetime:
    """When one of these authorities, known by their roots, has stamped this text.

    Args:
        nonce: of one's own question; None when somebody else asked.

    Raises:
        TimestampInvalid: none has, or the nonce is another one.
    """
    made = _read(reply)
    time = _time_of(made, text)
    builder = VerifierBuilder(roots=list(authorities), nonce=nonce)
    try:
        builder.build().verify(made, sha256(text.encode()).digest())
    except (VerificationError, ValueError):
        raise TimestampInvalid("its signature is not of an authority that you trust") from None
    return time


def contradiction(stamp: datetime, *, logged_at: str, before: str | None) -> str:
    """Why a stamp can't be what it is given for; "" if it can.

    Args:
        logged_at: of the entry that it is to prove.
        before: time of the entry that had to come later, or None.
    """
    if before is not None and stamp + RESOLUTION > _moment(before):
        return f"stamped at {shown(stamp)}, when what had to come later was already entered ({before})"
    if stamp < _moment(logged_at) - SKEW:
        return f"stamped at {shown(stamp)}, before what it covers was entered ({logged_at})"
    return ""


def shown(moment: datetime) -> str:
    """As in a report."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _read(reply: bytes) -> TimeStampResponse:
    if len(reply) > MAX_REPLY_BYTES:
        raise TimestampInvalid("larger than any timestamp")
    try:
        made = decode_timestamp_response(reply)
        if made.as_bytes() != reply:
            raise ValueError("in another spelling than its own")
    except ValueError as error:
        raise TimestampInvalid(f"no reply of a timestamp authority: {error}") from None
    return made


def _time_of(made: TimeStampResponse, text: str) -> datetime:
    try:
        info = made.tst_info
    except ValueError:
        raise TimestampInvalid("the authority granted no timestamp") from None
    imprint = info.message_imprint
    if (
        imprint.hash_algorithm.dotted_string != SHA256_OID
        or imprint.message != sha256(text.encode()).digest()
    ):
        raise TimestampInvalid("it stamps something else than this checkpoint")
    return info.gen_time
