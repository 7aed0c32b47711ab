"""The four audits of a dispute, read from their evidence files: each key at each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from hashlib import sha256
from typing import Any

from evidence.audit import RESEARCH
from evidence.canonical import canonical_bytes, digest, parse_canonical
from evidence.check import check
from evidence.document import Document
from evidence.errors import DisputeInvalid
from evidence.steps import Status
from watermark.campaign import holm
from watermark.numerals import decimal_text, parse_fraction
from watermark.significance import SELF_GENERATED, SELF_GENERATED_TRIES

A, B = "A", "B"
PLACES = ((A, A), (A, B), (B, A), (B, B))
"""Key and model, in the order in which the four files are given."""

DECLARATION_DOMAIN = "doublei/dispute-declaration/v1"

INCONCLUSIVE = "inconclusive"
DETECTED = "detected"


class Finding(StrEnum):
    """What one audit says of one key in one model."""

    shown = "shown"
    not_shown = "not_shown"
    undecided = "undecided"


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """One owner's claim: a key, and a model that the owner says is theirs."""

    owner: str
    key_id: str
    commitment: str
    grade: str
    created_at: str
    """of the key, by the clock of whoever kept it"""
    base_url: str
    model: str
    alpha_i: Fraction
    """what both audits of the key may spend together"""
    shared: bool
    """whether they share one number of the key, decided by Holm's rule; else each has its own"""

    @property
    def false_claim_bound(self) -> Fraction:
        """The chance at most that the key is shown in either model although neither knows it: of a
        self-generated key after all the secrets that its owner is assumed to have tried."""
        return self.alpha_i * (SELF_GENERATED_TRIES if self.grade == SELF_GENERATED else 1)

    def to_record(self) -> dict[str, object]:
        """For machines."""
        return {
            "owner": self.owner,
            "key": self.key_id,
            "commitment": self.commitment,
            "grade": self.grade,
            "created_at": self.created_at,
            "base_url": self.base_url,
            "model": self.model,
            "alpha_i": decimal_text(self.alpha_i),
            "shared_number": self.shared,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One key at one model."""

    key: str
    model: str
    verification: str
    verdict: str
    """as it stands in the evidence"""
    finding: Finding
    """after the rule that holds for both audits of the key"""
    reasons: tuple[str, ...]
    p_decimal: str
    threshold_decimal: str
    trigger: str
    """target answers at triggers, ``7/32``"""
    reference: str
    preregistration_sha256: str
    registered_at: str
    started_at: str
    sha256: str
    """of the evidence file"""

    def to_record(self) -> dict[str, object]:
        """For machines."""
        return {
            "key": self.key,
            "model": self.model,
            "verification": self.verification,
            "verdict": self.verdict,
            "finding": self.finding.value,
            "reasons": list(self.reasons),
            "p_value": self.p_decimal,
            "threshold": self.threshold_decimal,
            "trigger_hits": self.trigger,
            "reference_hits": self.reference,
            "preregistration_sha256": self.preregistration_sha256,
            "registered_at": self.registered_at,
            "started_at": self.started_at,
            "evidence_sha256": self.sha256,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossTest:
    """All of it."""

    parties: Mapping[str, Party]
    cells: Mapping[tuple[str, str], Cell]
    """by key and model"""

    @property
    def declared_first(self) -> bool:
        """Whether all four plans were fixed before the first question of any, by the files' own times."""
        cells = self.cells.values()
        started = [cell.started_at for cell in cells]
        return max(cell.registered_at for cell in cells) <= min(started)

    @property
    def declaration(self) -> str:
        """Digest of the four plans, as it can be published before the first question."""
        return declaration([self.cells[place].preregistration_sha256 for place in PLACES])


def declaration(preregistrations: Sequence[str]) -> str:
    """Digest of four pre-registrations, from their digests in the order of `PLACES`."""
    return digest(DECLARATION_DOMAIN, canonical_bytes(list(preregistrations)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    document: Document
    registered: Mapping[str, Any]
    sha256: str


def cross_test(files: Sequence[bytes]) -> CrossTest:
    """Check four evidence files and put them together.

    Args:
        files: A's key at A's model, A's at B's, B's at A's, B's at B's.

    Raises:
        DisputeInvalid: a file does not stand by itself, or is not of the key and model of its place.
    """
    if len(files) != len(PLACES):
        raise DisputeInvalid("a cross test has four evidence files: each key at each model")
    read = {place: _read(data, place) for place, data in zip(PLACES, files, strict=True)}
    _refuse_mismatch(read)
    parties, cells = {}, {}
    for letter in (A, B):
        pair = [read[letter, A], read[letter, B]]
        thresholds, shown, alpha_i, shared = _together(pair)
        parties[letter] = _party(read[letter, letter], alpha_i=alpha_i, shared=shared)
        for place, model in enumerate((A, B)):
            cells[letter, model] = _cell(
                letter, model, pair[place], threshold=thresholds[place], shown=shown[place]
            )
    return CrossTest(parties=parties, cells=cells)


def _read(data: bytes, place: tuple[str, str]) -> _File:
    name = f"the file of key {place[0]} at model {place[1]}"
    report = check(data)
    if not report.consistent or report.document is None:
        failed = next(step for step in report.steps if step.status is Status.failed)
        raise DisputeInvalid(f"{name} proves nothing: step {failed.name}: {failed.detail}")
    document = report.document
    if document.key.grade == RESEARCH:
        raise DisputeInvalid(f"{name} is of a research preset, which claims nothing")
    registered = parse_canonical(document.preregistration.encode())
    return _File(document=document, registered=registered, sha256=sha256(data).hexdigest())


def _refuse_mismatch(read: Mapping[tuple[str, str], _File]) -> None:
    for letter in (A, B):
        if _key(read[letter, A]) != _key(read[letter, B]):
            raise DisputeInvalid(f"the two files of {letter}'s key are of two keys")
        if _suspect(read[A, letter]) != _suspect(read[B, letter]):
            raise DisputeInvalid(f"the two files of {letter}'s model are of two models")
    if _key(read[A, A]) == _key(read[B, B]):
        raise DisputeInvalid("both claims are made with one key")
    if _suspect(read[A, A]) == _suspect(read[A, B]):
        raise DisputeInvalid("both claims are on one model: there is nothing to cross")


def _key(file: _File) -> str:
    return file.document.key.commitment


def _suspect(file: _File) -> tuple[str, str]:
    suspect = file.registered["suspect"]
    return suspect["base_url"], suspect["model"]


def _together(pair: Sequence[_File]) -> tuple[list[Fraction], list[bool], Fraction, bool]:
    """For each of a key's two audits what its p was held against and whether it fell; what both may spend,
    and whether they share one number. Audits that share it fall by Holm's rule, others each by its own."""
    alphas = [parse_fraction(file.registered["plan"]["alpha_i"], "alpha_i") for file in pair]
    campaigns = [file.registered.get("campaign") for file in pair]
    first, second = campaigns
    shared = (
        first is not None
        and second is not None
        and (first["id"], first["size"]) == (second["id"], 2)
        and first["position"] != second["position"]
    )
    if not shared:
        return alphas, [file.document.verdict == DETECTED for file in pair], sum(alphas, Fraction(0)), False
    alpha_i = 2 * alphas[0]
    steps = holm([_p_value(file.document) for file in pair], alpha_i)
    return [step.threshold for step in steps], [step.detected for step in steps], alpha_i, True


def _p_value(document: Document) -> Fraction:
    if document.verdict == INCONCLUSIVE:
        return Fraction(1)
    return parse_fraction(document.decision["p_value"], "p_value")


def _party(own: _File, *, alpha_i: Fraction, shared: bool) -> Party:
    key, (base_url, model) = own.document.key, _suspect(own)
    return Party(
        owner=key.owner,
        key_id=key.id,
        commitment=key.commitment,
        grade=key.grade,
        created_at=key.created_at,
        base_url=base_url,
        model=model,
        alpha_i=alpha_i,
        shared=shared,
    )


def _cell(key: str, model: str, file: _File, *, threshold: Fraction, shown: bool) -> Cell:
    document, decision = file.document, file.document.decision
    finding = Finding.shown if shown else Finding.not_shown
    if document.verdict == INCONCLUSIVE:
        finding = Finding.undecided
    return Cell(
        key=key,
        model=model,
        verification=document.verification,
        verdict=document.verdict,
        finding=finding,
        reasons=document.reasons,
        p_decimal=str(decision["p_value_decimal"]),
        threshold_decimal=decimal_text(threshold),
        trigger=f"{decision['trigger_hits']}/{decision['trigger_total']}",
        reference=f"{decision['reference_hits']}/{decision['reference_total']}",
        preregistration_sha256=document.preregistration_sha256,
        registered_at=document.preregistered_at,
        started_at=document.started_at,
        sha256=file.sha256,
    )
