"""Envelopes: what is signed, and what is refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from evidence.canonical import canonical_bytes
from evidence.dsse import (
    IN_TOTO,
    EnvelopeError,
    TrustError,
    key_id,
    open_envelope,
    pae,
    public_line,
    seal,
)
from evidence.trust import parse_trust

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
TRUST = {key_id(PUBLIC): PUBLIC}


def test_the_encoding_is_that_of_the_protocols_own_example() -> None:
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_lengths_are_of_bytes_not_of_characters() -> None:
    assert pae("t\u00fc", "\u00fc".encode()) == "DSSEv1 3 t\u00fc 2 \u00fc".encode()


def test_what_was_sealed_opens_with_the_key_that_sealed_it() -> None:
    assert open_envelope(seal(b"payload", KEY), TRUST) == (b"payload", [key_id(PUBLIC)])
    assert open_envelope(seal(b"payload", KEY), {}) == (b"payload", [])
    assert open_envelope(seal(b"payload"), TRUST) == (b"payload", [])


def test_two_may_sign() -> None:
    other = Ed25519PrivateKey.from_private_bytes(bytes(32))
    assert open_envelope(seal(b"payload", other, KEY), TRUST)[1] == [key_id(PUBLIC)]


def _changed(**changes: Any) -> bytes:
    value = json.loads(seal(b"payload", KEY))
    for name, change in changes.items():
        if name in ("keyid", "sig"):
            value["signatures"][0][name] = change
        else:
            value[name] = change
    return canonical_bytes(value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        seal(b"payload", KEY) + b"\n",
        _changed(payloadType="text/plain"),
        _changed(payload=base64.b64encode(b"another").decode()),
        _changed(payload="cGF5bG9hZB=="),
        _changed(payload=7),
        _changed(signatures={}),
        _changed(signatures=[{"sig": ""}]),
        _changed(signatures=[{"keyid": "a", "sig": ""}, {"keyid": "a", "sig": ""}]),
        _changed(sig=base64.b64encode(bytes(64)).decode()),
        _changed(sig=""),
        _changed(note="trust me"),
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(EnvelopeError):
        open_envelope(data, TRUST)


def test_a_signature_of_one_type_is_none_of_another() -> None:
    """Type confusion: the same payload, signed as text and passed off as a statement."""
    value = json.loads(seal(b"payload", KEY, payload_type="text/plain"))
    with pytest.raises(EnvelopeError, match="does not fit"):
        open_envelope(canonical_bytes(value | {"payloadType": IN_TOTO}), TRUST)


def test_another_keys_id_on_a_signature_does_not_make_it_that_keys() -> None:
    other = Ed25519PrivateKey.from_private_bytes(bytes(32))
    value = json.loads(seal(b"payload", other))
    value["signatures"][0]["keyid"] = key_id(PUBLIC)
    with pytest.raises(EnvelopeError, match="does not fit"):
        open_envelope(canonical_bytes(value), TRUST)


def test_public_lines_are_read_back() -> None:
    assert parse_trust(f"# mine\n\n{public_line(PUBLIC, 'auditor')}\n").signers == TRUST
    assert public_line(PUBLIC) == f"ed25519 {PUBLIC.hex()}"


@pytest.mark.parametrize("text", ["", "# none", "rsa 00", "ed25519", "ed25519 zz", f"ed25519 {'00' * 31}"])
def test_a_line_that_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(TrustError):
        parse_trust(text)
