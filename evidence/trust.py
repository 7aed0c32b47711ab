"""What a reader believes beforehand: keys that sign bundles, keys of logs, certificates of time stampers.

All three may stand in one file, each in the spelling in which its owner hands it out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.x509 import Certificate, load_pem_x509_certificate

from evidence.dsse import ALGORITHM, TrustError, key_id, public_key
from evidence.errors import NoteInvalid
from evidence.log.note import Kind, PublicKey

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Roots of trust. With none of a kind, what rests on that kind is not checked."""

    signers: Mapping[str, bytes] = field(default_factory=dict)
    """raw public keys of those who sign bundles, by their ids"""
    logs: tuple[PublicKey, ...] = ()
    authorities: tuple[Certificate, ...] = ()
    """roots of timestamp authorities"""

    @property
    def log_keys(self) -> dict[str, bytes]:
        """The logs' raw keys by name, plus sign and key id, as `evidence.verify` wants them."""
        return {f"{key.name}+{key.key_id.hex()}": key.key for key in self.logs}


def parse_trust(text: str) -> Trust:
    """Read a file of roots: lines ``ed25519 HEX NAME``, lines of C2SP verifier keys, PEM certificates.

    Keys of witnesses are passed over. ``#`` begins a comment line.

    Raises:
        TrustError: a line is none of these, or there is nothing in the file.
    """
    blocks = _CERTIFICATE.findall(text)
    try:
        authorities = tuple(load_pem_x509_certificate(block.encode()) for block in blocks)
    except ValueError:
        raise TrustError("a certificate can't be read") from None
    signers: dict[str, bytes] = {}
    logs: list[PublicKey] = []
    # what takes the place of a block keeps its line ends: numbers of lines stay those of the file
    rest = _CERTIFICATE.sub(lambda match: "\n" * match[0].count("\n"), text)
    for number, line in enumerate(rest.splitlines(), start=1):
        words = line.split()
        if not words or line.startswith("#"):
            continue
        if words[0] == ALGORITHM or "+" not in words[0]:
            key = public_key(words, number)
            signers[key_id(key)] = key
            continue
        try:
            log = PublicKey.from_text(words[0])
        except NoteInvalid as error:
            raise TrustError(f"line {number} is no public key: {error}") from None
        if log.kind is Kind.log:
            logs.append(log)
    if not (signers or logs or authorities):
        raise TrustError("there is no public key and no certificate")
    return Trust(signers=signers, logs=tuple(logs), authorities=authorities)
