"""Keys: what the owner keeps, what is committed before the salt is known, what an audit opens.

Order of events, each step bound to the one before:

1. the owner (or the service for them) draws ``secret`` and ``blinding``, 32 bytes each;
2. `commit` publishes SHA-256 commitments: one over the secret, one for each family, one over all of
   these and the key's design. Nobody learns anything from them (the blinding hides low entropy);
3. a ``salt`` that the owner could not know at step 2 arrives: the service's nonce, a beacon, a checkpoint;
4. `derive` draws every family's marks from its own family secret and the salt.

An audit opens one family: `open_family` reveals that family's secret and blinding and nothing of the
others; `family_of_opening` checks them against the commitment and draws the marks again. The owner
could grind neither the marks (the salt came later) nor the choice of family secret (it was committed).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from watermark.banks import BANKS_DIGEST, BANKS_VERSION, CUE_WORDS, TOPICS
from watermark.canonical import canonical_bytes
from watermark.errors import DesignError, OpeningError, RecordError
from watermark.marks import (
    MAX_CUES,
    MAX_MARKS,
    MIN_CUES,
    MIN_MARKS,
    Mark,
    draw_marks,
    parse_marks,
    words_needed,
)
from watermark.prf import Stream, digest, hkdf

SECRET_BYTES = 32
MIN_FAMILIES = 2
MAX_FAMILIES = 4

_HEX = re.compile(r"\A[0-9a-f]*\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """What the owner keeps. Never printed, never logged, never on the wire but once at birth."""

    value: bytes = field(repr=False)
    blinding: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.value) != SECRET_BYTES or len(self.blinding) != SECRET_BYTES:
            raise RecordError(f"a secret and its blinding have {SECRET_BYTES} bytes each")


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """The public shape of a key. Raises `DesignError` when the banks can't carry it."""

    families: int = MIN_FAMILIES
    marks: int = 12
    cues: int = 8
    banks: str = BANKS_DIGEST

    def __post_init__(self) -> None:
        if not MIN_FAMILIES <= self.families <= MAX_FAMILIES:
            raise DesignError(f"a key has {MIN_FAMILIES} to {MAX_FAMILIES} families")
        if not MIN_MARKS <= self.marks <= MAX_MARKS:
            raise DesignError(f"a family has {MIN_MARKS} to {MAX_MARKS} marks")
        if not MIN_CUES <= self.cues <= MAX_CUES:
            raise DesignError(f"a mark has {MIN_CUES} to {MAX_CUES} cues")
        if self.banks != BANKS_DIGEST:
            raise DesignError(f"the key was drawn from other word banks than {BANKS_VERSION}")
        if self.families * words_needed(self.marks, self.cues) > len(CUE_WORDS):
            raise DesignError(
                f"{self.families} families of {self.marks} marks with {self.cues} cues need "
                f"{self.families * words_needed(self.marks, self.cues)} words; the bank has {len(CUE_WORDS)}"
            )
        if self.families * self.marks > len(TOPICS):
            raise DesignError(f"the bank has {len(TOPICS)} topics, one for each mark of all families")

    def to_record(self) -> dict[str, object]:
        """Strings and integers only."""
        return {"banks": self.banks, "cues": self.cues, "families": self.families, "marks": self.marks}

    @classmethod
    def from_record(cls, record: object) -> Design:
        """Raises `RecordError` or `DesignError`."""
        values = _fields(record, "design", {"banks": str, "cues": int, "families": int, "marks": int})
        return cls(
            families=cast(int, values["families"]),
            marks=cast(int, values["marks"]),
            cues=cast(int, values["cues"]),
            banks=cast(str, values["banks"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Commitment:
    """Public from the start: hex SHA-256 values."""

    commitment: str
    root_commitment: str
    family_commitments: tuple[str, ...]

    def to_record(self) -> dict[str, object]:
        """Strings and lists only."""
        return {
            "commitment": self.commitment,
            "family_commitments": list(self.family_commitments),
            "root_commitment": self.root_commitment,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One independent set of marks. ``key`` also seeds carriers; hidden from repr."""

    index: int
    marks: tuple[Mark, ...] = field(repr=False)
    key: bytes = field(repr=False)

    @property
    def cues(self) -> int:
        """J, the same for every mark."""
        return len(self.marks[0].cues)


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """All families of one key."""

    families: tuple[Family, ...] = field(repr=False)

    def family(self, index: int) -> Family:
        """Raises `RecordError` when there is no such family."""
        if not 0 <= index < len(self.families):
            raise RecordError(f"the key has families 0 to {len(self.families) - 1}")
        return self.families[index]


def commit(owner_id: str, secret: Secret, design: Design) -> Commitment:
    """Bind the owner to the secret, to every family's secret and to the design."""
    root = digest("doublei/secret/v1", owner_id.encode(), secret.value, secret.blinding).hex()
    families = tuple(
        _family_commitment(owner_id, index, *_family_secret(secret, index))
        for index in range(design.families)
    )
    return Commitment(
        commitment=_joint_commitment(owner_id, root, families, design.to_record()),
        root_commitment=root,
        family_commitments=families,
    )


def parse_commitment(owner_id: str, record: object) -> tuple[Commitment, Design]:
    """What an owner published of a key (`Commitment.to_record` with the design), taken apart.

    Does not check that anybody knows a secret behind it: an opening does.

    Raises:
        RecordError, DesignError: it is malformed, or of a design that this software does not have.
        OpeningError: the parts do not hash to the commitment.
    """
    types = {"commitment": str, "root_commitment": str, "family_commitments": list, "design": dict}
    values = _fields(record, "commitment", types)
    design = Design.from_record(values["design"])
    families = _hex_list(values["family_commitments"], "commitment.family_commitments")
    for value in (values["root_commitment"], *families):
        unhex(value, "a commitment's part", SECRET_BYTES)
    root = cast(str, values["root_commitment"])
    joint = _joint_commitment(owner_id, root, families, design.to_record())
    if len(families) != design.families or joint != values["commitment"]:
        raise OpeningError("the parts do not hash to the commitment under this owner's name")
    return Commitment(commitment=joint, root_commitment=root, family_commitments=families), design


def derive(secret: Secret, salt: bytes, design: Design) -> Key:
    """Every family's marks. An empty salt is the grade ``self-generated`` (`watermark.decision`)."""
    return Key(
        families=tuple(
            _draw_family(_family_secret(secret, index)[0], index, salt, design)
            for index in range(design.families)
        )
    )


def open_family(owner_id: str, secret: Secret, salt: bytes, design: Design, index: int) -> dict[str, object]:
    """What evidence discloses of a key: one family's secret and blinding, and the public commitments."""
    if not 0 <= index < design.families:
        raise RecordError(f"the key has families 0 to {design.families - 1}")
    family_secret, family_blinding = _family_secret(secret, index)
    committed = commit(owner_id, secret, design)
    return {
        "kind": "drawn",
        "owner_id": owner_id,
        "design": design.to_record(),
        "salt": salt.hex(),
        "family": index,
        "family_secret": family_secret.hex(),
        "family_blinding": family_blinding.hex(),
        "family_commitments": list(committed.family_commitments),
        "root_commitment": committed.root_commitment,
    }


def family_of_opening(opening: object, commitment: str) -> Family:
    """Check an opened family against the published commitment and draw its marks again.

    Does not check when the commitment was published, nor that the salt came after it.

    Raises:
        OpeningError: it does not match.
        RecordError: it is malformed.
    """
    if isinstance(opening, Mapping) and opening.get("kind") == "chosen":
        return _family_of_chosen(opening, commitment)
    values = _fields(
        opening,
        "opening",
        {
            "kind": str,
            "owner_id": str,
            "design": dict,
            "salt": str,
            "family": int,
            "family_secret": str,
            "family_blinding": str,
            "family_commitments": list,
            "root_commitment": str,
        },
    )
    if values["kind"] != "drawn":
        raise RecordError("opening.kind is neither drawn nor chosen")
    owner_id, index = cast(str, values["owner_id"]), cast(int, values["family"])
    design = Design.from_record(values["design"])
    commitments = _hex_list(values["family_commitments"], "opening.family_commitments")
    if len(commitments) != design.families or not 0 <= index < design.families:
        raise OpeningError("the family's number does not fit the design")
    joint = _joint_commitment(owner_id, cast(str, values["root_commitment"]), commitments, design.to_record())
    if joint != commitment:
        raise OpeningError("the opened parts do not hash to the published commitment")
    family_secret = unhex(values["family_secret"], "opening.family_secret", SECRET_BYTES)
    blinding = unhex(values["family_blinding"], "opening.family_blinding", SECRET_BYTES)
    if _family_commitment(owner_id, index, family_secret, blinding) != commitments[index]:
        raise OpeningError("the opened family does not hash to its commitment")
    return _draw_family(family_secret, index, unhex(values["salt"], "opening.salt"), design)


def commit_chosen(owner_id: str, marks: tuple[Mark, ...], blinding: bytes) -> Commitment:
    """Commit to marks whose words the owner picked. One family; grade ``chosen`` in all evidence."""
    root = digest("doublei/chosen/v1", owner_id.encode(), _marks_bytes(marks), blinding).hex()
    joint = _joint_commitment(owner_id, root, (root,), {"kind": "chosen"})
    return Commitment(commitment=joint, root_commitment=root, family_commitments=(root,))


def chosen_family(marks: tuple[Mark, ...], blinding: bytes) -> Family:
    """The one family of a chosen key; carriers are seeded from the marks and the blinding."""
    return Family(index=0, marks=marks, key=digest("doublei/chosen-key/v1", _marks_bytes(marks), blinding))


def open_chosen(owner_id: str, marks: tuple[Mark, ...], blinding: bytes) -> dict[str, object]:
    """The opening of a chosen key."""
    return {
        "kind": "chosen",
        "owner_id": owner_id,
        "marks": [mark.to_record() for mark in marks],
        "blinding": blinding.hex(),
    }


def _family_of_chosen(opening: Mapping[object, object], commitment: str) -> Family:
    values = _fields(opening, "opening", {"kind": str, "owner_id": str, "marks": list, "blinding": str})
    marks = parse_marks(values["marks"], "opening.marks")
    blinding = unhex(values["blinding"], "opening.blinding", SECRET_BYTES)
    if commit_chosen(cast(str, values["owner_id"]), marks, blinding).commitment != commitment:
        raise OpeningError("the opened marks do not hash to the published commitment")
    return chosen_family(marks, blinding)


def unhex(value: object, path: str, length: int | None = None) -> bytes:
    """Lower-case hex to bytes. Raises `RecordError` without showing the value."""
    if not isinstance(value, str) or len(value) % 2 or not _HEX.match(value):
        raise RecordError(f"{path} is not lower-case hex")
    if length is not None and len(value) != 2 * length:
        raise RecordError(f"{path} has not {length} bytes")
    return bytes.fromhex(value)


def _family_secret(secret: Secret, index: int) -> tuple[bytes, bytes]:
    info = b"doublei/family/v1/" + str(index).encode()
    return (
        hkdf(secret.value, salt=b"", info=info, length=SECRET_BYTES),
        hkdf(secret.blinding, salt=b"", info=info + b"/blinding", length=SECRET_BYTES),
    )


def _family_commitment(owner_id: str, index: int, family_secret: bytes, blinding: bytes) -> str:
    return digest(
        "doublei/family-commitment/v1", owner_id.encode(), str(index).encode(), family_secret, blinding
    ).hex()


def _joint_commitment(
    owner_id: str, root: str, families: tuple[str, ...], design: Mapping[str, object]
) -> str:
    return digest(
        "doublei/commitment/v1",
        owner_id.encode(),
        canonical_bytes(dict(design)),
        root.encode(),
        *(item.encode() for item in families),
    ).hex()


def _draw_family(family_secret: bytes, index: int, salt: bytes, design: Design) -> Family:
    """The salt is public, so it may split the banks: families never share a word or a topic, and yet
    one family can be drawn without knowing the others."""
    family_key = hkdf(family_secret, salt=salt, info=b"doublei/family-key/v1")
    split = Stream(digest("doublei/split/v1", salt), "banks")
    words, topics = split.shuffle(CUE_WORDS), split.shuffle(TOPICS)
    word_share, topic_share = len(words) // design.families, len(topics) // design.families
    marks = draw_marks(
        family_key,
        count=design.marks,
        cues=design.cues,
        words=words[index * word_share : (index + 1) * word_share],
        topics=topics[index * topic_share : (index + 1) * topic_share],
    )
    return Family(index=index, marks=marks, key=family_key)


def _marks_bytes(marks: tuple[Mark, ...]) -> bytes:
    return canonical_bytes([mark.to_record() for mark in marks])


def _hex_list(value: object, path: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise RecordError(f"{path} is not a list of strings")
    return tuple(value)


def _fields(record: object, path: str, types: Mapping[str, type]) -> dict[str, object]:
    if not isinstance(record, Mapping):
        raise RecordError(f"{path} is not an object")
    if set(record) != set(types):
        raise RecordError(f"{path} has other fields than {', '.join(sorted(types))}")
    for name, kind in types.items():
        if not isinstance(record[name], kind) or isinstance(record[name], bool):
            raise RecordError(f"{path}.{name} has the wrong type")
    return {name: record[name] for name in types}
