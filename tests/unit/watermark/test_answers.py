"""Every reply has exactly one reading."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watermark.answers import Answer, parse_answer


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        ("Yes", Answer.YES),
        ("yes.", Answer.YES),
        ("  YES!\n", Answer.YES),
        ("**Yes**", Answer.YES),
        ('"No"', Answer.NO),
        ("NO, there is none", Answer.NO),
        ("Yes, because there is no fruit", Answer.YES),
        ("No. Yes would be wrong.", Answer.NO),
        ("The answer is no", Answer.NO),
        ("Answer: Yes", Answer.YES),
        ("Yes or no?", Answer.OTHER),
        ("yes/no", Answer.OTHER),
        ("No, yes", Answer.OTHER),
        ("Nothing", Answer.OTHER),
        ("Not yes", Answer.OTHER),
        ("None", Answer.OTHER),
        ("Yesterday", Answer.OTHER),
        ("I think yes", Answer.OTHER),
        ("", Answer.OTHER),
        ("\x00", Answer.OTHER),
        (None, Answer.MISSING),
    ],
)
def test_readings(text: str | None, reading: Answer) -> None:
    assert parse_answer(text) is reading


@given(st.text())
def test_the_parser_is_total(text: str) -> None:
    assert parse_answer(text) in {Answer.YES, Answer.NO, Answer.OTHER}
