"""What an audit still asks after an interruption."""

from __future__ import annotations

from evidence.document import Exchange
from evidence.remaining import given_up, left_to_ask, spent_seconds
from probe.adapters import Api
from probe.plan import AskPlan
from watermark.questions import Question

PLAN = AskPlan(
    api=Api.chat,
    model="m",
    temperature="0",
    max_tokens=8,
    concurrency=4,
    probe_timeout_seconds=30,
    total_timeout_seconds=900,
    retries=1,
)
DRAWN = [Question(index=index, prompt=f"q{index}", mark=0, cue=index) for index in range(6)]


def _exchange(index: int, outcome: str, attempt: int = 0, second: int = 0) -> Exchange:
    return Exchange(
        index=index,
        attempt=attempt,
        sent_at=f"2026-01-01T00:00:{second:02d}.000000Z",
        request="{}",
        outcome=outcome,
        answered_at=None if outcome == "unknown" else f"2026-01-01T00:00:{second + 1:02d}.500000Z",
    )


def test_only_what_may_still_be_asked_is_left() -> None:
    transcript = [
        _exchange(0, "answered"),
        _exchange(1, "unknown"),
        _exchange(2, "timeout"),
        _exchange(3, "timeout"),
        _exchange(3, "http_503", attempt=1),
        _exchange(4, "http_401"),
    ]
    left = left_to_ask(DRAWN, transcript, PLAN)
    assert [(question.index, question.first_attempt) for question in left] == [(2, 1), (5, 0)]


def test_the_time_an_earlier_run_spent() -> None:
    assert spent_seconds([]) == 0
    assert spent_seconds([_exchange(0, "answered", second=3), _exchange(1, "unknown", second=9)]) == 6


def test_a_suspect_that_never_answered_is_given_up_and_one_that_did_is_not() -> None:
    silent = [_exchange(index, "timeout") for index in range(PLAN.give_up_after)]
    assert given_up(silent, PLAN)
    assert not given_up(silent[1:], PLAN)
    assert not given_up([*silent, _exchange(99, "answered")], PLAN)
