"""The report's own arithmetic and its treatment of foreign text; the whole page is tested with the API."""

from __future__ import annotations

from math import comb

import pytest

from service.verifications.report import upper_bound, visible


@pytest.mark.parametrize(("hits", "total"), [(0, 24), (1, 24), (12, 24), (23, 24)])
def test_the_upper_bound_is_where_so_few_hits_become_improbable(hits: int, total: int) -> None:
    """By definition: at the bound, P(at most so many hits) is 5%."""
    bound = upper_bound(hits, total)
    tail = sum(comb(total, k) * bound**k * (1 - bound) ** (total - k) for k in range(hits + 1))
    assert tail == pytest.approx(0.05, abs=1e-9)


def test_the_bound_of_all_hits_is_one() -> None:
    assert upper_bound(24, 24) == 1.0


def test_the_rule_of_three() -> None:
    """No hit in n trials: about 3/n (Hanley and Lippman-Hand, 1983)."""
    assert upper_bound(0, 300) == pytest.approx(3 / 300, rel=0.02)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain Ä 你好", "plain Ä 你好"),
        ("two\nlines", "two\nlines"),
        ("\x1b[31m", "\\u{1b}[31m"),
        ("a\u202eb", "a\\u{202e}b"),
        ("\x00", "\\u{0}"),
    ],
)
def test_control_and_direction_characters_are_spelled_out(text: str, shown: str) -> None:
    assert visible(text) == shown
