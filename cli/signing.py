"""Keys that sign bundles: an Ed25519 private key in a PEM file that only its user can read."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from cli.errors import UsageMistake
from cli.files import create_private, write_private
from evidence.dsse import public_line
from evidence.errors import EvidenceError
from evidence.trust import Trust, parse_trust

MAX_FILE_BYTES = 64 * 1024


def create(path: Path) -> Ed25519PrivateKey:
    """Draw a key and write it to a new file.

    Raises:
        UsageMistake: there is something at ``path`` already, or it can't be written.
    """
    key = Ed25519PrivateKey.generate()
    try:
        create_private(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    except FileExistsError:
        raise UsageMistake(f"{path} is there already and is left as it is") from None
    except OSError as error:
        raise UsageMistake(f"{path}: {error.strerror}") from None
    return key


def replace(path: Path) -> tuple[Ed25519PrivateKey, Ed25519PrivateKey]:
    """Put a new key into the place of the one in a file; returns the old one and the new one. The old private
    key is gone with that: what it signed is checked with its public line.

    Raises:
        UsageMistake: the file can't be read or replaced, or holds no key.
    """
    old, new = read(path), Ed25519PrivateKey.generate()
    try:
        write_private(
            path, new.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")
        )
    except OSError as error:
        raise UsageMistake(f"{path}: {error.strerror}") from None
    return old, new


def read(path: Path) -> Ed25519PrivateKey:
    """The key in a file.

    Raises:
        UsageMistake: it can't be read, other users may read it, or it holds no Ed25519 private key.
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise UsageMistake(f"{path}: other users may read it; close it with: chmod 600 {path}")
            data = file.read(MAX_FILE_BYTES)
    except OSError as error:
        raise UsageMistake(f"{path}: {error.strerror}") from None
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageMistake(f"{path} holds no Ed25519 private key without a password")
    return key


def shown(key: Ed25519PrivateKey, name: str) -> str:
    """The public line to hand to others."""
    return public_line(key.public_key().public_bytes_raw(), name)


def trusted(path: Path | None) -> Trust:
    """What a file of public keys and certificates says to trust; nothing without a file.

    Raises:
        UsageMistake: it can't be read, or a line is no public key.
    """
    if path is None:
        return Trust()
    try:
        with path.open("rb") as file:
            return parse_trust(file.read(MAX_FILE_BYTES).decode())
    except OSError as error:
        raise UsageMistake(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, EvidenceError) as error:
        raise UsageMistake(f"{path}: {error}") from None
