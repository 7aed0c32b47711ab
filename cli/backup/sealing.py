"""The data folder's keys under a passphrase: scrypt (RFC 7914), then AES-256-GCM.

The archive's manifest is authenticated with them, so nothing in an archive can be replaced by somebody who
does not know the passphrase.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from cli.errors import CliError, UsageMistake

PASSPHRASE_VARIABLE = "DOUBLEI_BACKUP_PASSPHRASE"
MIN_PASSPHRASE_CHARACTERS = 12
SCRYPT_N, SCRYPT_R, SCRYPT_P = 2**17, 8, 1
"""128 MiB and a third of a second; OWASP's first choice for scrypt (Password Storage Cheat Sheet, 2024)."""
MAX_SCRYPT_N = 2**20
SALT_BYTES = NONCE_BYTES = 16
KEY_BYTES = 32


class WrongPassphrase(CliError):
    """The keys do not open, or the archive is not the one that they were sealed with."""

    code = "wrong_passphrase"


def read_passphrase(file: Path | None) -> bytes | None:
    """From the file or the environment, never from a command line; None if neither is given.

    Raises:
        UsageMistake: it can't be read, or is too short.
    """
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageMistake(f"can't read the passphrase in {file}: {type(error).__name__}") from None
    elif (given := os.environ.get(PASSPHRASE_VARIABLE)) is not None:
        text = given
    else:
        return None
    if len(text) < MIN_PASSPHRASE_CHARACTERS:
        raise UsageMistake(f"the passphrase has fewer than {MIN_PASSPHRASE_CHARACTERS} characters")
    return text.encode()


def seal(keys: Mapping[str, bytes], passphrase: bytes, manifest: bytes) -> bytes:
    """The keys by name, to be opened with the same passphrase and the same manifest."""
    salt, nonce = os.urandom(SALT_BYTES), os.urandom(NONCE_BYTES)
    plain = json.dumps({name: _text(value) for name, value in keys.items()}).encode()
    sealed = AESGCM(_key(passphrase, salt, SCRYPT_N)).encrypt(nonce, plain, manifest)
    record = {
        "kdf": "scrypt",
        "n": SCRYPT_N,
        "salt": _text(salt),
        "nonce": _text(nonce),
        "sealed": _text(sealed),
    }
    return json.dumps(record).encode()


def unseal(record: bytes, passphrase: bytes, manifest: bytes) -> dict[str, bytes]:
    """Undo `seal`.

    Raises:
        WrongPassphrase: another passphrase, or a changed archive.
    """
    try:
        fields: dict[str, Any] = json.loads(record)
        n = int(fields["n"])
        if fields["kdf"] != "scrypt" or not 2**14 <= n <= MAX_SCRYPT_N or n & (n - 1):
            raise ValueError
        salt, nonce, sealed = (base64.b64decode(fields[name]) for name in ("salt", "nonce", "sealed"))
        plain = AESGCM(_key(passphrase, salt, n)).decrypt(nonce, sealed, manifest)
        return {str(name): base64.b64decode(value) for name, value in json.loads(plain).items()}
    except (InvalidTag, ValueError, KeyError, TypeError, AttributeError):
        raise WrongPassphrase(
            "the archive's keys don't open: it is another passphrase, or the archive was changed"
        ) from None


def _key(passphrase: bytes, salt: bytes, n: int) -> bytes:
    return Scrypt(salt=salt, length=KEY_BYTES, n=n, r=SCRYPT_R, p=SCRYPT_P).derive(passphrase)


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()
