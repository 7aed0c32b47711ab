"""Which key of a log follows which: both must say so, and the chain has no gap and no way back."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest

from evidence.errors import NoteInvalid
from evidence.log.checkpoint import Checkpoint, sign
from evidence.log.note import Kind, Note, Signer
from evidence.log.succession import HEADER, KeyChange, KeyHistory, succeed

KEYS = [Signer(name="log.example/double-i", kind=Kind.log, seed=bytes([number] * 32)) for number in range(4)]
NOTES = [str(succeed(old, new)) for old, new in itertools.pairwise(KEYS)]
CHAIN = [(4, NOTES[0]), (9, NOTES[1]), (10, NOTES[2])]


def checkpoint(size: int, signer: Signer) -> Note:
    return sign(Checkpoint(origin=signer.name, size=size, root=bytes(32)), signer)


@pytest.mark.parametrize("trusted", range(4))
def test_any_key_of_the_chain_speaks_for_it(trusted: int) -> None:
    history = KeyHistory.of(KEYS[trusted].public, CHAIN)
    assert list(history.keys) == [key.public for key in KEYS]
    assert history.current == KEYS[3].public


@pytest.mark.parametrize(("size", "signer"), [(0, 0), (4, 0), (5, 1), (9, 1), (10, 2), (11, 3), (1000, 3)])
def test_a_size_is_signed_by_one_key(size: int, signer: int) -> None:
    history = KeyHistory.of(KEYS[0].public, CHAIN)
    for number, key in enumerate(KEYS):
        if number == signer:
            assert history.opened(checkpoint(size, key)).size == size
        else:
            with pytest.raises(NoteInvalid):
                history.opened(checkpoint(size, key))


def test_a_log_whose_key_was_never_changed() -> None:
    history = KeyHistory.of(KEYS[0].public, [])
    assert (history.current, history.at(10**9)) == (KEYS[0].public, KEYS[0].public)


def test_a_retired_key_that_signs_is_named() -> None:
    with pytest.raises(NoteInvalid, match=f"retired at entry 4.*{KEYS[0].public.key_id.hex()}"):
        KeyHistory.of(KEYS[0].public, CHAIN).opened(checkpoint(5, KEYS[0]))


def test_a_thief_of_a_retired_key_starts_no_second_chain() -> None:
    """His succession does not fit beside the true one, and alone it does not lead to the present key."""
    thief = replace(KEYS[0], seed=bytes([9] * 32))
    stolen = (4, str(succeed(KEYS[0], thief)))
    for told in ([stolen], [CHAIN[0], stolen], [stolen, *CHAIN[1:]]):
        with pytest.raises(NoteInvalid):
            KeyHistory.of(KEYS[3].public, told)


@pytest.mark.parametrize(
    "told",
    [
        [CHAIN[0], CHAIN[2]],
        [CHAIN[1], CHAIN[0]],
        [(4, NOTES[0]), (4, NOTES[1])],
        [CHAIN[0], (7, str(succeed(KEYS[1], KEYS[0])))],
        [(-1, NOTES[0])],
        [(4, "nonsense")],
        [(4, str(checkpoint(3, KEYS[0])))],
    ],
)
def test_what_is_no_chain(told: list[tuple[int, str]]) -> None:
    with pytest.raises(NoteInvalid):
        KeyHistory.of(KEYS[0].public, told)


BENT: dict[str, Callable[[Note], Note]] = {
    "only the old key": lambda note: replace(note, signatures=note.signatures[:1]),
    "only the new key": lambda note: replace(note, signatures=note.signatures[1:]),
    "nobody": lambda note: replace(note, signatures=checkpoint(1, KEYS[2]).signatures),
    "another text": lambda note: replace(note, text=note.text.replace(HEADER, "another header")),
    "a fifth line": lambda note: replace(note, text=f"{note.text}more\n"),
    "swapped signatures": lambda note: replace(
        note,
        signatures=tuple(
            replace(one, blob=other.blob)
            for one, other in zip(note.signatures, reversed(note.signatures), strict=True)
        ),
    ),
}


@pytest.mark.parametrize("bend", BENT)
def test_both_keys_sign_these_very_words(bend: str) -> None:
    with pytest.raises(NoteInvalid):
        KeyChange.read(4, str(BENT[bend](Note.from_text(NOTES[0]))))


def test_a_key_does_not_follow_itself_or_another_logs() -> None:
    with pytest.raises(ValueError, match="same log"):
        succeed(KEYS[0], replace(KEYS[1], name="log.example/other"))
    with pytest.raises(ValueError, match="same log"):
        succeed(KEYS[0], replace(KEYS[1], kind=Kind.witness))
    with pytest.raises(NoteInvalid):
        KeyChange.read(4, str(succeed(KEYS[0], KEYS[0])))


def test_a_succession_is_never_read_as_a_checkpoint() -> None:
    with pytest.raises(NoteInvalid):
        Checkpoint.from_text(Note.from_text(NOTES[0]).text)
