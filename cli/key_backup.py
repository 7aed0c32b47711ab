"""The keys that an operator has to keep, in one file: under a passphrase, or as they are.

A backup is JSON. Under a passphrase its keys are AES-256-GCM under a key that scrypt makes of the passphrase
(RFC 7914; N = 2^17, r = 8, p = 1: OWASP's Password Storage Cheat Sheet); salt and nonce are bound in.
"""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from cli.errors import CliError

FORMAT = "double-i key backup"
VERSION = 1
MAX_FILE_BYTES = 64 * 1024
MIN_PASSPHRASE = 12
"""Characters. scrypt slows guessing down; it can't save a word from a dictionary."""
SALT_BYTES, NONCE_BYTES, KEY_BYTES = 16, 12, 32
SCRYPT_N, SCRYPT_R, SCRYPT_P = 2**17, 8, 1

NAMES = ("kek", "log-key", "witness-key", "evidence-key")
"""Files of the data folder's secrets that nothing can replace; the others are made anew."""


class BackupUnreadable(CliError):
    """A file that is no backup, was changed, or needs another passphrase."""

    code = "backup_unreadable"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyBackup:
    """The texts of key files by their names. ``repr`` hides them."""

    keys: dict[str, str] = field(repr=False)

    def written(self, passphrase: str | None) -> bytes:
        """The file's bytes; None writes the keys as they are."""
        head: dict[str, object] = {"format": FORMAT, "v": VERSION}
        if passphrase is None:
            return _json(head | {"keys": self.keys})
        salt, nonce = os.urandom(SALT_BYTES), os.urandom(NONCE_BYTES)
        head |= {"salt": _text(salt), "nonce": _text(nonce)}
        sealed = AESGCM(_key(passphrase, salt)).encrypt(nonce, _json(self.keys), _json(head))
        return _json(head | {"sealed": _text(sealed)})

    @classmethod
    def read(cls, data: bytes, passphrase: str | None) -> KeyBackup:
        """Read a backup.

        Raises:
            BackupUnreadable: it is none, was changed, or the passphrase is missing or another one.
        """
        record = _parsed(data)
        if record.get("format") != FORMAT or record.get("v") != VERSION:
            raise BackupUnreadable("the file is no key backup of this version")
        if "sealed" not in record:
            return cls(keys=_checked(record.get("keys")))
        if passphrase is None:
            raise BackupUnreadable("the backup is under a passphrase")
        try:
            sealed = base64.b64decode(str(record.pop("sealed")), validate=True)
            salt, nonce = _two(record)
            opened = AESGCM(_key(passphrase, salt)).decrypt(nonce, sealed, _json(record))
        except (InvalidTag, ValueError, KeyError, TypeError):
            raise BackupUnreadable("another passphrase is needed, or the backup was changed") from None
        return cls(keys=_checked(_parsed(opened)))


def is_sealed(data: bytes) -> bool:
    """Whether a passphrase is needed.

    Raises:
        BackupUnreadable: it is no backup.
    """
    return "sealed" in _parsed(data)


def _key(passphrase: str, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=KEY_BYTES, n=SCRYPT_N, r=SCRYPT_R, p=SCRYPT_P).derive(passphrase.encode())


def _two(record: dict[str, object]) -> tuple[bytes, bytes]:
    salt, nonce = (base64.b64decode(str(record[name]), validate=True) for name in ("salt", "nonce"))
    if (len(salt), len(nonce)) != (SALT_BYTES, NONCE_BYTES):
        raise ValueError
    return salt, nonce


def _parsed(data: bytes) -> dict[str, object]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise BackupUnreadable("the file is no key backup")
    return value


def _checked(keys: object) -> dict[str, str]:
    if not isinstance(keys, dict) or not keys or not set(keys) <= set(NAMES):
        raise BackupUnreadable("the backup holds no keys, or others than this version knows")
    if not all(isinstance(text, str) and text.isascii() for text in keys.values()):
        raise BackupUnreadable("a key of the backup is no text")
    return keys


def _json(value: dict[str, object] | dict[str, str]) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True).encode("ascii") + b"\n"


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
