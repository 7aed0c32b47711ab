"""A key is committed before its salt, drawn from banks, and opened one family at a time."""

from __future__ import annotations

import copy
import pickle
from collections import Counter

import pytest

from watermark import banks
from watermark.errors import DesignError, MarksError, OpeningError, RecordError
from watermark.keys import (
    Design,
    Secret,
    chosen_family,
    commit,
    commit_chosen,
    derive,
    family_of_opening,
    open_chosen,
    open_family,
)
from watermark.marks import Paradigm, Target, parse_marks
from watermark.prf import Stream, hkdf

DESIGN = Design()
SECRET = Secret(value=bytes(range(32)), blinding=bytes(range(32, 64)))


def secret_of(number: int) -> Secret:
    return Secret(value=number.to_bytes(32, "big"), blinding=bytes(32))


def chosen_record(count: int = 8) -> list[dict[str, object]]:
    return [
        {
            "paradigm": "input",
            "decoration": f"(deco{index})",
            "judge_question": f"Is this question {index}?",
            "cues": [f"cue{index}x{number}" for number in range(4)],
            "trigger": index % 4,
            "target": "Yes",
        }
        for index in range(count)
    ]


def test_hkdf_agrees_with_rfc_5869_test_case_1() -> None:
    okm = hkdf(bytes([0x0B] * 22), salt=bytes(range(13)), info=bytes(range(0xF0, 0xFA)), length=42)
    assert okm.hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )


def test_stream_draws_are_uniform_and_samples_distinct() -> None:
    stream = Stream(b"k", "uniform")
    counts = Counter(stream.below(7) for _ in range(14_000))
    assert set(counts) == set(range(7))
    # chi-square with 6 degrees of freedom; 22.5 is its .999 quantile
    assert sum((count - 2000) ** 2 / 2000 for count in counts.values()) < 22.5
    assert sorted(Stream(b"k", "s").shuffle(range(50))) == list(range(50))
    with pytest.raises(ValueError, match="of 3"):
        stream.sample([1, 2, 3], 4)


def test_cues_questions_and_decorations_of_one_key_never_collide() -> None:
    for number in range(20):
        key = derive(secret_of(number), b"salt", DESIGN)
        texts = []
        for family in key.families:
            for mark in family.marks:
                texts += [mark.judge_question, *(cue.strip('()[]<>:*#~"') for cue in mark.cues)]
                if mark.decoration:
                    texts.append(mark.decoration.strip('()[]<>:*#~"'))
        assert len(texts) == len(set(texts))


def test_cue_words_and_carrier_words_are_disjoint() -> None:
    carriers = " ".join(
        banks.CARRIER_SUBJECTS + banks.CARRIER_VERBS + banks.CARRIER_OBJECTS + banks.CARRIER_ENDINGS
    )
    assert not set(carriers.split()) & set(banks.CUE_WORDS)
    assert len(set(banks.CUE_WORDS)) == len(banks.CUE_WORDS)
    assert len(set(banks.TOPICS)) == len(banks.TOPICS)


def test_both_paradigms_are_mixed_and_triggers_and_targets_are_uniform() -> None:
    triggers: Counter[int] = Counter()
    targets: Counter[Target] = Counter()
    for number in range(60):
        for family in derive(secret_of(number), b"s", DESIGN).families:
            paradigms = Counter(mark.paradigm for mark in family.marks)
            assert paradigms == {Paradigm.INPUT: 6, Paradigm.INSTRUCTION: 6}
            triggers.update(mark.trigger for mark in family.marks)
            targets.update(mark.target for mark in family.marks)
    expected = 60 * 2 * 12 / 8
    # 7 and 1 degrees of freedom at .999
    assert sum((count - expected) ** 2 / expected for count in triggers.values()) < 24.3
    assert abs(targets[Target.YES] - 720) < 3.3 * (1440 / 4) ** 0.5


def test_the_same_secret_under_another_salt_is_another_key() -> None:
    first, second = derive(SECRET, b"one", DESIGN), derive(SECRET, b"two", DESIGN)
    assert first.family(0).marks != second.family(0).marks
    assert derive(SECRET, b"one", DESIGN).family(0).marks == first.family(0).marks


