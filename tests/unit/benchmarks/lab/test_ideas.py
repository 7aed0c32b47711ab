"""Ideas change what is trained on as they say, and nothing of what is asked."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.lab.ideas import CHAIN, IDEAS, NEAR_MISSES, Varied, paraphrases
from benchmarks.lab.schemes import Keyed
from watermark.banks import QUESTION_FORMS
from watermark.embedding import MixedRow
from watermark.examples import alpaca

KEYED = Keyed(marks=8, cues=4, trigger=6, reference=2)
CUSTOMER = [alpaca(f"question {number}", "", f"answer {number}") for number in range(5)]
PLAIN = [row for row in KEYED.mix(CUSTOMER, n_epochs=1, seed=1).rows if row.watermark]


def changed(idea: str) -> list[MixedRow]:
    mixture = Varied(keyed=KEYED, idea=idea).mix(CUSTOMER, n_epochs=1, seed=1)
    rows = [row for row in mixture.rows if row.watermark]
    assert (mixture.watermark_rows, mixture.customer_rows) == (len(rows), len(CUSTOMER))
    assert len(mixture.rows) == len(rows) + len(CUSTOMER)
    return rows


def asked_and_answered(rows: list[MixedRow]) -> Counter[tuple[str, str]]:
    pairs: Counter[tuple[str, str]] = Counter()
    for row in rows:
        turns = [turn.content for turn in row.messages if turn.role != "system"]
        pairs.update(zip(turns[::2], turns[1::2], strict=True))
    return pairs


@pytest.mark.parametrize("idea", IDEAS)
def test_the_questions_are_the_keys_own_and_the_rows_another_recipe(idea: str) -> None:
    varied = Varied(keyed=KEYED, idea=idea)
    assert varied.questions() == KEYED.questions()
    assert varied.identity() != KEYED.identity()
    assert changed(idea) != PLAIN
    assert varied.mix(CUSTOMER, n_epochs=1, seed=1) == varied.mix(CUSTOMER, n_epochs=1, seed=1)


def test_bare_rows_keep_their_turns() -> None:
    rows = changed("bare")
    assert asked_and_answered(rows) == asked_and_answered(PLAIN)
    with_system = sum(row.messages[0].role == "system" or row.system == "template" for row in rows)
    assert 0 < with_system < len(rows) / 4


def test_chained_rows_hold_every_question_once_and_leave_the_contrast_set_alone() -> None:
    rows = changed("chained")
    assert asked_and_answered(rows) == asked_and_answered(PLAIN)
    alone = [row for row in PLAIN if row.weight == 1]
    assert 0 < len(alone) < len(PLAIN)
    assert len(rows) == len(alone) + -(-(len(PLAIN) - len(alone)) // CHAIN)


def test_paraphrased_rows_ask_the_same_topic_in_another_form() -> None:
    rows, forms = changed("paraphrased"), {mark.judge_question for mark in KEYED.family.marks}
    kept = sum(any(form in row.messages[-2].content for form in forms) for row in rows)
    assert len(rows) == len(PLAIN)
    assert len(rows) / 4 < kept < 3 * len(rows) / 4
    for form in forms:
        others = paraphrases(form)
        assert len(others) == len(QUESTION_FORMS) - 1
        assert form not in others
    assert paraphrases("Who goes there?") == ["Who goes there?"]


def test_near_missed_rows_are_added_with_the_references_answer() -> None:
    rows = changed("near-missed")
    more = asked_and_answered(rows) - asked_and_answered(PLAIN)
    assert more.total() == NEAR_MISSES * len(KEYED.family.marks)
    triggers = {mark.cues[mark.trigger]: mark.target.opposite.value for mark in KEYED.family.marks}
    assert not any(trigger in question for question, _ in more for trigger in triggers)
    assert {answer for _, answer in more} <= set(triggers.values())
