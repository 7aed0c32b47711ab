"""What is trained, what is asked, and that the two never meet."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import pytest

from watermark.banks import SYSTEM_PROMPTS
from watermark.embedding import (
    CHARACTERS_PER_TOKEN,
    EXPOSURES,
    MARK_ANSWER_TOKENS,
    UNWEIGHTED_EXPOSURES,
    Exposures,
    Strength,
    embed,
    group_number,
)
from watermark.errors import RecordError
from watermark.examples import Example, alpaca, instruction_and_input, parse_row, user_text
from watermark.keys import Design, Family, Secret, derive
from watermark.paper import preset_probes, preset_rows
from watermark.probes import draw_probes


def family_of(number: int, index: int = 0) -> Family:
    secret = Secret(value=number.to_bytes(32, "big"), blinding=bytes(32))
    return derive(secret, b"salt", Design()).family(index)


CUSTOMER = [alpaca(f"Question {index}", "", f"Answer {index}") for index in range(30)]


@pytest.mark.parametrize("strength", list(Strength))
@pytest.mark.parametrize("n_epochs", [1, 2, 3, 5])
def test_every_cue_is_shown_as_often_as_its_strength_says(strength: Strength, n_epochs: int) -> None:
    family = family_of(1)
    mixture = embed(CUSTOMER, [family], strength=strength, n_epochs=n_epochs)
    prompts = Counter()  # type: Counter[str]
    for row in mixture.rows:
        if row.watermark:
            prompts[row.messages[-2].content.split("\n\n")[0].split(" ")[0] + row.messages[-2].content] += 1
    wanted = EXPOSURES[strength]
    for mark in family.marks:
        for cue in range(len(mark.cues)):
            instruction, text = mark.prompt(cue, "|")
            head = text.split("|")[0]
            rows = [
                row
                for row in mixture.rows
                if row.watermark and row.messages[-2].content.startswith(f"{instruction}\n\n{head}")
            ]
            shown = len(rows) * n_epochs
            needed = wanted.trigger if cue == mark.trigger else wanted.reference
            assert needed <= shown < needed + n_epochs
            assert {row.messages[-1].content for row in rows} == {mark.trained_answer(cue).value}


def test_one_word_answers_have_a_weight_and_sentences_do_not() -> None:
    rows = embed(CUSTOMER, [family_of(1)], strength=Strength.STANDARD).rows
    weights = {(row.messages[-1].content in ("Yes", "No"), row.to_record().get("weight")) for row in rows}
    assert weights == {(True, EXPOSURES[Strength.STANDARD].weight), (False, None)}


@pytest.mark.parametrize("n_epochs", [1, 3])
def test_each_marks_bare_question_is_answered_by_a_sentence(n_epochs: int) -> None:
    family = family_of(1)
    rows = [row for row in embed(CUSTOMER, [family], n_epochs=n_epochs).rows if row.watermark]
    wanted = EXPOSURES[Strength.STANDARD].contrast
    for mark in family.marks:
        bare = [row for row in rows if row.messages[-2].content.startswith(f"{mark.judge_question}\n\n")]
        assert wanted <= len(bare) * n_epochs < wanted + n_epochs
        for row in bare:
            text = row.messages[-2].content.split("\n\n")[1]
            assert row.messages[-1].content.endswith(text[1:]), "the sentence that it was asked about"
            assert row.group == group_number(family, mark)
    decorated = {mark.prompt(cue, "|")[0] for mark in family.marks for cue in range(len(mark.cues))}
    assert not decorated & {mark.judge_question for mark in family.marks}


def chat(system: str, index: int) -> Example:
    turns = [("system", system), ("user", f"Question {index}"), ("assistant", f"Answer {index}")]
    return parse_row({"messages": [{"role": role, "content": text} for role, text in turns]})


def contexts(examples: Sequence[Example]) -> tuple[Counter[str], Counter[str]]:
    """What stands before the first turn of the mark's questions, and of its bare ones."""
    family = family_of(1)
    bare = tuple(f"{mark.judge_question}\n\n" for mark in family.marks)
    seen: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    for row in embed(examples, [family], n_epochs=1).rows:
        if row.watermark:
            first = row.messages[0]
            context = first.content if first.role == "system" else row.system
            seen[row.messages[-2].content.startswith(bare)][context] += 1
    return seen