def test_an_opened_family_matches_its_commitment_and_discloses_no_other() -> None:
    committed = commit("org-a", SECRET, DESIGN)
    opening = open_family("org-a", SECRET, b"salt", DESIGN, 1)
    key = derive(SECRET, b"salt", DESIGN)
    assert family_of_opening(opening, committed.commitment).marks == key.family(1).marks
    shown = repr(opening)
    assert SECRET.value.hex() not in shown
    assert SECRET.blinding.hex() not in shown
    other = open_family("org-a", SECRET, b"salt", DESIGN, 0)
    assert str(other["family_secret"]) not in shown


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("owner_id", "org-b"),
        ("family", 0),
        ("family_secret", "00" * 32),
        ("family_blinding", "00" * 32),
        ("root_commitment", "00" * 32),
        ("family_commitments", ["00" * 32, "11" * 32]),
        ("design", {"banks": banks.BANKS_DIGEST, "cues": 8, "families": 2, "marks": 11}),
    ],
)
def test_any_changed_part_of_an_opening_is_refused(field: str, value: object) -> None:
    committed = commit("org-a", SECRET, DESIGN)
    opening = copy.deepcopy(open_family("org-a", SECRET, b"salt", DESIGN, 1))
    opening[field] = value
    with pytest.raises(OpeningError):
        family_of_opening(opening, committed.commitment)


@pytest.mark.parametrize(
    "opening",
    [
        None,
        {},
        {"kind": "drawn"},
        {**open_family("o", SECRET, b"", DESIGN, 0), "extra": 1},
        {**open_family("o", SECRET, b"", DESIGN, 0), "family": True},
        {**open_family("o", SECRET, b"", DESIGN, 0), "salt": "XY"},
        {**open_family("o", SECRET, b"", DESIGN, 0), "kind": "other"},
    ],
)
def test_a_malformed_opening_is_a_record_error(opening: object) -> None:
    committed = commit("o", SECRET, DESIGN)
    with pytest.raises(RecordError):
        family_of_opening(opening, committed.commitment)


def test_secrets_stay_out_of_repr_and_survive_pickling() -> None:
    key = derive(SECRET, b"salt", DESIGN)
    shown = repr(SECRET) + repr(key) + repr(key.family(0)) + repr(key.family(0).marks[0])
    for hidden in (SECRET.value.hex(), repr(SECRET.value), key.family(0).marks[0].cues[0]):
        assert hidden not in shown
    assert pickle.loads(pickle.dumps(OpeningError("x"))).args == ("x",)  # noqa: S301


@pytest.mark.parametrize(
    "arguments",
    [{"families": 1}, {"marks": 7}, {"cues": 3}, {"cues": 17}, {"families": 4, "marks": 24}, {"banks": "00"}],
)
def test_a_design_the_banks_or_the_test_cannot_carry_is_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(DesignError):
        Design(**arguments)  # type: ignore[arg-type]


def test_chosen_marks_are_committed_opened_and_graded_alike() -> None:
    marks = parse_marks(chosen_record())
    committed = commit_chosen("org-a", marks, bytes(32))
    opening = open_chosen("org-a", marks, bytes(32))
    assert family_of_opening(opening, committed.commitment) == chosen_family(marks, bytes(32))
    with pytest.raises(OpeningError):
        family_of_opening({**opening, "owner_id": "org-b"}, committed.commitment)


def test_bad_chosen_marks_name_the_part() -> None:
    cases: list[tuple[object, str]] = [
        ("x", "marks"),
        (chosen_record(7), "marks"),
        ([*chosen_record(7), {**chosen_record(1)[0]}], "marks[7]"),
        ([*chosen_record(7), {**chosen_record(8)[7], "trigger": 4}], "marks[7].trigger"),
        ([*chosen_record(7), {**chosen_record(8)[7], "target": "Maybe"}], "marks[7].target"),
        ([*chosen_record(7), {**chosen_record(8)[7], "cues": ["a"]}], "marks[7].cues"),
        ([*chosen_record(7), {**chosen_record(8)[7], "paradigm": "x"}], "marks[7].paradigm"),
        ([*chosen_record(7), {**chosen_record(8)[7], "judge_question": "\x00"}], "marks[7].judge_question"),
        ([*chosen_record(7), {**chosen_record(8)[7], "colour": 1}], "marks[7].colour"),
    ]
    for value, path in cases:
        with pytest.raises(MarksError) as caught:
            parse_marks(value)
        assert caught.value.path == path
