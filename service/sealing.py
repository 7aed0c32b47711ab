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
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import SecretStr

from service.errors import ServiceError
from service.settings import Settings

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
    """Seals and opens small secrets. Holds the key-encryption keys; shows them nowhere.

    One key seals. Another one may be held beside it, to open what was sealed before the key was changed. A
    sealer of a key file looks at the file again, so a change of the key needs no restart.
    """

    __slots__ = ("_file", "_held", "_oldest", "_stamp")

    def __init__(self, kek: bytes, *older: bytes, file: Path | None = None) -> None:
        """Every key is 32 bytes; the first one seals.

        Args:
            file: where the keys come from, looked at again before something is sealed, and when a key is
                wanted that is not held.

        Raises:
            ValueError: a key has another length.
        """
        self._held = _hold((kek, *older))
        self._oldest = (kek, *older)[-1]
        self._file = file
        self._stamp: tuple[int, ...] | None = None

    @classmethod
    def from_base64(cls, text: SecretStr) -> Sealer:
        """From the settings' form of the keys: a line each."""
        return cls(*_parse(text.get_secret_value()))

    @classmethod
    def from_settings(cls, settings: Settings) -> Sealer:
        """From the key file, and from what stands there later."""
        return cls(*_parse(settings.kek.get_secret_value()), file=settings.kek_file)

    @property
    def kek_id(self) -> bytes:
        """Of the key that seals."""
        return next(iter(self._held))

    @property
    def kek_ids(self) -> tuple[bytes, ...]:
        """Of every key that opens, the one that seals first."""
        return tuple(self._held)

    def __repr__(self) -> str:
        return f"Sealer(kek_id={self.kek_id.hex()})"

    def fingerprint(self, *parts: bytes) -> bytes:
        """32 bytes that are the same for the same parts; without the key they can't be guessed at. They stay
        the same while the key is changed, until the old one is dropped."""
        self._look_again()
        key = sha256(b"doublei/fingerprint-key/v1" + self._oldest).digest()
        mac = hmac.new(key, digestmod=sha256)
        for part in parts:
            mac.update(len(part).to_bytes(8, "big") + part)
        return mac.digest()

    def seal(self, plaintext: bytes, *, purpose: str, owner: str, subject: str) -> bytes:
        """Encrypt for one place: the same three names are needed to open it again."""
        self._look_again()
        kek_id, kek = next(iter(self._held.items()))
        header = MAGIC + kek_id
        context = _context(header, purpose, owner, subject)
        data_key = AESGCM.generate_key(KEY_BYTES * 8)
        wrap_nonce, nonce = os.urandom(NONCE_BYTES), os.urandom(NONCE_BYTES)
        wrapped = kek.encrypt(wrap_nonce, data_key, b"key" + context)
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
        wanted = header[len(MAGIC) :]
        if wanted not in self._held:
            self._look_again()
        kek = self._held.get(wanted)
        if kek is None:
            held = " and ".join(one.hex() for one in self._held)
            raise SealBroken(
                f"a value was sealed under the key-encryption key {wanted.hex()},"
                f" but DOUBLEI_KEK_FILE holds {held}"
            )
        context = _context(header, purpose, owner, subject)
        wrap_nonce, wrapped = _split(sealed[HEADER_BYTES:_WRAPPED_END])
        nonce, ciphertext = _split(sealed[_WRAPPED_END:])
        try:
            data_key = kek.decrypt(wrap_nonce, wrapped, b"key" + context)
            return AESGCM(data_key).decrypt(nonce, ciphertext, b"data" + context)
        except InvalidTag:
            raise SealBroken("a sealed value does not open here: it was changed or moved") from None

    def _look_again(self) -> None:
        """Take the keys of the file if it was replaced. One that can't be read changes nothing."""
        if self._file is None:
            return
        try:
            status = self._file.stat()
            stamp = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
            if stamp == self._stamp:
                return
            keys = _parse(self._file.read_text(encoding="ascii"))
            self._held, self._oldest = _hold(keys), keys[-1]
        except (OSError, ValueError):
            return
        self._stamp = stamp


def kek_id(kek: bytes) -> bytes:
    """What names a key-encryption key and tells nothing of it: 8 bytes."""
    return sha256(b"doublei/kek-id/v1" + kek).digest()[:KEK_ID_BYTES]


def sealed_under(sealed: bytes) -> bytes:
    """The id of the key that a value was sealed under."""
    return sealed[len(MAGIC) : HEADER_BYTES]


def _hold(keys: Sequence[bytes]) -> dict[bytes, AESGCM]:
    for kek in keys:
        if len(kek) != KEY_BYTES:
            raise ValueError(f"the key-encryption key has {len(kek)} bytes, not {KEY_BYTES}")
    return {kek_id(kek): AESGCM(kek) for kek in keys}


def _parse(text: str) -> tuple[bytes, ...]:
    """The keys of a file, a line each."""
    keys = tuple(base64.b64decode(line, validate=True) for line in text.split())
    if not keys:
        raise ValueError("there is no key-encryption key")
    return keys


def _split(value: bytes) -> tuple[bytes, bytes]:
    return value[:NONCE_BYTES], value[NONCE_BYTES:]


def _context(header: bytes, *names: str) -> bytes:
    encoded = (name.encode() for name in names)
    return header + b"".join(len(name).to_bytes(8, "big") + name for name in encoded)
