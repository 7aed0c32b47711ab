"""A dispute's folder: the plan of its four audits, fixed at once, and their evidence as it comes.

`plan.json` is written when both keys have spent a number and before the first question. It is what an
interrupted dispute is taken up from, and private: until an audit's evidence shows its nonce, the order of its
questions is nobody's to know.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cli.errors import UsageMistake
from cli.files import create_private, make_private_dir
from cli.owner import keyfile
from cli.owner.journal import Header
from cli.owner.registering import Audit, on_record, register, rehearse
from evidence.canonical import canonical_bytes, parse_canonical
from evidence.dispute.cross import PLACES, A, B, declaration
from evidence.document import preregistration_digest
from evidence.errors import EvidenceError
from evidence.keyfile import KeyFile
from evidence.plan import Suspect
from evidence.planning import PlanRequest

FORMAT = "doublei-dispute-plan/1"
PLAN_NAME, PAGE_NAME, RECORD_NAME = "plan.json", "report.html", "report.json"
MAX_PLAN_BYTES = 1024 * 1024

Place = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One owner's key file, and the model that the owner claims."""

    key: Path
    suspect: Suspect
    family: int | None
    """to open; None takes the first that no audit has opened"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """Four audits whose plans are fixed."""

    dispute: str
    audits: Mapping[Place, Audit]
    resumed: bool

    @property
    def sha256(self) -> str:
        """Digest of the four plans."""
        return declaration([preregistration_digest(self.audits[at].header.preregistration) for at in PLACES])


def evidence_path(folder: Path, place: Place) -> Path:
    """Where the evidence of a key at a model is."""
    key, model = place
    return folder / f"key-{key.lower()}-at-model-{model.lower()}.json"


def declared(folder: Path, sides: Mapping[str, Side], request: PlanRequest) -> Declared:
    """The audits that the folder has on record; in a new folder four new ones, under each key's next number.

    Raises:
        UsageMistake: it is no dispute's folder, or one with another plan; or a new plan can't be, and then no
            number is spent.
    """
    place = folder / PLAN_NAME
    if place.exists():
        return _taken_up(place, sides, request)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageMistake(f"--output: {folder} is there already and is no dispute's folder")
    return _declare(folder, sides, request)


def _declare(folder: Path, sides: Mapping[str, Side], request: PlanRequest) -> Declared:
    keys = {letter: keyfile.read(side.key) for letter, side in sides.items()}
    if keys[A].committed == keys[B].committed:
        raise UsageMistake("--b-key: both claims are made with one key")
    suspects = [sides[A].suspect, sides[B].suspect]
    if suspects[0] == suspects[1]:
        raise UsageMistake("--b-model: both claims are on one model; verify it with each key: doublei verify")
    requests = {letter: _with_family(request, sides[letter], keys[letter]) for letter in (A, B)}
    for letter in (A, B):
        rehearse(keys[letter], suspects, requests[letter])
    try:
        make_private_dir(folder)
    except OSError as error:
        raise UsageMistake(f"--output: {folder}: {error.strerror}") from None
    dispute = f"dispute-{secrets.token_hex(12)}"
    headers: dict[Place, Header] = {}
    # the numbers first: lost before the plan is written, they are spent and nothing was asked
    for letter in (A, B):
        keys[letter], made = register(sides[letter].key, suspects, requests[letter], campaign=dispute)
        headers |= {(letter, model): header for model, header in zip((A, B), made, strict=True)}
    record = {
        "format": FORMAT,
        "dispute": dispute,
        "audits": [{"key": key, "model": model} | headers[key, model].to_record() for key, model in PLACES],
    }
    try:
        create_private(folder / PLAN_NAME, canonical_bytes(record))
    except OSError as error:
        raise UsageMistake(f"--output: {folder / PLAN_NAME}: {error.strerror}") from None
    return Declared(
        dispute=dispute,
        audits=_audits(folder / PLAN_NAME, headers, sides, request),
        resumed=False,
    )


def _taken_up(place: Path, sides: Mapping[str, Side], request: PlanRequest) -> Declared:
    try:
        with place.open("rb") as file:
            record = parse_canonical(file.read(MAX_PLAN_BYTES + 1))
        dispute = record["dispute"]
        headers = {(item["key"], item["model"]): _header(item) for item in record["audits"]}
        if record["format"] != FORMAT or set(headers) != set(PLACES):
            raise ValueError
    except OSError as error:
        raise UsageMistake(f"{place}: {error.strerror}") from None
    except (EvidenceError, KeyError, TypeError, ValueError):
        raise UsageMistake(f"{place} is no dispute's plan, or is damaged") from None
    return Declared(dispute=dispute, audits=_audits(place, headers, sides, request), resumed=True)


def _audits(
    place: Path, headers: Mapping[Place, Header], sides: Mapping[str, Side], request: PlanRequest
) -> dict[Place, Audit]:
    audits = {}
    for (letter, model), header in headers.items():
        wished = request
        if sides[letter].family is not None:
            wished = replace(request, family=sides[letter].family)
        else:
            registered = parse_canonical(header.preregistration.encode())
            wished = replace(request, family=registered["plan"]["family"])
        key = keyfile.read(sides[letter].key)
        audits[letter, model] = on_record(key, header, sides[model].suspect, wished, place=place)
    return audits


def _header(item: Mapping[str, Any]) -> Header:
    texts = {name: item[name] for name in ("verification", "registered_at", "nonce", "preregistration")}
    if not all(isinstance(text, str) for text in texts.values()):
        raise ValueError("a field of the plan is no text")
    return Header(**texts)


def _with_family(request: PlanRequest, side: Side, key: KeyFile) -> PlanRequest:
    if side.family is not None:
        return replace(request, family=side.family)
    unopened = set(range(key.design.families)) - set(key.families_opened)
    if not unopened:
        raise UsageMistake(
            f"{side.key}: an audit has opened every family already, so whoever was asked may know the "
            "questions; name a family to use it all the same: --a-family or --b-family"
        )
    return replace(request, family=min(unopened))
