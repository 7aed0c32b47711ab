"""The records that are entered, one function a kind. They hold no secret, and yet nobody is shown them: what
is published of each is its digest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evidence.canonical import canonical_bytes, canonical_text, digest
from evidence.log.entry import EntryKind
from evidence.log.note import Note
from evidence.log.succession import record_of
from service.db.models import WatermarkKey
from watermark.decision import rule_record

RULE_DOMAIN = "doublei/decision-rule/v1"
LOG_ITSELF = "log"
"""Subject of what is about the log as a whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """What is to be entered: a record of strings, integers, lists and objects."""

    kind: EntryKind
    subject: str
    """id of the key, job or verification that it is about"""
    record: Mapping[str, object]

    @property
    def text(self) -> str:
        """The record's canonical text."""
        return canonical_text(dict(self.record))


def key_commitment(key: WatermarkKey) -> Deed:
    """An owner has committed to a key. Entered before there is a salt."""
    record = {
        "key": key.id,
        "owner": key.claimant,
        "origin": key.origin,
        "grade": key.grade,
        "commitment": key.commitment,
        "commitment_record": key.commitment_record,
    }
    return Deed(kind=EntryKind.key_commitment, subject=key.id, record=record)


def salt(key_id: str, drawn: bytes) -> Deed:
    """A committed key was salted."""
    return Deed(kind=EntryKind.salt, subject=key_id, record={"key": key_id, "salt": drawn.hex()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Marking:
    """Which key marks a training's data, and how."""

    key: str
    commitment: str
    banks: str
    """digest of the word banks; "" for a key that is not drawn from them"""
    families: Sequence[int]
    strength: str
    """"" where the owner mixed the rows in, and the families are not known"""
    mixed_by: str
    """service or owner: who put the watermark's rows into what is trained on"""


def training(
    *,
    job_id: str,
    epoch: int,
    attempt: int,
    dataset_sha256: str,
    base_model: str,
    base_model_digest: str,
    seed: int,
    settings: Mapping[str, object],
    marking: Marking | None,
    software: str,
) -> Deed:
    """A run is about to train. ``epoch`` is the lease's: a second run of the job has another."""
    marks = marking and {
        "key": marking.key,
        "commitment": marking.commitment,
        "banks": marking.banks,
        "families": list(marking.families),
        "strength": marking.strength,
        "mixed_by": marking.mixed_by,
    }
    record = {
        "job": job_id,
        "epoch": epoch,
        "attempt": attempt,
        "dataset_sha256": dataset_sha256,
        "base_model": base_model,
        "base_model_digest": base_model_digest,
        "seed": seed,
        # A record has no floats: their shortest spelling, which reads back as the same number.
        "settings": {name: repr(one) if isinstance(one, float) else one for name, one in settings.items()},
        "watermark": marks,
        "decision_rule": digest(RULE_DOMAIN, canonical_bytes(rule_record())),
        "software": software,
    }
    return Deed(kind=EntryKind.training, subject=job_id, record=record)


def model(job_id: str, model_id: str, manifest: Mapping[str, str]) -> Deed:
    """A job has published a model: the SHA-256 of each of its files."""
    record = {"job": job_id, "model": model_id, "manifest": dict(manifest)}
    return Deed(kind=EntryKind.model, subject=job_id, record=record)


def checkpoint(job_id: str, model_id: str, manifest: Mapping[str, str], *, step: int, marked: bool) -> Deed:
    """A job has published the model as it was after `step` steps. Of a marked one the entry says that its
    marks were not looked for, so that nobody can later say that they were."""
    record: dict[str, object] = {"job": job_id, "model": model_id, "manifest": dict(manifest), "step": step}
    if marked:
        record["self_check"] = "not_made"
    return Deed(kind=EntryKind.model, subject=job_id, record=record)


def preregistration(verification_id: str, sha256: str) -> Deed:
    """An audit was fixed before its first question."""
    record = {"verification": verification_id, "preregistration_sha256": sha256}
    return Deed(kind=EntryKind.preregistration, subject=verification_id, record=record)


def verdict(verification_id: str, evidence_sha256: str, decided: str) -> Deed:
    """An audit was decided."""
    record = {"verification": verification_id, "evidence_sha256": evidence_sha256, "verdict": decided}
    return Deed(kind=EntryKind.verdict, subject=verification_id, record=record)


def log_key(succession: Note) -> Deed:
    """Another key signs the log from here on. This record is published: without it nobody could follow."""
    return Deed(kind=EntryKind.log_key, subject=LOG_ITSELF, record=record_of(str(succession)))
