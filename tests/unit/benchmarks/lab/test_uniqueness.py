"""Many keys on one table: the exact test over the key holds its level, whatever the model likes."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.lab.uniqueness import (
    ALPHAS,
    AnswerTable,
    KeyScores,
    TableDesign,
    realised,
    rule_of_three,
    score_keys,
)
from benchmarks.statistics.suspects import NO, OTHER, YES
from watermark.answers import Answer

SMALL = TableDesign(questions=12, words=9, carriers=2)


def _scored(codes: np.ndarray, keys: int = 400) -> KeyScores:
    return score_keys(AnswerTable(codes), keys=keys)


def test_questions_are_in_the_order_of_the_table_and_distinct() -> None:
    prompts = SMALL.prompts()
    assert len(prompts) == len(set(prompts)) == 12 * 9 * 2
    assert all(SMALL.shells[4].judge_question in prompt for prompt in prompts[4 * 18 : 5 * 18])
    assert SMALL.shells[0].cues[3] in prompts[6]
    assert SMALL.shells[0].cues[3] in prompts[7]


def test_answers_are_read_as_in_an_audit() -> None:
    texts = ["Yes."] * 18 + ["no, never"] * 18 + ["Bananas"] * (12 * 18 - 36)
    table = AnswerTable.from_texts(SMALL, texts)
    assert (table.codes[0] == YES).all()
    assert (table.codes[1] == NO).all()
    assert (table.codes[2:] == OTHER).all()
    assert table.share(Answer.YES) == pytest.approx(1 / 12)


def test_another_number_of_answers_is_refused() -> None:
    with pytest.raises(ValueError, match="reshape"):
        AnswerTable.from_texts(SMALL, ["Yes"] * 7)


@pytest.mark.parametrize("taste", [(0.5, 0.5), (0.05, 0.05), (1.0, 1.0)])
def test_a_model_with_tastes_for_words_is_claimed_at_the_nominal_rate(taste: tuple[float, float]) -> None:
    rng = np.random.default_rng(3)
    rate = rng.beta(*taste, size=(12, 32, 1))
    codes = np.where(rng.random((12, 32, 2)) < rate, YES, NO)
    scores = _scored(codes, keys=1000)
    assert all(realised(scores.p, alpha)["holds"] for alpha in ALPHAS)
    assert (scores.p > 1e-6).all()
    assert (scores.product < 1e6).all()


def test_a_model_that_answers_all_alike_tells_targets_apart_and_nothing_else() -> None:
    """Twelve guesses of Yes or No are all that a key can have right."""
    assert _scored(np.full((12, 9, 2), NO)).p.min() >= 2.0**-12 * (1 - 1e-9)


def test_rates_above_the_nominal_one_are_told() -> None:
    p = np.concatenate([np.full(30, 0.001), np.full(970, 0.5)])
    assert realised(p, 0.01)["claimed"] == 30
    assert realised(p, 0.01)["holds"] is False
    assert realised(p, 0.05)["holds"] is True


def test_a_table_too_small_for_a_key_is_refused() -> None:
    with pytest.raises(ValueError, match="9 words"):
        score_keys(AnswerTable(np.zeros((12, 9, 2), dtype=np.int64)), keys=1, cues=10)


def test_the_bound_on_models_counts_models() -> None:
    assert rule_of_three(10) == pytest.approx(0.3)
    assert rule_of_three(1) == 1.0
