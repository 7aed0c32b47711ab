"""Sealed values open in their own place, unchanged, under their own key, and nowhere else."""

from __future__ import annotations

import base64
import os
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from service.sealing import MINIMUM_BYTES, SealBroken, Sealer

PLACE = {"purpose": "watermark-secret", "owner": "org-1", "subject": "wm-1"}


@pytest.fixture
def sealer() -> Sealer:
    """A sealer with a fresh key."""
    return Sealer(os.urandom(32))


@given(st.binary(max_size=300))
def test_what_is_sealed_opens_again(plaintext: bytes) -> None:
    sealer = Sealer(bytes(range(32)))
    assert sealer.open(sealer.seal(plaintext, **PLACE), **PLACE) == plaintext


def test_every_flipped_byte_is_noticed(sealer: Sealer) -> None:
    sealed = sealer.seal(b"secret", **PLACE)
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        with pytest.raises(SealBroken):
            sealer.open(bytes(changed), **PLACE)


def test_every_truncation_is_noticed(sealer: Sealer) -> None:
    sealed = sealer.seal(b"", **PLACE)
    assert len(sealed) == MINIMUM_BYTES
    for length in range(len(sealed)):
        with pytest.raises(SealBroken):
            sealer.open(sealed[:length], **PLACE)


@pytest.mark.parametrize("part", ["purpose", "owner", "subject"])
def test_it_does_not_open_in_another_place(sealer: Sealer, part: str) -> None:
    sealed = sealer.seal(b"secret", **PLACE)
    with pytest.raises(SealBroken):
        sealer.open(sealed, **(PLACE | {part: "other"}))


def test_names_can_not_be_shifted_into_each_other(sealer: Sealer) -> None:
    sealed = sealer.seal(b"secret", purpose="ab", owner="c", subject="d")
    with pytest.raises(SealBroken):
        sealer.open(sealed, purpose="a", owner="bc", subject="d")


def test_another_key_is_named_and_not_tried(sealer: Sealer) -> None:
    """The message says which key is wanted and which is there, and shows neither."""
    other = Sealer(os.urandom(32))
    with pytest.raises(SealBroken) as caught:
        other.open(sealer.seal(b"secret", **PLACE), **PLACE)
    assert sealer.kek_id.hex() in caught.value.message
    assert other.kek_id.hex() in caught.value.message


def test_the_same_value_never_looks_the_same(sealer: Sealer) -> None:
    assert len({sealer.seal(b"secret", **PLACE) for _ in range(50)}) == 50


def test_nothing_shows_the_key(sealer: Sealer) -> None:
    kek = bytes(range(32))
    assert kek.hex() not in repr(Sealer(kek))
    assert base64.b64encode(kek).decode() not in repr(Sealer(kek))
    with pytest.raises(ValueError, match="16 bytes"):
        Sealer(b"x" * 16)


def test_from_settings() -> None:
    kek = os.urandom(32)
    sealer = Sealer.from_base64(SecretStr(base64.b64encode(kek).decode()))
    assert sealer.kek_id == Sealer(kek).kek_id


def test_the_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(SealBroken("damaged")))  # noqa: S301
    assert (type(error), error.message, error.status) == (SealBroken, "damaged", 500)
