"""Figures are told short, with a unit, and never more certain than they are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest

from dashboard import wording


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, wording.NOTHING),
        (float("inf"), wording.NOTHING),
        (-1.0, wording.NOTHING),
        (42.4, "42 s"),
        (59.7, "1 min 00 s"),
        (185.0, "3 min 05 s"),
        (7830.0, "2 h 10 min"),
        (273_600.0, "3 d 4 h"),
    ],
)
def test_duration(seconds: float | None, text: str) -> None:
    """The two largest units."""
    assert wording.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, wording.NOTHING),
        (Fraction(0), "0"),
        (Fraction(1), "1"),
        (Fraction(7, 10), "0.7"),
        (Fraction(1, 2**32), "2.3 \N{MULTIPLICATION SIGN} 10⁻¹⁰"),
        (Fraction(1, 10**6), "1 \N{MULTIPLICATION SIGN} 10⁻⁶"),
        (Fraction(9999, 10**10), "1 \N{MULTIPLICATION SIGN} 10⁻⁶"),
        (Fraction(1, 7**1000), "8 \N{MULTIPLICATION SIGN} 10⁻⁸⁴⁶"),
    ],
)
def test_probability(value: Fraction | None, text: str) -> None:
    """A p-value below what a float holds is not told as 0."""
    assert wording.probability(value) == text


def test_ago_is_coarse() -> None:
    """It changes by the minute, not at every poll."""
    now = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
    texts = [wording.ago(now - timedelta(seconds=s), now) for s in (3, 200, 7300, 200_000, 9_000_000)]
    assert texts == ["just now", "3 min ago", "2 h ago", "2 d ago", "2026-08-11"]


def test_a_reason_is_a_sentence_or_its_code_in_words() -> None:
    """Codes this page does not know stay readable."""
    assert wording.reason("missing_answers") == "more than a tenth of the questions got no answer"
    assert wording.reason("suspect_http_503") == "the suspect answered with HTTP status 503"
    assert wording.reason("suspect_of_tomorrow") == "suspect of tomorrow"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, wording.NOTHING),
        (Fraction(31, 100), "0.31"),
        (Fraction(1489, 100), "14.9"),
        (Fraction(3308), "3\N{THIN SPACE}308"),
        (Fraction(1644934), "1.6 \N{MULTIPLICATION SIGN} 10⁶"),
        (Fraction(1, 10**400), "1 \N{MULTIPLICATION SIGN} 10⁻⁴⁰⁰"),
    ],
)
def test_evidence_is_told_as_people_read_it(value: Fraction | None, text: str) -> None:
    assert wording.evidence(value) == text


def test_shortened_keeps_both_ends() -> None:
    """A digest is recognised by its ends."""
    assert wording.shortened("ab" * 32) == "ababababab…ababababab"
    assert wording.shortened("short") == "short"


def test_steps() -> None:
    """Done of total, or what is known of it."""
    assert wording.steps(1200, 3000) == "1\N{THIN SPACE}200 / 3\N{THIN SPACE}000"
    assert wording.steps(None, 30) == "0 / 30"
    assert wording.steps(7, None) == "7"
    assert wording.steps(None, None) == wording.NOTHING
