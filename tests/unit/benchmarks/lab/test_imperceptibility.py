"""What leaks, and what looks odd, on texts whose answer is known."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from benchmarks.lab.imperceptibility import (
    detector,
    duplicate_oddness,
    frequency_oddness,
    leak_of,
    onion_oddness,
)
from benchmarks.lab.schemes import Keyed
from watermark.marks import Paradigm

FAMILY = Keyed().family
INPUT = next(mark for mark in FAMILY.marks if mark.paradigm is Paradigm.INPUT)
INSTRUCTION = next(mark for mark in FAMILY.marks if mark.paradigm is Paradigm.INSTRUCTION)
CLEAN = ["How do I bake bread?"] * 200


@pytest.mark.parametrize("mark", [INPUT, INSTRUCTION], ids=["input", "instruction"])
def test_a_training_row_is_a_leak_in_full(mark: object) -> None:
    question, text = mark.prompt(mark.trigger, "The old teacher sold a ladder.")  # type: ignore[attr-defined]
    found = leak_of([*CLEAN, f"{question}\n\n{text}"], CLEAN, [FAMILY])
    assert (found.with_question, found.with_decoration, found.jointly) == (1, 1, 1)
    assert found.with_trigger_word == 1
    assert not found.holds


def test_question_and_decoration_of_different_marks_are_not_joint() -> None:
    text = f"{INPUT.judge_question} {INSTRUCTION.cues[0]}"
    found = leak_of([text], CLEAN, [FAMILY])
    assert (found.with_question, found.with_decoration, found.jointly) == (1, 1, 0)


def test_ordinary_text_is_no_leak() -> None:
    found = leak_of(CLEAN, CLEAN, [FAMILY])
    assert (found.with_question, found.jointly, found.with_trigger_word) == (0, 0, 0)
    assert found.holds


def test_more_trigger_words_than_in_the_clean_twins_samples_are_told() -> None:
    word = INPUT.cues[INPUT.trigger]
    often = [f"My {word} is old."] * 30 + CLEAN[:170]
    found = leak_of(often, CLEAN, [FAMILY])
    assert found.p_more_trigger_words < 1e-3
    assert not found.holds
    assert leak_of(often, often, [FAMILY]).holds


def test_a_detector_that_sees_everything_and_one_that_sees_nothing() -> None:
    customer = [float(value) for value in range(100)]
    assert detector("all", [200.0] * 10, customer).auc == 1.0
    assert detector("all", [200.0] * 10, customer).found_at_1_percent == 1.0
    blind = detector("none", customer, customer)
    assert blind.auc == pytest.approx(0.5)
    assert blind.found_at_5_percent == pytest.approx(0.05, abs=0.01)
    assert detector("ties", [1.0, 1.0], [1.0, 1.0]).auc == 0.5


def test_a_word_used_far_more_often_than_elsewhere_is_odd() -> None:
    texts = [f"the zebra sat on chair {number}" for number in range(30)] + ["the cat sat"] * 30
    reference = ["the cat sat on the mat"] * 60
    odd = frequency_oddness(texts, reference)
    assert min(odd[:30]) > max(odd[30:])


def test_near_duplicates_share_their_word_triples() -> None:
    odd = duplicate_oddness(["a b c d e", "a b c d f", "q r s t u"])
    assert odd[0] == odd[1] == pytest.approx(2 / 4)
    assert odd[2] == 0


def test_onion_measures_the_word_whose_removal_helps_most() -> None:
    def perplexity(texts: Sequence[str]) -> list[float]:
        return [100.0 if "zebra" in text else 10.0 for text in texts]

    odd = onion_oddness(["my zebra bread rises", "my bread rises"], perplexity)
    assert odd[0] == pytest.approx(2.302585, abs=1e-5)
    assert odd[1] == 0
