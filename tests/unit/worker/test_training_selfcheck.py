"""The worker's side of the self-check: what the trainer is asked, and which of its reports are believed."""

from __future__ import annotations

from typing import Any

import pytest

from watermark.keys import Design, Family, Secret, derive
from worker.errors import RunFailed
from worker.selfcheck import SelfCheck

SECRET = Secret(value=b"s" * 32, blinding=b"b" * 32)


def families(cues: int = 8) -> tuple[Family, ...]:
    return derive(SECRET, b"salt", Design(families=2, marks=8, cues=cues)).families


def check_of(*chosen: Family) -> SelfCheck:
    made = SelfCheck.of(chosen, seed=1)
    assert made is not None
    return made


def expected(check: SelfCheck) -> list[str]:
    return [str(row["messages"][-1]["content"]) for row in check.rows()]  # type: ignore[index]


def test_without_families_nothing_is_asked() -> None:
    assert SelfCheck.of((), seed=1) is None


def test_every_family_is_asked_and_judged_by_its_own_answers() -> None:
    """The first family answered as trained, the second always with Yes."""
    check = check_of(*families())
    rows = list(check.rows())
    assert len(rows) == 2 * 8 * 8
    assert len({row["group"] for row in rows}) == 16
    check.take({"round": 2, "answers": [*expected(check)[:64], *["Yes"] * 64]})
    record = check.to_record()
    assert (record["passed"], record["rounds"]) == (False, 2)
    assert [family["marks_taken"] for family in record["families"]] == [8, 0]
    assert check.summary == "8 of 16 marks took"
    with pytest.raises(RunFailed, match="8 of 16 marks took") as caught:
        check.require_passed()
    assert (caught.value.code, caught.value.retryable) == ("watermark_not_learned", False)


def test_the_latest_answers_decide() -> None:
    check = check_of(*families())
    check.take({"round": 0, "answers": ["No"] * 128})
    check.take({"round": 1, "answers": expected(check)})
    check.require_passed()
    assert check.to_record()["passed"] is True


def test_no_p_value_no_text_and_no_trigger_in_the_record() -> None:
    check = check_of(*families())
    check.take({"round": 0, "answers": expected(check)})
    names = {"family", "marks", "marks_taken", "trigger_hits", "trigger_total"}
    for family in check.to_record()["families"]:
        assert set(family) == names | {"reference_hits", "reference_total"}
        assert all(type(value) is int for value in family.values())
    assert repr(check).count("Check(") <= 3
    assert families()[0].marks[0].cues[0] not in repr(check)


@pytest.mark.parametrize(
    "report",
    [
        {},
        {"round": 0, "answers": ["Yes"] * 63},
        {"round": 0, "answers": [True] * 64},
        {"round": None, "answers": ["Yes"] * 64},
        {"round": 0, "answers": "Yes" * 64},
    ],
)
def test_a_report_that_does_not_answer_every_question_is_refused(report: dict[str, Any]) -> None:
    check = check_of(families()[0])
    with pytest.raises(RunFailed, match="was not answered"):
        check.take(report)
    with pytest.raises(RunFailed, match="was not answered"):
        check.require_passed()


@pytest.mark.parametrize(("cues", "share"), [(4, 1.0), (8, 6 / 7), (16, 13 / 15)])
def test_the_trainer_learns_which_share_makes_a_mark(cues: int, share: float) -> None:
    settings = check_of(*families(cues)).trainer_settings()
    assert settings == {"check_pass_share": pytest.approx(share), "extra_steps_share": 0.25}