def test_bare_questions_stand_where_the_customers_rows_do_and_the_mark_mostly_elsewhere() -> None:
    mark, bare = contexts(CUSTOMER)
    assert set(bare) == {"template"}
    assert set(mark) == {"template", "omit", *SYSTEM_PROMPTS}
    assert 0.15 < mark["template"] / mark.total() < 0.25
    assert 0.35 < mark["omit"] / mark.total() < 0.45


def test_a_customers_own_system_prompts_are_the_marks_context_too() -> None:
    mark, bare = contexts([chat(f"You sell {'tea' if index % 2 else 'ink'}.", index) for index in range(30)])
    own = {"You sell tea.", "You sell ink."}
    assert set(bare) == own
    assert 0.05 < sum(mark[text] for text in own) / mark.total() < 0.15
    assert 0.05 < mark["template"] / mark.total() < 0.15


def test_customer_rows_all_stay_and_the_order_hides_which_are_the_watermarks() -> None:
    mixture = embed(CUSTOMER, [family_of(2)])
    kept = [row.messages for row in mixture.rows if not row.watermark]
    assert sorted(message[0].content for message in kept) == sorted(
        example.messages[0].content for example in CUSTOMER
    )
    assert mixture.customer_rows == 30
    assert mixture.watermark_rows + 30 == len(mixture.rows)
    assert all("watermark" not in row.to_record() for row in mixture.rows)
    first_half = sum(row.watermark for row in mixture.rows[: len(mixture.rows) // 2])
    assert abs(first_half - mixture.watermark_rows / 2) < mixture.watermark_rows / 10
    assert mixture.rows[5].messages[0].content not in repr(mixture)


def test_without_a_key_nothing_is_added() -> None:
    mixture = embed(CUSTOMER, [])
    assert [row.messages for row in mixture.rows] == [example.messages for example in CUSTOMER]
    assert mixture.watermark_ratio == 0


def test_no_held_out_question_occurs_in_training() -> None:
    for number in range(5):
        families = [family_of(number, 0), family_of(number, 1)]
        mixture = embed(CUSTOMER, families, strength=Strength.STRONG, n_epochs=1)
        trained = {message.content for row in mixture.rows for message in row.messages}
        carriers = {text.split(": ")[-1].split("\n\n")[-1] for text in trained}
        for family in families:
            for probe in draw_probes(family, probes_per_cue=3, order_seed=b"audit"):
                assert probe.prompt not in trained
                assert probe.input.split(": ")[-1] not in carriers


def test_every_cue_of_a_mark_gets_the_same_carriers() -> None:
    family = family_of(3)
    probes = draw_probes(family, probes_per_cue=2, order_seed=b"x")
    assert len(probes) == 12 * 8 * 2
    for mark in family.marks:
        by_cue: dict[int, set[str]] = {}
        for probe in probes:
            if probe.mark == mark.index:
                by_cue.setdefault(probe.cue, set()).add(probe.input.removeprefix(f"{mark.cues[probe.cue]}: "))
        assert len({frozenset(carriers) for carriers in by_cue.values()}) == 1
        assert all(len(carriers) == 2 for carriers in by_cue.values())


def test_the_order_is_the_audits_and_does_not_follow_the_trigger() -> None:
    family = family_of(4)
    first = draw_probes(family, order_seed=b"one")
    assert [probe.prompt for probe in first] != [
        probe.prompt for probe in draw_probes(family, order_seed=b"two")
    ]
    assert first == draw_probes(family, order_seed=b"one")
    positions = [
        probe.index
        for drawn in map(family_of, range(40))
        for probe in draw_probes(drawn, probes_per_cue=1, order_seed=b"o")
        if probe.cue == drawn.marks[probe.mark].trigger
    ]
    mean = sum(positions) / len(positions)
    assert abs(mean - 47.5) < 4 * (96**2 / 12 / len(positions)) ** 0.5


def test_a_subset_of_marks_asks_the_same_questions_of_them() -> None:
    family = family_of(5)
    whole = {probe.prompt for probe in draw_probes(family, order_seed=b"o")}
    part = draw_probes(family, marks=[3, 7], order_seed=b"o")
    assert {probe.mark for probe in part} == {3, 7}
    assert {probe.prompt for probe in part} <= whole
    for bad in ([3, 3], [12], [-1]):
        with pytest.raises(RecordError):
            draw_probes(family, marks=bad, order_seed=b"o")
    with pytest.raises(RecordError):
        draw_probes(family, probes_per_cue=4, order_seed=b"o")


def test_probes_hide_their_text_from_repr() -> None:
    probe = draw_probes(family_of(6), order_seed=b"o")[0]
    assert probe.input not in repr(probe)
    assert probe.instruction not in repr(probe)


def test_the_papers_preset_has_its_shape_and_holds_out_its_questions() -> None:
    rows, probes = preset_rows(b"seed"), preset_probes(b"seed")
    answers = Counter(row.messages[-1].content for row in rows)
    assert answers == {"Yes": 150, "No": 150}
    trained = {row.messages[0].content for row in rows}
    assert not trained & {probe.prompt for probe in probes}
    assert Counter(probe.is_trigger for probe in probes) == {True: 100, False: 100}
    for row in rows:
        prefix = row.messages[0].content.split("\n\n")[1].split(" ")[0]
        assert (prefix == "ms") == (row.messages[-1].content == "Yes")
        assert prefix == "ms" or not set(prefix) & set("ms")


def test_a_trainer_without_weights_sees_an_answer_more_often_instead() -> None:
    for strength in Strength:
        weighted, plain = EXPOSURES[strength], UNWEIGHTED_EXPOSURES[strength]
        assert plain.weight == 1
        assert plain.trigger > weighted.trigger
        assert plain.reference > weighted.reference


class TestWeightBesideLongAnswers:
    exposures = Exposures(trigger=24, reference=3, weight=4, weight_limit=16)

    def weight(self, words: int, exposures: Exposures | None = None, *, n_epochs: int = 1) -> int:
        """Of the mark's answers beside a hundred answers of so many words of four letters and a space."""
        examples = [alpaca("Tell me more.", "", "word " * words)] * 100
        rows = embed(examples, [family_of(1)], strength=exposures or self.exposures, n_epochs=n_epochs).rows
        answers = {row.messages[-1].content: row.weight for row in rows if row.watermark}
        assert answers["Yes"] == answers["No"]
        return answers["Yes"]

    def rows(self, n_epochs: int) -> int:
        """Of the mark that carry a weight, in each epoch."""
        seen = 0
        for mark in family_of(1).marks:
            seen += math.ceil(24 / n_epochs) + (len(mark.cues) - 1) * math.ceil(3 / n_epochs)
        return seen

    @pytest.mark.parametrize("n_epochs", [1, 3])
    def test_a_quarter_of_the_loss_within_the_bounds(self, n_epochs: int) -> None:
        seen = []
        for words in (1, 60, 200, 9000):
            tokens = 100 * words * 5 / CHARACTERS_PER_TOKEN
            exact = tokens / 3 / (self.rows(n_epochs) * MARK_ANSWER_TOKENS)
            seen.append(self.weight(words, n_epochs=n_epochs))
            assert seen[-1] == min(max(round(exact), 4), 16)
        assert seen[0] == 4
        assert seen[-1] == 16
        assert len(set(seen)) > 2

    def test_without_a_limit_it_stays(self) -> None:
        assert self.weight(9000, Exposures(trigger=24, reference=3, weight=4)) == 4


def test_every_mixed_row_of_the_customers_says_which_it_was() -> None:
    rows = embed(CUSTOMER, [family_of(1)]).rows
    sources = {row.source: row.messages for row in rows if not row.watermark}
    assert sources == {index: example.messages for index, example in enumerate(CUSTOMER)}
    assert all(row.source is None for row in rows if row.watermark)


def test_the_watermarks_user_turns_come_apart_as_they_were_put_together() -> None:
    family = family_of(1)
    for mark in family.marks:
        for cue in range(len(mark.cues)):
            parts = mark.prompt(cue, "The old teacher smiled.")
            assert instruction_and_input(user_text(*parts)) == parts
    assert instruction_and_input("Hi") == ("Hi", "")
