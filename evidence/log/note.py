"""Signed notes: a text and one line for each signature below it (C2SP signed-note, v1).

A key is known by its name and by the first four bytes of a hash over name, kind and public key. Two kinds are
used here: a log's own Ed25519 signature over the text, and a witness's over the text and a time
(C2SP tlog-cosignature, "Ed25519 signed message").
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from evidence.errors import NoteInvalid

MAX_NOTE_BYTES = 64 * 1024
MAX_SIGNATURES = 64
KEY_BYTES, KEY_ID_BYTES, SIGNATURE_BYTES, TIME_BYTES = 32, 4, 64, 8

_NAME = re.compile(r"[^\s+\x00-\x1f\x7f]{1,200}")
_LINE = re.compile(r"— ([^\s+\x00-\x1f\x7f]{1,200}) ([A-Za-z0-9+/]+={0,2})")


class Kind(IntEnum):
    """The signature types of the specification that are used here."""

    log = 0x01
    witness = 0x04


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """Whose signature is believed. As text: ``name+hex key id+base64(kind || key)``, a vkey."""

    name: str
    kind: Kind
    key: bytes

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise NoteInvalid("a key's name has no space, no plus and at most 200 characters")
        if len(self.key) != KEY_BYTES:
            raise NoteInvalid(f"an Ed25519 public key has {KEY_BYTES} bytes")

    @property
    def key_id(self) -> bytes:
        """Four bytes; they tell keys apart and prove nothing."""
        material = self.name.encode() + b"\n" + bytes([self.kind]) + self.key
        return sha256(material).digest()[:KEY_ID_BYTES]

    def __str__(self) -> str:
        material = base64.b64encode(bytes([self.kind]) + self.key).decode()
        return f"{self.name}+{self.key_id.hex()}+{material}"

    @classmethod
    def from_text(cls, text: str) -> PublicKey:
        """Read a vkey.

        Raises:
            NoteInvalid: it is none, or its id is not its key's.
        """
        name, _, rest = text.strip().partition("+")
        key_id, _, encoded = rest.partition("+")
        material = _decode(encoded)
        if len(material) != 1 + KEY_BYTES or material[0] not in list(Kind):
            raise NoteInvalid("not a verifier key: name+id+base64 of an Ed25519 key")
        made = cls(name=name, kind=Kind(material[0]), key=material[1:])
        if made.key_id.hex() != key_id:
            raise NoteInvalid(f"the id of {name}'s key is not the one beside it")
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """A private key with its name. ``repr`` hides it."""

    name: str
    kind: Kind
    seed: bytes = field(repr=False)
    """32 bytes, the Ed25519 private key"""

    @property
    def public(self) -> PublicKey:
        key = Ed25519PrivateKey.from_private_bytes(self.seed).public_key().public_bytes_raw()
        return PublicKey(name=self.name, kind=self.kind, key=key)

    def sign(self, text: str, *, time: int = 0) -> Signature:
        """One signature line for a text. ``time`` is a witness's, in seconds since the epoch."""
        private = Ed25519PrivateKey.from_private_bytes(self.seed)
        signed = private.sign(_message(self.kind, text, time))
        blob = signed if self.kind is Kind.log else time.to_bytes(TIME_BYTES, "big") + signed
        return Signature(name=self.name, key_id=self.public.key_id, blob=blob)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """One line below a text; what it is worth is for `verify` to say."""

    name: str
    key_id: bytes
    blob: bytes

    def __str__(self) -> str:
        return f"— {self.name} {base64.b64encode(self.key_id + self.blob).decode()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A text, which ends in a newline, and its signatures, none of them checked yet.

    Law: ``Note.from_text(str(note)) == note``.
    """

    text: str
    signatures: tuple[Signature, ...]

    def __str__(self) -> str:
        return f"{self.text}\n" + "".join(f"{one}\n" for one in self.signatures)

    @classmethod
    def from_text(cls, whole: str) -> Note:
        """Read a note.

        Raises:
            NoteInvalid: it is none.
        """
        if len(whole.encode("utf-8", "surrogatepass")) > MAX_NOTE_BYTES:
            raise NoteInvalid("larger than any note")
        if any(ord(char) < 0x20 and char != "\n" for char in whole):
            raise NoteInvalid("a note has no control characters")
        text, blank, lines = whole.rpartition("\n\n")
        if not blank or not lines.endswith("\n"):
            raise NoteInvalid("not a text, an empty line and signature lines")
        read = [_LINE.fullmatch(line) for line in lines[:-1].split("\n")]
        if len(read) > MAX_SIGNATURES:
            raise NoteInvalid("too many signatures")
        signatures = []
        for match in read:
            blob = _decode(match[2]) if match else b""
            if match is None or len(blob) <= KEY_ID_BYTES:
                raise NoteInvalid("a line below the text is no signature")
            signatures.append(Signature(name=match[1], key_id=blob[:KEY_ID_BYTES], blob=blob[KEY_ID_BYTES:]))
        return cls(text=f"{text}\n", signatures=tuple(signatures))


def verify(note: Note, keys: Sequence[PublicKey]) -> dict[PublicKey, int]:
    """Which of the keys have signed, each with its time (0 for a log's). Unknown signatures are ignored.

    Raises:
        NoteInvalid: a signature that names a known key is not that key's.
    """
    found = {}
    for key in keys:
        for signature in note.signatures:
            if (signature.name, signature.key_id) == (key.name, key.key_id):
                found[key] = _verify(note.text, signature, key)
    return found


def _verify(text: str, signature: Signature, key: PublicKey) -> int:
    blob, time = signature.blob, 0
    if key.kind is Kind.witness:
        time, blob = int.from_bytes(blob[:TIME_BYTES], "big"), blob[TIME_BYTES:]
    try:
        if time >= 1 << 63:
            raise InvalidSignature
        Ed25519PublicKey.from_public_bytes(key.key).verify(blob, _message(key.kind, text, time))
    except (InvalidSignature, ValueError):
        raise NoteInvalid(f"the signature that names {key.name} is not that key's") from None
    return time


def _message(kind: Kind, text: str, time: int) -> bytes:
    return text.encode() if kind is Kind.log else f"cosignature/v1\ntime {time}\n{text}".encode()


def _decode(text: str) -> bytes:
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise NoteInvalid("not base64") from None
    if base64.b64encode(decoded).decode() != text:
        raise NoteInvalid("base64, but not its one spelling")
    return decoded
