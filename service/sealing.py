"""Secrets at rest: AES-256-GCM under a random data key, which is wrapped by the key-encryption key.

Layout of a sealed value, version 1::

    "DIS1" | kek id (8) | nonce (12) | wrapped data key (32+16) | nonce (12) | ciphertext + tag

Both encryptions are bound to the header and to (purpose, owner, subject), so a sealed value copied into
another row, tenant or column does not open there.
"""

from __future__ import annotations

import base64
import hmac
import os
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import SecretStr

from service.errors import ServiceError

MAGIC = b"DIS1"
KEK_ID_BYTES = 8
NONCE_BYTES = 12
KEY_BYTES = 32
TAG_BYTES = 16
HEADER_BYTES = len(MAGIC) + KEK_ID_BYTES
_WRAPPED_END = HEADER_BYTES + NONCE_BYTES + KEY_BYTES + TAG_BYTES
MINIMUM_BYTES = _WRAPPED_END + NONCE_BYTES + TAG_BYTES


class SealBroken(ServiceError):
    """A sealed value can't be opened: damaged, moved, or sealed under another key-encryption key."""

    status = 500
    code = "sealed_value_unreadable"
    type = "server_error"


class Sealer:
    """Seals and opens small secrets. Holds the key-encryption key; shows it nowhere."""

    __slots__ = ("_fingerprint_key", "_kek", "kek_id")

    def __init__(self, kek: bytes) -> None:
        """``kek`` is 32 bytes.

        Raises:
            ValueError: it has another length.
        """
        if len(kek) != KEY_BYTES:
            raise ValueError(f"the key-encryption key has {len(kek)} bytes, not {KEY_BYTES}")
        self._kek = AESGCM(kek)
        self.kek_id = sha256(b"doublei/kek-id/v1" + kek).digest()[:KEK_ID_BYTES]
        self._fingerprint_key = sha256(b"doublei/fingerprint-key/v1" + kek).digest()

    @classmethod
    def from_base64(cls, text: SecretStr) -> Sealer:
        """From the settings' form of the key."""
        return cls(base64.b64decode(text.get_secret_value(), validate=True))

    def __repr__(self) -> str:
        return f"Sealer(kek_id={self.kek_id.hex()})"

    def fingerprint(self, *parts: bytes) -> bytes:
        """32 bytes that are the same for the same parts; without the key they can't be guessed at."""
        mac = hmac.new(self._fingerprint_key, digestmod=sha256)
        for part in parts:
            mac.update(len(part).to_bytes(8, "big") + part)
        return mac.digest()

    def seal(self, plaintext: bytes, *, purpose: str, owner: str, subject: str) -> bytes:
        """Encrypt for one place: the same three names are needed to open it again."""
        header = MAGIC + self.kek_id
        context = _context(header, purpose, owner, subject)
        data_key = AESGCM.generate_key(KEY_BYTES * 8)
        wrap_nonce, nonce = os.urandom(NONCE_BYTES), os.urandom(NONCE_BYTES)
        wrapped = self._kek.encrypt(wrap_nonce, data_key, b"key" + context)
        return (
            header
            + wrap_nonce
            + wrapped
            + nonce
            + AESGCM(data_key).encrypt(nonce, plaintext, b"data" + context)
        )

    def open(self, sealed: bytes, *, purpose: str, owner: str, subject: str) -> bytes:
        """Decrypt.

        Raises:
            SealBroken: the bytes were changed, belong elsewhere, or were sealed under another key.
        """
        if len(sealed) < MINIMUM_BYTES or not sealed.startswith(MAGIC):
            raise SealBroken("a sealed value is damaged or of an unknown version")
        header = sealed[:HEADER_BYTES]
        if header[len(MAGIC) :] != self.kek_id:
            raise SealBroken(
                f"a value was sealed under the key-encryption key {header[len(MAGIC) :].hex()},"
                f" but DOUBLEI_KEK_FILE holds {self.kek_id.hex()}"
            )
        context = _context(header, purpose, owner, subject)
        wrap_nonce, wrapped = _split(sealed[HEADER_BYTES:_WRAPPED_END])
        nonce, ciphertext = _split(sealed[_WRAPPED_END:])
        try:
            data_key = self._kek.decrypt(wrap_nonce, wrapped, b"key" + context)
            return AESGCM(data_key).decrypt(nonce, ciphertext, b"data" + context)
        except InvalidTag:
            raise SealBroken("a sealed value does not open here: it was changed or moved") from None


def _split(value: bytes) -> tuple[bytes, bytes]:
    return value[:NONCE_BYTES], value[NONCE_BYTES:]


def _context(header: bytes, *names: str) -> bytes:
    encoded = (name.encode() for name in names)
    return header + b"".join(len(name).to_bytes(8, "big") + name for name in encoded)
