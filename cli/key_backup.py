"""The keys that an operator has to keep, in one file: under a passphrase, or as they are.

A backup is JSON. Under a passphrase its keys are sealed as those of a whole backup are
(`cli.backup.sealing`), with everything else in the file bound in.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from cli.backup import sealing
from cli.errors import CliError

FORMAT = "double-i key backup"
VERSION = 1
MAX_FILE_BYTES = 64 * 1024

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
        raw = {name: text.encode("ascii") for name, text in self.keys.items()}
        sealed = sealing.seal(raw, passphrase.encode(), _json(head))
        return _json(head | {"sealed": sealed.decode("ascii")})

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
        sealed = str(record.pop("sealed")).encode()
        try:
            opened = sealing.unseal(sealed, passphrase.encode(), _json(record))
            return cls(keys=_checked({name: raw.decode("ascii") for name, raw in opened.items()}))
        except (sealing.WrongPassphrase, UnicodeDecodeError):
            raise BackupUnreadable("another passphrase is needed, or the backup was changed") from None


def is_sealed(data: bytes) -> bool:
    """Whether a passphrase is needed.

    Raises:
        BackupUnreadable: it is no backup.
    """
    return "sealed" in _parsed(data)


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
