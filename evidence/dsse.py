"""DSSE envelopes with Ed25519 (github.com/secure-systems-lab/dsse, protocol 1.0).

A signature covers `pae`: the payload's type and length stand before its bytes, so what was signed as one kind
of record can't be passed off as another. Whoever verifies uses the very bytes that were verified.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from evidence.canonical import canonical_bytes, parse_canonical
from evidence.errors import EvidenceError, NotCanonical

IN_TOTO = "application/vnd.in-toto+json"
ALGORITHM = "ed25519"
PUBLIC_BYTES = 32


class EnvelopeError(EvidenceError):
    """Bytes that are no envelope of the expected type, or whose signature does not fit."""

    code = "envelope_invalid"


class TrustError(EvidenceError):
    """A list of public keys that can't be read."""

    code = "trust_invalid"


def pae(payload_type: str, payload: bytes) -> bytes:
    """The pre-authentication encoding: the bytes that are signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def key_id(public: bytes) -> str:
    """Hex SHA-256 of the raw public key."""
    return sha256(public).hexdigest()


def seal(payload: bytes, *signers: Ed25519PrivateKey, payload_type: str = IN_TOTO) -> bytes:
    """An envelope over the payload in canonical JSON; without a signer it has no signatures."""
    signatures = [
        {
            "keyid": key_id(signer.public_key().public_bytes_raw()),
            "sig": base64.b64encode(signer.sign(pae(payload_type, payload))).decode("ascii"),
        }
        for signer in signers
    ]
    return canonical_bytes(
        {
            "payload": base64.b64encode(payload).decode("ascii"),
            "payloadType": payload_type,
            "signatures": signatures,
        }
    )


def open_envelope(
    data: bytes, trust: Mapping[str, bytes], *, payload_type: str = IN_TOTO
) -> tuple[bytes, list[str]]:
    """The payload, and the ids of the trusted keys that have signed it.

    Args:
        trust: raw public keys by their ids; signatures of other keys are passed over.

    Raises:
        EnvelopeError: it is no envelope of this type, or a trusted key's signature does not fit.
    """
    payload, signatures = _read(data, payload_type)
    signed = []
    for name, signature in signatures:
        if name not in trust:
            continue
        try:
            Ed25519PublicKey.from_public_bytes(trust[name]).verify(signature, pae(payload_type, payload))
        except (InvalidSignature, ValueError):
            raise EnvelopeError("the signature of a trusted key does not fit") from None
        signed.append(name)
    return payload, signed


def public_line(public: bytes, name: str = "") -> str:
    """How a public key is handed to others: ``ed25519``, the raw key in hex, and a name."""
    return f"{ALGORITHM} {public.hex()} {name}".rstrip()


def public_key(words: Sequence[str], number: int) -> bytes:
    """The raw public key in the words of a line as `public_line` writes it.

    Raises:
        TrustError: it is none; the message names the line by its number.
    """
    try:
        public = bytes.fromhex(words[1])
    except (IndexError, ValueError):
        public = b""
    if words[0] != ALGORITHM or len(public) != PUBLIC_BYTES or len(words[1]) != 2 * PUBLIC_BYTES:
        raise TrustError(
            f"line {number} is no public key: expected {ALGORITHM} and {2 * PUBLIC_BYTES} hex digits"
        )
    return public


def _read(data: bytes, payload_type: str) -> tuple[bytes, list[tuple[str, bytes]]]:
    try:
        value = parse_canonical(data)
    except NotCanonical as error:
        raise EnvelopeError(f"the envelope is {error}") from None
    if not isinstance(value, dict) or set(value) != {"payload", "payloadType", "signatures"}:
        raise EnvelopeError("not an envelope of payload, payloadType and signatures")
    if value["payloadType"] != payload_type:
        raise EnvelopeError(f"the payload's type is not {payload_type}")
    if not isinstance(value["signatures"], list):
        raise EnvelopeError("signatures is not a list")
    signatures = []
    for item in value["signatures"]:
        if not isinstance(item, dict) or set(item) != {"keyid", "sig"} or not isinstance(item["keyid"], str):
            raise EnvelopeError("a signature is not an object of keyid and sig")
        signatures.append((item["keyid"], _bytes(item["sig"])))
    if len({name for name, _ in signatures}) != len(signatures):
        raise EnvelopeError("a key has signed twice")
    return _bytes(value["payload"]), signatures


def _bytes(text: object) -> bytes:
    """Base64 in its one spelling."""
    try:
        data = base64.b64decode(text, validate=True) if isinstance(text, str) else None
    except (binascii.Error, ValueError):
        data = None
    if data is None or base64.b64encode(data).decode("ascii") != text:
        raise EnvelopeError("a part is not base64")
    return data
