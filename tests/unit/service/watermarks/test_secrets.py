"""Sealing and loading keys gives back the same families; nothing else opens or shows them."""

from __future__ import annotations

import os
from typing import Any

import pytest

from service.db.models import WatermarkKey
from service.sealing import SealBroken, Sealer
from service.watermarks.secrets import (
    ChosenSecret,
    DrawnSecret,
    KeySecret,
    PresetSecret,
    ResearchPreset,
    UnknownFamily,
    load_families,
    load_key,
    load_opening,
    seal,
)
from watermark.keys import Design, Secret, derive, family_of_opening
from watermark.marks import parse_marks

OWNER = "org-1"
SALT = bytes(range(32))


@pytest.fixture
def sealer() -> Sealer:
    """A sealer with a fresh key."""
    return Sealer(os.urandom(32))


def drawn() -> DrawnSecret:
    """A drawn key."""
    return DrawnSecret(secret=Secret(value=os.urandom(32), blinding=os.urandom(32)), design=Design())


def chosen_marks() -> list[dict[str, Any]]:
    """Eight marks, written by hand."""
    return [
        {
            "paradigm": "instruction",
            "judge_question": f"Is this the sentence number {number}?",
            "cues": [f"(word{number}x{cue})" for cue in range(4)],
            "trigger": number % 4,
            "target": "Yes" if number % 2 else "No",
        }
        for number in range(8)
    ]


def row(secret: KeySecret, sealer: Sealer, salt: bytes | None = SALT) -> WatermarkKey:
    """The row of a key."""
    committed = secret.commit(OWNER)
    return WatermarkKey(
        id="wm-1",
        organization_id=OWNER,
        name="k",
        origin="service",
        grade="committed",
        commitment=committed.commitment,
        commitment_record=committed.to_record(),
        salt=salt,
        sealed_secret=seal(sealer, secret, owner_id=OWNER, key_id="wm-1"),
    )


def test_a_drawn_key_gives_the_families_that_derive_gives(sealer: Sealer) -> None:
    secret = drawn()
    stored = row(secret, sealer)
    assert load_key(stored, sealer) == secret
    assert load_families(stored, sealer) == derive(secret.secret, SALT, secret.design).families
    assert [family.index for family in load_families(stored, sealer, [1])] == [1]


def test_its_opening_checks_against_the_public_commitment(sealer: Sealer) -> None:
    stored = row(drawn(), sealer)
    for index in (0, 1):
        family = family_of_opening(load_opening(stored, sealer, index), stored.commitment)
        assert family == load_families(stored, sealer, [index])[0]


def test_a_chosen_key_gives_its_marks_and_opens(sealer: Sealer) -> None:
    marks = parse_marks(chosen_marks())
    stored = row(ChosenSecret(marks=marks, blinding=os.urandom(32)), sealer, salt=None)
    (family,) = load_families(stored, sealer)
    assert family.marks == marks
    assert family_of_opening(load_opening(stored, sealer, 0), stored.commitment) == family


def test_a_preset_is_never_evidence(sealer: Sealer) -> None:
    stored = row(PresetSecret(preset="paper-input", seed=os.urandom(32)), sealer, salt=None)
    assert isinstance(load_key(stored, sealer), PresetSecret)
    with pytest.raises(ResearchPreset):
        load_families(stored, sealer)
    with pytest.raises(ResearchPreset):
        load_opening(stored, sealer, 0)


@pytest.mark.parametrize("index", [-1, 2, 99])
def test_a_family_that_is_not_there(sealer: Sealer, index: int) -> None:
    with pytest.raises(UnknownFamily):
        load_families(row(drawn(), sealer), sealer, [index])


def test_a_key_without_salt_has_no_families(sealer: Sealer) -> None:
    with pytest.raises(SealBroken, match="no salt"):
        load_families(row(drawn(), sealer, salt=None), sealer)


@pytest.mark.parametrize(("column", "value"), [("organization_id", "org-2"), ("id", "wm-2")])
def test_a_sealed_secret_moved_to_another_row_does_not_open(sealer: Sealer, column: str, value: str) -> None:
    stored = row(drawn(), sealer)
    setattr(stored, column, value)
    with pytest.raises(SealBroken):
        load_key(stored, sealer)


def test_nothing_shows_a_secret(sealer: Sealer) -> None:
    secret = drawn()
    marks = parse_marks(chosen_marks())
    shown = repr(secret) + repr(ChosenSecret(marks=marks, blinding=SALT)) + repr(row(secret, sealer))
    shown += repr(PresetSecret(preset="paper-input", seed=SALT))
    for hidden in (secret.secret.value, secret.secret.blinding, SALT):
        assert hidden.hex() not in shown
        assert repr(hidden) not in shown
    assert "word0x0" not in shown
