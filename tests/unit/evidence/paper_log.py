"""A log on paper: the entries of one audit among others', proven as a service proves them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from evidence.bundle import Publishing, make_bundle
from evidence.canonical import canonical_bytes
from evidence.document import Document
from evidence.log import merkle
from evidence.log.checkpoint import Checkpoint, sign
from evidence.log.entry import EntryKind, entry_of
from evidence.log.note import Kind, Signer
from evidence.log.proof import ORDER, Proven, Publication
from tests.timestamp_authority import Authority

SIGNER = Signer(name="log.example/1", kind=Kind.log, seed=bytes(range(32, 64)))
FOREIGN = Signer(name="log.example/1", kind=Kind.log, seed=bytes(range(64, 96)))
"""Another key under the same name."""
START = datetime(2026, 11, 22, 23, 0, tzinfo=UTC)
MODEL = "ft:base:owner:marked:1"


def records_of(document: Document, data: bytes) -> dict[EntryKind, dict[str, Any]]:
    """What a service enters about an audit and its key, spelled once more."""
    key, verification = document.key, document.verification
    suspect = json.loads(document.preregistration)["suspect"]["model"]
    records: dict[EntryKind, dict[str, Any]] = {
        EntryKind.key_commitment: {
            "key": key.id,
            "owner": key.owner,
            "origin": key.origin,
            "grade": key.grade,
            "commitment": key.commitment,
            "commitment_record": dict(key.commitment_record),
        },
        EntryKind.salt: {"key": key.id, "salt": key.salt},
        EntryKind.training: {
            "job": "ftjob-1",
            "dataset_sha256": "0" * 64,
            "watermark": {"key": key.id, "commitment": key.commitment},
        },
        EntryKind.model: {
            "job": "ftjob-1",
            "model": suspect,
            "manifest": {"adapter_model.safetensors": "1" * 64},
        },
        EntryKind.preregistration: {
            "verification": verification,
            "preregistration_sha256": document.preregistration_sha256,
        },
        EntryKind.verdict: {
            "verification": verification,
            "evidence_sha256": sha256(data).hexdigest(),
            "verdict": document.verdict,
        },
    }
    if not key.salt:
        del records[EntryKind.salt]
    return records


@dataclass
class PaperLog:
    """Entries in memory; every method proves what a service would."""

    signer: Signer = SIGNER
    entries: list[bytes] = field(default_factory=list)
    times: list[str] = field(default_factory=list)

    def add(self, kind: str, record: dict[str, Any]) -> int:
        entry = entry_of(kind, record, START + timedelta(minutes=len(self.entries)))
        self.entries.append(bytes(entry))
        self.times.append(entry.logged_at)
        return len(self.entries) - 1

    def fill(self, count: int) -> None:
        for _ in range(count):
            self.add("verdict", {"another": len(self.entries)})

    def _read(self, wanted: Any) -> dict[merkle.Node, bytes]:
        leaves = [merkle.leaf_hash(entry) for entry in self.entries]
        return {
            (level, index): merkle.root_of(leaves[index << level : (index + 1) << level])
            for level, index in wanted
        }

    def root(self, size: int) -> bytes:
        return merkle.root(size, self._read)

    def note(self, size: int) -> str:
        return str(sign(Checkpoint(origin=self.signer.name, size=size, root=self.root(size)), self.signer))

    def path(self, index: int, size: int) -> tuple[bytes, ...]:
        return tuple(merkle.inclusion_proof(index, size, self._read))

    def growth(self, first: int, second: int) -> tuple[bytes, ...]:
        return tuple(merkle.consistency_proof(first, second, self._read))


@dataclass
class Story:
    """One audit in a log, in any order that a test wants."""

    log: PaperLog
    places: dict[EntryKind, int]
    records: dict[EntryKind, dict[str, Any]]
    first: int
    """size of the checkpoint nearest the commitment"""
    last: int

    @property
    def proofs(self) -> Publication:
        return Publication(
            entries=tuple(
                Proven(
                    kind=kind,
                    index=self.places[kind],
                    logged_at=self.log.times[self.places[kind]],
                    hashes=self.log.path(self.places[kind], self.last),
                    record=self.records[kind] if kind in (EntryKind.training, EntryKind.model) else None,
                )
                for kind in ORDER
                if kind in self.places
            ),
            absent=tuple(kind for kind in ORDER if kind not in self.places),
            earlier=self.log.note(self.first),
            checkpoint=self.log.note(self.last),
            consistency=self.log.growth(self.first, self.last),
            authority="",
        )

    def stamped(
        self,
        authority: Authority,
        *,
        commitment: datetime | None = None,
        verdict: datetime | None = None,
    ) -> Publishing:
        """With both stamps, by default two seconds after what they cover was entered."""
        proofs = replace(self.proofs, authority="https://stamps.example/")
        after = timedelta(seconds=2)
        moments = [
            datetime.fromisoformat(self.log.times[self.places[kind]]) + after
            for kind in (EntryKind.key_commitment, EntryKind.verdict)
        ]
        return Publishing(
            proofs=proofs,
            commitment_stamp=authority.stamp(text_of(proofs.earlier), commitment or moments[0]),
            verdict_stamp=authority.stamp(text_of(proofs.checkpoint), verdict or moments[1]),
        )


def published_bundle(audit: Any, *signers: Any) -> bytes:
    """The bundle of an audit that is in a log."""
    return make_bundle(
        audit.data, *signers, publishing=Publishing(proofs=story(audit.document, audit.data).proofs)
    )


def text_of(note: str) -> str:
    """What a note's signatures are over."""
    return note.rpartition("\n\n")[0] + "\n"


def story(
    document: Document,
    data: bytes,
    *,
    log: PaperLog | None = None,
    without: tuple[EntryKind, ...] = (),
    order: tuple[EntryKind, ...] = ORDER,
    edit: Callable[[dict[EntryKind, dict[str, Any]]], None] = lambda records: None,
    before: int = 5,
) -> Story:
    """An audit entered with others before, between and behind."""
    log = PaperLog() if log is None else log
    records = copy.deepcopy(records_of(document, data))
    edit(records)
    log.fill(before)
    places, first = {}, 0
    for kind in order:
        if kind in records and kind not in without:
            places[kind] = log.add(kind.value, json.loads(canonical_bytes(records[kind])))
            log.fill(1)
            if kind is EntryKind.key_commitment:
                first = len(log.entries)
    first = first or len(log.entries)
    log.fill(2)
    return Story(log=log, places=places, records=records, first=first, last=len(log.entries) - 1)
