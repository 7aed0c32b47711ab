"""What is sealed in a watermark key's row, and opening it: for the worker that marks data or audits.

Of a key that its owner holds nothing is sealed here: an audit is given one family's opening instead. Three
other kinds, one sealed record each:

- drawn (origins service and imported): the secret and its blinding; the marks follow from them and the
  row's public salt;
- chosen: the marks themselves and the blinding;
- preset: which of the paper's baselines, and the seed of its carriers. Research only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from service.db.models import WatermarkKey
from service.errors import InvalidRequest, NotFound
from service.sealing import SealBroken, Sealer
from watermark.keys import (
    Commitment,
    Design,
    Family,
    Secret,
    chosen_family,
    commit,
    commit_chosen,
    derive,
    open_chosen,
    open_family,
)
from watermark.marks import Mark, parse_marks
from watermark.prf import digest

PURPOSE = "watermark-secret"
OWNER_HELD = "owner-held"
"""Origin of a key whose commitment alone is here."""
SEED_BYTES = 32


class ResearchPreset(InvalidRequest):
    """A preset of the paper has no families: it is a baseline, never evidence."""

    code = "research_preset"


class SecretNotHeld(InvalidRequest):
    """The key's owner holds the secret; it was never here."""

    code = "secret_not_held"


class UnknownFamily(NotFound):
    """The key has no family of that number."""

    code = "unknown_family"


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnSecret:
    """Secret and design of a drawn key."""

    secret: Secret
    design: Design

    def commit(self, owner_id: str) -> Commitment:
        """The commitments, made before the salt exists."""
        return commit(owner_id, self.secret, self.design)

    def public_design(self) -> dict[str, object]:
        """What anybody may see of the key's shape."""
        return self.design.to_record()

    def families(self, salt: bytes | None) -> tuple[Family, ...]:
        """All families. ``salt`` is the row's."""
        return derive(self.secret, _required(salt), self.design).families

    def open(self, owner_id: str, salt: bytes | None, index: int) -> dict[str, object]:
        """The opening of one family, for evidence."""
        return open_family(owner_id, self.secret, _required(salt), self.design, index)

    def to_record(self) -> dict[str, object]:
        """What is sealed."""
        return {
            "kind": "drawn",
            "secret": self.secret.value.hex(),
            "blinding": self.secret.blinding.hex(),
            "design": self.design.to_record(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenSecret:
    """Marks whose words the owner picked, and what hides them in the commitment."""

    marks: tuple[Mark, ...] = field(repr=False)
    blinding: bytes = field(repr=False)

    def commit(self, owner_id: str) -> Commitment:
        """The commitments."""
        return commit_chosen(owner_id, self.marks, self.blinding)

    def public_design(self) -> dict[str, object]:
        """What anybody may see of the key's shape."""
        return {"kind": "chosen", "families": 1, "marks": len(self.marks), "cues": len(self.marks[0].cues)}

    def families(self, salt: bytes | None) -> tuple[Family, ...]:
        """The one family."""
        return (chosen_family(self.marks, self.blinding),)

    def open(self, owner_id: str, salt: bytes | None, index: int) -> dict[str, object]:
        """The opening of the one family, for evidence."""
        return open_chosen(owner_id, self.marks, self.blinding)

    def to_record(self) -> dict[str, object]:
        """What is sealed."""
        return {
            "kind": "chosen",
            "marks": [mark.to_record() for mark in self.marks],
            "blinding": self.blinding.hex(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PresetSecret:
    """One of the paper's baselines (`watermark.paper`); only the seed of its carriers is secret."""

    preset: str
    seed: bytes = field(repr=False)

    def commit(self, owner_id: str) -> Commitment:
        """A commitment to the preset and its seed, for the record: it proves nothing."""
        value = digest("doublei/preset/v1", owner_id.encode(), self.preset.encode(), self.seed).hex()
        return Commitment(commitment=value, root_commitment=value, family_commitments=(value,))

    def public_design(self) -> dict[str, object]:
        """What anybody may see of the key's shape."""
        return {"kind": "preset", "preset": self.preset, "families": 1, "marks": 1}

    def families(self, salt: bytes | None) -> tuple[Family, ...]:
        """Raises: ResearchPreset, always. `seed` is for `watermark.paper`."""
        raise ResearchPreset("a preset of the paper has no families; it is a research baseline")

    def open(self, owner_id: str, salt: bytes | None, index: int) -> dict[str, object]:
        """Raises: ResearchPreset, always."""
        raise ResearchPreset("a preset of the paper is never opened as evidence")

    def to_record(self) -> dict[str, object]:
        """What is sealed."""
        return {"kind": "preset", "preset": self.preset, "seed": self.seed.hex()}


KeySecret = DrawnSecret | ChosenSecret | PresetSecret


def seal(sealer: Sealer, secret: KeySecret, *, owner_id: str, key_id: str) -> bytes:
    """The sealed form that a row holds; it opens for this owner and this row only."""
    plaintext = json.dumps(secret.to_record(), sort_keys=True, separators=(",", ":")).encode()
    return sealer.seal(plaintext, purpose=PURPOSE, owner=owner_id, subject=key_id)


def load_key(row: WatermarkKey, sealer: Sealer) -> KeySecret:
    """Open a row's secret.

    Raises:
        SecretNotHeld: the owner has it.
        SealBroken: it does not open, or what it holds is not a key.
    """
    if row.origin == OWNER_HELD:
        raise SecretNotHeld(f"the secret of {row.id} is with its owner and was never here")
    plaintext = sealer.open(row.sealed_secret, purpose=PURPOSE, owner=row.organization_id, subject=row.id)
    record = json.loads(plaintext)
    match record.get("kind"):
        case "drawn":
            return DrawnSecret(
                secret=Secret(value=_bytes(record, "secret"), blinding=_bytes(record, "blinding")),
                design=Design.from_record(record["design"]),
            )
        case "chosen":
            return ChosenSecret(marks=parse_marks(record["marks"]), blinding=_bytes(record, "blinding"))
        case "preset":
            return PresetSecret(preset=str(record["preset"]), seed=_bytes(record, "seed"))
        case _:
            raise SealBroken("a sealed watermark key is of an unknown kind")


def load_families(
    row: WatermarkKey, sealer: Sealer, indexes: list[int] | tuple[int, ...] | None = None
) -> tuple[Family, ...]:
    """The families of a key, or those of the given numbers, with their marks.

    Raises:
        SealBroken: the secret does not open.
        UnknownFamily: there is no family of such a number.
        ResearchPreset: the key is one of the paper's presets.
    """
    families = load_key(row, sealer).families(row.salt)
    wanted = range(len(families)) if indexes is None else indexes
    for index in wanted:
        if not 0 <= index < len(families):
            raise UnknownFamily(f"the key has families 0 to {len(families) - 1}, not {index}")
    return tuple(families[index] for index in wanted)


def load_opening(row: WatermarkKey, sealer: Sealer, index: int) -> dict[str, object]:
    """What evidence discloses of one family, and of no other.

    Raises:
        SealBroken: the secret does not open.
        ResearchPreset: the key is one of the paper's presets.
    """
    return load_key(row, sealer).open(row.claimant, row.salt, index)


def _required(salt: bytes | None) -> bytes:
    if salt is None:
        raise SealBroken("the key has no salt: its creation was never finished")
    return salt


def _bytes(record: Mapping[str, object], name: str) -> bytes:
    return bytes.fromhex(str(record[name]))
