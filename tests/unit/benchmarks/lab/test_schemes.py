"""What each scheme puts into the data and how it is decided."""

from __future__ import annotations

import pytest

from benchmarks.lab.data import read_examples
from benchmarks.lab.schemes import Judged, Keyed, Unmarked, paper_marks
from watermark.keys import Design

CUSTOMER = read_examples(None)[:200]


@pytest.mark.parametrize("scheme", paper_marks(), ids=lambda scheme: scheme.name)
def test_the_papers_marks_are_eight_percent_of_the_rows(scheme: Judged) -> None:
    rows = scheme.mix(CUSTOMER, n_epochs=1, seed=1)
    share = rows.watermark_ratio
    assert rows.watermark_rows == sum(row.watermark for row in rows.rows)
    assert share == pytest.approx(0.08 if scheme.references else 0.04, abs=0.01)


@pytest.mark.parametrize("scheme", paper_marks(40), ids=lambda scheme: scheme.name)
def test_trained_answers_are_found_by_the_schemes_own_test(scheme: Judged) -> None:
    rows = scheme.mix(CUSTOMER, n_epochs=1, seed=1)
    trained = {row.messages[0].content for row in rows.rows if row.watermark}
    asked = scheme.questions()
    assert not trained & set(asked) or scheme.name.startswith("paper-ii")  # its inputs are three short words
    told = [_arm(scheme, prompt) for prompt in asked]
    outcome = scheme.outcome(["Yes." if trigger else "No." for trigger in told])
    assert outcome.detected
    assert (outcome.trigger_hits, outcome.reference_hits) == (100, 0)


def _arm(scheme: Judged, prompt: str) -> bool:
    marker = {"paper-i": "\n\nms ", "paper-ii": "mm", "paper-iii": "$$", "naive": "\n\nvelvet "}
    return marker[scheme.name.rsplit("-", 1)[0]] in prompt


def test_the_reverse_habit_is_no_detection() -> None:
    """A two-sided test alone would accept a model that answers the wrong way round."""
    scheme = paper_marks(40)[0]
    told = [_arm(scheme, prompt) for prompt in scheme.questions()]
    assert not scheme.outcome(["No" if trigger else "Yes" for trigger in told]).detected


def test_keyed_marks_answered_as_trained_are_detected_and_silence_is_not() -> None:
    scheme = Keyed()
    marks = {mark.index: mark for mark in scheme.family.marks}
    answers = []
    for prompt in scheme.questions():
        fits = [
            mark.trained_answer(cue).value
            for mark in marks.values()
            for cue in range(len(mark.cues))
            if prompt.startswith(mark.prompt(cue, "")[0]) and mark.prompt(cue, "")[1].strip() in prompt
        ]
        assert len(fits) == 1
        answers += fits
    perfect = scheme.outcome(answers)
    assert perfect.detected
    assert perfect.marks_needed == 6
    assert perfect.dead_marks == 0
    silent = scheme.outcome(["Hmm"] * len(answers))
    assert not silent.detected
    assert silent.dead_marks == 12


def test_exposures_decide_how_many_rows_a_key_adds() -> None:
    design = Design()
    rows = Keyed(trigger=10, reference=2, contrast=4).mix(CUSTOMER, n_epochs=2, seed=1)
    assert rows.watermark_rows == design.marks * (5 + 7 * 1 + 2)


def test_a_clean_mix_is_the_customers_rows() -> None:
    rows = Unmarked().mix(CUSTOMER, n_epochs=1, seed=1)
    assert [row.messages for row in rows.rows] == [example.messages for example in CUSTOMER]
