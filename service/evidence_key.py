"""``python -m service.evidence_key``: another key signs the service's bundles from now on.

Prints the public lines of both: with both in a file of trust, old bundles verify as before.
"""

from __future__ import annotations

import base64
import os
import sys
from dataclasses import dataclass

from evidence.dsse import public_line
from service.keyfiles import replace_private
from service.settings import SEED_BYTES, Settings, SettingsError, load_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Public lines, as a file of trust takes them."""

    retired: str
    successor: str


def rotate(settings: Settings) -> Change:
    """Put a new key in the old one's place; the API reads the file at every bundle.

    Raises:
        SettingsError: the key file can't be read, or not be replaced.
    """
    name = settings.log_signer.name
    retired = settings.evidence_signer.public_key().public_bytes_raw()
    assert settings.evidence_key_file is not None, "evidence_signer has read it"
    try:
        seed = base64.b64encode(os.urandom(SEED_BYTES)).decode()
        replace_private(settings.evidence_key_file, f"{seed}\n")
    except OSError as error:
        raise SettingsError(f"{settings.evidence_key_file} can't be replaced: {error.strerror}") from None
    successor = settings.evidence_signer.public_key().public_bytes_raw()
    return Change(retired=public_line(retired, f"{name}, retired"), successor=public_line(successor, name))


def main() -> int:
    """0 when the key was changed."""
    try:
        made = rotate(load_settings())
    except SettingsError as error:
        print(str(error), file=sys.stderr)
        return 2
    print(f"{made.successor}\n{made.retired}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
