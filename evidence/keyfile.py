"""An owner's key file: the secret, its salt, and what was done with the key so far.

The command line keeps it on the owner's disk; the service writes one when a key is exported, reads one when a
key is imported, and otherwise sees no more of it than its public record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from evidence.errors import EvidenceError
from evidence.provenance import timestamp
from watermark.keys import (
    SECRET_BYTES,
    Commitment,
    Design,
    Key,
    Secret,
    commit,
    derive,
    open_family,
    parse_commitment,
    unhex,
)
from watermark.significance import SELF_GENERATED

FORMAT = "doublei-key/1"
COMMITMENT_FORMAT = "doublei-commitment/1"
MAX_SOURCE_CHARS = 256
MIN_SALT_BYTES, MAX_SALT_BYTES = 16, 128

MAX_OWNER_CHARS = 128

_TOLD = frozenset({"format", "owner", "key", "created_at"})
"""Of a public record, what stands beside the commitments."""

T = TypeVar("T")


class KeyFileInvalid(EvidenceError):
    """A record that is no key file, or a change that its key does not allow. Quotes no value."""

    code = "key_file_invalid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Salt:
    """What came after the commitment, and from where, by the owner's word. Public."""

    value: bytes
    source: str
    set_at: str

    def to_record(self) -> dict[str, object]:
        """Hexadecimal and texts."""
        return {"value": self.value.hex(), "source": self.source, "set_at": self.set_at}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Salt:
        """Raises `KeyFileInvalid` or `RecordError`."""
        value = unhex(record.get("value"), "salt.value")
        if not MIN_SALT_BYTES <= len(value) <= MAX_SALT_BYTES:
            raise KeyFileInvalid(f"salt.value has not {MIN_SALT_BYTES} to {MAX_SALT_BYTES} bytes")
        return cls(
            value=value,
            source=_get(record, "source", str),
            set_at=_get(record, "set_at", str),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixed:
    """One dataset that this key's rows were mixed into."""

    at: str
    input_sha256: str
    output_sha256: str
    strength: str
    epochs: int
    seed: int
    families: tuple[int, ...]
    watermark_rows: int
    customer_rows: int

    def to_record(self) -> dict[str, object]:
        """Strings, integers and a list."""
        return {
            "at": self.at,
            "input_sha256": self.input_sha256,
            "output_sha256": self.output_sha256,
            "strength": self.strength,
            "epochs": self.epochs,
            "seed": self.seed,
            "families": list(self.families),
            "watermark_rows": self.watermark_rows,
            "customer_rows": self.customer_rows,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Mixed:
        """Raises `KeyFileInvalid`."""
        return cls(
            at=_get(record, "at", str),
            input_sha256=_get(record, "input_sha256", str),
            output_sha256=_get(record, "output_sha256", str),
            strength=_get(record, "strength", str),
            epochs=_get(record, "epochs", int),
            seed=_get(record, "seed", int),
            families=tuple(_get(record, "families", list)),
            watermark_rows=_get(record, "watermark_rows", int),
            customer_rows=_get(record, "customer_rows", int),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """One audit of this key, on record before its first question, whether it ever ended or not."""

    verification: str
    family: int
    registered_at: str
    preregistration_sha256: str
    campaign: str = ""
    """of audits that share one number; empty for one that has its own"""

    @property
    def number(self) -> str:
        """What its number was spent on."""
        return self.campaign or self.verification

    def to_record(self) -> dict[str, object]:
        """Strings and integers."""
        record: dict[str, object] = {
            "verification": self.verification,
            "family": self.family,
            "registered_at": self.registered_at,
            "preregistration_sha256": self.preregistration_sha256,
        }
        return record | ({"campaign": self.campaign} if self.campaign else {})

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Registered:
        """Raises `KeyFileInvalid`."""
        for name in ("verification", "registered_at", "preregistration_sha256"):
            if not _get(record, name, str).isprintable():
                raise KeyFileInvalid(f"{name} has characters that can't be printed")
        return cls(
            verification=_get(record, "verification", str),
            family=_get(record, "family", int),
            registered_at=_get(record, "registered_at", str),
            preregistration_sha256=_get(record, "preregistration_sha256", str),
            campaign=_get(record, "campaign", str) if "campaign" in record else "",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What an owner publishes of a key before training: enough to log it, nothing to derive it from."""

    owner: str
    committed: Commitment
    design: Design

    @classmethod
    def from_record(cls, record: object) -> Published:
        """The record that `KeyFile.public_record` makes.

        Raises:
            KeyFileInvalid, RecordError, DesignError: it is none, or of another design than this software has.
            OpeningError: the parts do not hash to the commitment.
        """
        if not isinstance(record, dict) or record.get("format") != COMMITMENT_FORMAT:
            raise KeyFileInvalid(f"it is not of the format {COMMITMENT_FORMAT}")
        owner = _get(record, "owner", str)
        check_owner(owner)
        parts = {name: value for name, value in record.items() if name not in _TOLD}
        if len(parts) + len(_TOLD) != len(record):
            raise KeyFileInvalid(f"it has not {', '.join(sorted(_TOLD))}")
        committed, design = parse_commitment(owner, parts)
        return cls(owner=owner, committed=committed, design=design)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFile:
    """A key and its history. ``repr`` shows no secret."""

    owner: str
    secret: Secret
    design: Design
    created_at: str
    salt: Salt | None = None
    mixed: tuple[Mixed, ...] = ()
    audits: tuple[Registered, ...] = ()

    @property
    def grade(self) -> str:
        """Of all local evidence: nobody but the owner says when the salt came."""
        return SELF_GENERATED

    @property
    def salt_bytes(self) -> bytes:
        """Empty where there is none."""
        return b"" if self.salt is None else self.salt.value

    @property
    def committed(self) -> Commitment:
        """What may be published, and is before training."""
        return commit(self.owner, self.secret, self.design)

    @property
    def id(self) -> str:
        """A short name, the same wherever the key is."""
        return f"key-{self.committed.commitment[:24]}"

    @property
    def families_opened(self) -> tuple[int, ...]:
        """Families that an audit has asked, or was about to: their questions are no secret any more."""
        return tuple(sorted({audit.family for audit in self.audits}))

    @property
    def numbers(self) -> tuple[str, ...]:
        """What each number of the key was spent on, from 1 on: an audit, or a campaign of several."""
        return tuple(dict.fromkeys(audit.number for audit in self.audits))

    def derived(self) -> Key:
        """All families with their marks."""
        return derive(self.secret, self.salt_bytes, self.design)

    def opened(self, family: int) -> dict[str, object]:
        """One family's opening, for evidence."""
        return open_family(self.owner, self.secret, self.salt_bytes, self.design, family)

    def commitment_record(self) -> dict[str, object]:
        """Root and family commitments and the design, as evidence repeats them."""
        return self.committed.to_record() | {"design": self.design.to_record()}

    def public_record(self) -> dict[str, object]:
        """What an owner publishes before training. Nothing of it is secret."""
        return self.commitment_record() | {
            "format": COMMITMENT_FORMAT,
            "owner": self.owner,
            "key": self.id,
            "created_at": self.created_at,
        }

    def to_record(self) -> dict[str, object]:
        """All of it, the secret too: for the private file and nothing else."""
        return {
            "format": FORMAT,
            "owner": self.owner,
            "secret": self.secret.value.hex(),
            "blinding": self.secret.blinding.hex(),
            "design": self.design.to_record(),
            "commitment": self.committed.commitment,
            "created_at": self.created_at,
            "salt": None if self.salt is None else self.salt.to_record(),
            "mixed": [mixed.to_record() for mixed in self.mixed],
            "audits": [audit.to_record() for audit in self.audits],
        }

    @classmethod
    def from_record(cls, record: object) -> KeyFile:
        """Raises `KeyFileInvalid`, `RecordError` or `DesignError`; none of them shows a value."""
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise KeyFileInvalid(f"it is not of the format {FORMAT}")
        salt = record.get("salt")
        owner = _get(record, "owner", str)
        check_owner(owner)
        key = cls(
            owner=owner,
            secret=Secret(
                value=unhex(record.get("secret"), "secret", SECRET_BYTES),
                blinding=unhex(record.get("blinding"), "blinding", SECRET_BYTES),
            ),
            design=Design.from_record(record.get("design")),
            created_at=_get(record, "created_at", str),
            salt=None if salt is None else Salt.from_record(_get(record, "salt", dict)),
            mixed=tuple(Mixed.from_record(item) for item in _objects(record, "mixed")),
            audits=tuple(Registered.from_record(item) for item in _objects(record, "audits")),
        )
        if key.committed.commitment != record.get("commitment"):
            raise KeyFileInvalid("its secret does not hash to its commitment")
        if key.to_record() != record:
            raise KeyFileInvalid("it has a field that this format does not have")
        return key


def check_owner(name: str) -> None:
    """Whether a claimant can be called that.

    Raises:
        KeyFileInvalid: empty, too long, or with characters that can't be printed.
    """
    if not 0 < len(name) <= MAX_OWNER_CHARS or not name.isprintable() or name != name.strip():
        raise KeyFileInvalid(f"an owner's name has 1 to {MAX_OWNER_CHARS} printable characters")


def now() -> str:
    """The moment, as records tell it."""
    return timestamp(datetime.now(UTC))


def with_salt(key: KeyFile, value: str, source: str) -> KeyFile:
    """The key with a salt that came after its commitment.

    Raises:
        KeyFileInvalid: it has one, its rows were mixed without one, or the value or its source can't be used.
    """
    if key.salt is not None:
        raise KeyFileInvalid("the key has a salt already, and another one would give other marks")
    if key.mixed or key.audits:
        raise KeyFileInvalid("the key was used without a salt already, and a salt would give other marks")
    salt = unhex(value.lower(), "the salt")
    if not MIN_SALT_BYTES <= len(salt) <= MAX_SALT_BYTES:
        raise KeyFileInvalid(f"a salt has {MIN_SALT_BYTES} to {MAX_SALT_BYTES} bytes, written in hexadecimal")
    if not 0 < len(source) <= MAX_SOURCE_CHARS or not source.isprintable():
        raise KeyFileInvalid(
            f"the source: say in 1 to {MAX_SOURCE_CHARS} printable characters where it is from"
        )
    return replace(key, salt=Salt(value=salt, source=source, set_at=now()))


def with_mixed(key: KeyFile, mixed: Mixed) -> KeyFile:
    """The key with one more dataset on record."""
    return replace(key, mixed=(*key.mixed, mixed))


def with_audits(key: KeyFile, audits: Sequence[Registered]) -> KeyFile:
    """The key with these audits on record, which share one number if they are several."""
    return replace(key, audits=(*key.audits, *audits))


def _get(record: Mapping[str, Any], name: str, kind: type[T]) -> T:
    value = record.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise KeyFileInvalid(f"{name} is missing or has the wrong type")
    return value


def _objects(record: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    items = _get(record, name, list)
    if not all(isinstance(item, dict) for item in items):
        raise KeyFileInvalid(f"{name} is not a list of objects")
    return items
