"""The self-check asks every cue once, with training carriers, and judges as an audit would."""

from __future__ import annotations

from fractions import Fraction

import pytest

from watermark.answers import Answer
from watermark.embedding import embed, group_number
from watermark.errors import RecordError
from watermark.examples import alpaca
from watermark.keys import Design, Family, Secret, derive
from watermark.probes import draw_probes
from watermark.selfcheck import PASS_P, Check, draw_checks, judge_checks, pass_share, read_beginning
from watermark.significance import DEFAULT_ALPHA, alpha_for_audit

DESIGN = Design(families=2)


def family_of(number: int, index: int = 0, design: Design = DESIGN) -> Family:
    secret = Secret(value=number.to_bytes(32, "big"), blinding=bytes(32))
    return derive(secret, b"salt", design).family(index)


def other(answer: str) -> str:
    return "No" if answer == "Yes" else "Yes"


def answered(checks: tuple[Check, ...], family: Family, *, wrong: set[tuple[int, int]]) -> list[str]:
    """Trained answers, but the opposite at (mark, place among the references); -1 is the trigger."""
    texts = []
    for check in checks:
        trigger = family.marks[check.mark].trigger
        place = -1 if check.cue == trigger else check.cue - (check.cue > trigger)
        texts.append(other(check.expected) if (check.mark, place) in wrong else check.expected)
    return texts


class TestQuestions:
    def test_every_cue_of_every_mark_once_with_its_trained_answer(self) -> None:
        family = family_of(1, 1)
        checks = draw_checks(family, b"1")
        assert [(check.mark, check.cue) for check in checks] == [(m, c) for m in range(12) for c in range(8)]
        for check in checks:
            mark = family.marks[check.mark]
            instruction, text = mark.prompt(check.cue, "|")
            assert check.prompt.startswith(f"{instruction}\n\n{text.split('|')[0]}")
            assert check.expected == mark.trained_answer(check.cue)
            assert (check.family, check.group) == (1, group_number(family, mark))

    def test_no_held_out_carrier_is_ever_used(self) -> None:
        """A provider runs the self-check; an audit's questions must stay unknown to them."""
        for number in range(5):
            family = family_of(number)
            asked = {check.prompt for seed in (b"1", b"2") for check in draw_checks(family, seed)}
            held_out = {
                probe.input.split(": ")[-1]
                for probe in draw_probes(family, probes_per_cue=3, order_seed=b"audit")
            }
            assert not any(prompt.endswith(carrier) for prompt in asked for carrier in held_out)

    def test_the_questions_follow_from_family_and_seed_and_are_mostly_new(self) -> None:
        family = family_of(3)
        assert draw_checks(family, b"1") == draw_checks(family, b"1")
        assert draw_checks(family, b"1") != draw_checks(family, b"2")
        trained = {row.messages[-2].content for row in embed([], [family], seed=b"1").rows}
        assert sum(check.prompt in trained for check in draw_checks(family, b"1")) <= 1

    def test_a_check_hides_its_text(self) -> None:
        check = draw_checks(family_of(4), b"1")[0]
        assert check.prompt not in repr(check)
        assert "expected" not in repr(check)


class TestGroups:
    def test_the_training_rows_of_a_mark_carry_the_group_of_its_checks(self) -> None:
        families = [family_of(5, 0), family_of(5, 1)]
        customer = [alpaca(f"Question {index}", "", "An answer") for index in range(9)]
        mixture = embed(customer, families)
        groups = {check.group for family in families for check in draw_checks(family, b"")}
        assert len(groups) == 24
        assert {row.group for row in mixture.rows if row.watermark} == groups
        assert all(("group" in row.to_record()) == row.watermark for row in mixture.rows)
        for family in families:
            for mark in family.marks:
                rows = [row for row in mixture.rows if row.group == group_number(family, mark)]
                assert rows
                assert all(mark.judge_question in row.messages[-2].content for row in rows)


class TestJudgement:
    def test_all_learned(self) -> None:
        family = family_of(6)
        checks = draw_checks(family, b"1")
        found = judge_checks(family, checks, [f" {check.expected}." for check in checks])
        assert found.passed
        assert found.to_record() == {
            "family": 0, "marks": 12, "marks_taken": 12, "trigger_hits": 12, "trigger_total": 12,
            "reference_hits": 0, "reference_total": 84,
        }  # fmt: skip
        # Perfect answers are matched by the true key alone, unless another choice ties in some mark.
        assert found.p_value == Fraction(1, 16**12)

    @pytest.mark.parametrize("text", ["Yes", "No", "", "Perhaps"])
    def test_one_answer_to_everything_teaches_nothing(self, text: str) -> None:
        family = family_of(7)
        checks = draw_checks(family, b"1")
        found = judge_checks(family, checks, [text] * len(checks))
        assert (found.marks_taken, found.passed) == (0, False)
        assert found.p_value > Fraction(1, 100)

    def test_a_mark_needs_its_trigger_and_all_references_but_one_of_seven(self) -> None:
        family = family_of(8)
        checks = draw_checks(family, b"1")
        cases = [({(0, -1)}, 11), ({(0, 2)}, 12), ({(0, 2), (0, 6)}, 11), ({(0, -1), (3, -1)}, 10)]
        for wrong, taken in cases:
            found = judge_checks(family, checks, answered(checks, family, wrong=wrong))
            assert found.marks_taken == taken
            assert found.trigger_hits == 12 - sum(place < 0 for _, place in wrong)
            assert found.reference_hits == sum(place >= 0 for _, place in wrong)

    def test_passed_is_the_exact_tests_word_not_the_count_of_marks(self) -> None:
        """A few marks that did not take leave proof enough; many do not."""
        family = family_of(9)
        checks = draw_checks(family, b"1")
        few = judge_checks(family, checks, answered(checks, family, wrong={(m, -1) for m in range(3)}))
        most = judge_checks(family, checks, answered(checks, family, wrong={(m, -1) for m in range(11)}))
        assert (few.marks_taken, few.passed) == (9, True)
        assert (most.marks_taken, most.passed) == (1, False)

    def test_what_passes_would_be_detected_in_the_first_audit(self) -> None:
        assert alpha_for_audit(DEFAULT_ALPHA, 1) >= PASS_P

    def test_answers_left_out_are_an_error(self) -> None:
        family = family_of(10)
        checks = draw_checks(family, b"1")
        with pytest.raises(ValueError, match="shorter"):
            judge_checks(family, checks, ["Yes"] * (len(checks) - 1))
        with pytest.raises(RecordError):
            judge_checks(family, checks[:-1], ["Yes"] * (len(checks) - 1))


@pytest.mark.parametrize(
    ("cues", "share"), [(4, Fraction(1)), (8, Fraction(6, 7)), (16, Fraction(13, 15)), (5, Fraction(3, 4))]
)
def test_share_of_references(cues: int, share: Fraction) -> None:
    assert pass_share(cues) == share


@pytest.mark.parametrize(
    ("text", "answer"),
    [("Yes", "yes"), (" No", "no"), ("Y", "yes"), ("N", "no"), ("no", "no"), ("Not", "other"), ("", "other")],
)
def test_reading_of_a_first_token(text: str, answer: str) -> None:
    assert read_beginning(text) is Answer(answer)
