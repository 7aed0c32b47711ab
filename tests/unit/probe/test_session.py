"""Asking a whole set of questions: order of record and send, retries, limits."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from probe.adapters import Api
from probe.errors import TransportFailure
from probe.plan import ANSWERED, AskPlan
from probe.session import Outcome, Question, ask_all
from probe.transport import Reply, SuspectChannel

PLAN = AskPlan(
    api=Api.chat,
    model="m",
    temperature="0",
    max_tokens=8,
    concurrency=4,
    probe_timeout_seconds=1.0,
    total_timeout_seconds=10.0,
    retries=1,
)


def _questions(count: int) -> list[Question]:
    return [Question(index=index, prompt=f"question {index}") for index in range(count)]


class Diary:
    """Records the order of what happened."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, int, int]] = []
        self.outcomes: list[Outcome] = []

    async def before_send(self, index: int, attempt: int, body: bytes) -> None:
        await asyncio.sleep(0)
        self.lines.append(("sending", index, attempt))

    async def answered(self, outcome: Outcome) -> None:
        self.lines.append(("answered", outcome.index, outcome.attempt))
        self.outcomes.append(outcome)


class Line:
    """A channel without a network."""

    def __init__(self, diary: Diary, reply: Callable[[int, int], Any]) -> None:
        self.diary = diary
        self.reply = reply
        self.asked: dict[int, int] = {}
        self.at_once = 0
        self.most_at_once = 0

    async def post(self, body: bytes, *, deadline_seconds: float) -> Reply:
        index = int(json.loads(body)["messages"][0]["content"].split()[1])
        attempt = self.asked.get(index, 0)
        self.asked[index] = attempt + 1
        self.diary.lines.append(("sent", index, attempt))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            async with asyncio.timeout(deadline_seconds):
                await asyncio.sleep(0.001)
                found = self.reply(index, attempt)
                if asyncio.iscoroutine(found):
                    found = await found
        except TimeoutError:
            raise TransportFailure("timeout") from None
        finally:
            self.at_once -= 1
        if isinstance(found, Exception):
            raise found
        return Reply(http_status=200, body=found)


def _yes(index: int, attempt: int) -> bytes:
    return b'{"choices":[{"message":{"content":"Yes"}}]}'


async def test_every_question_is_recorded_before_it_is_sent() -> None:
    diary = Diary()
    line = Line(diary, _yes)
    outcomes = await ask_all(_questions(20), PLAN, line, diary)
    assert sorted(outcome.index for outcome in outcomes) == list(range(20))
    assert all(outcome.code == ANSWERED and outcome.text == "Yes" for outcome in outcomes)
    for index in range(20):
        mine = [what for what, number, _ in diary.lines if number == index]
        assert mine == ["sending", "sent", "answered"]
    assert line.most_at_once == PLAN.concurrency


async def test_the_order_of_sending_is_the_order_given() -> None:
    diary = Diary()
    await ask_all(_questions(10), replace(PLAN, concurrency=1), Line(diary, _yes), diary)
    assert [number for what, number, _ in diary.lines if what == "sent"] == list(range(10))


async def test_a_failure_that_may_pass_is_retried_as_often_as_planned() -> None:
    diary = Diary()

    def flaky(index: int, attempt: int) -> Any:
        return TransportFailure("http_503", http_status=503) if attempt == 0 else _yes(index, attempt)

    outcomes = await ask_all(_questions(2), PLAN, Line(diary, flaky), diary)
    assert [(o.code, o.attempt) for o in outcomes if o.index == 0] == [("http_503", 0), (ANSWERED, 1)]
    none = await ask_all(_questions(2), replace(PLAN, retries=0), Line(Diary(), flaky), Diary())
    assert [o.code for o in none] == ["http_503", "http_503"]


@pytest.mark.parametrize(
    "code", ["http_400", "http_401", "redirect", "too_large", "not_json", "encoding", "tls"]
)
async def test_a_failure_that_stays_is_not_retried(code: str) -> None:
    outcomes = await ask_all(
        _questions(1), replace(PLAN, retries=3), Line(Diary(), lambda i, a: TransportFailure(code)), Diary()
    )
    assert [o.code for o in outcomes] == [code]


async def test_html_and_empty_replies_are_outcomes_not_exceptions() -> None:
    bodies = {0: b"<html>no</html>", 1: b"", 2: b"{}", 3: b'{"choices":[{"message":{"content":""}}]}'}
    outcomes = await ask_all(_questions(4), PLAN, Line(Diary(), lambda i, a: bodies[i]), Diary())
    assert {o.index: o.code for o in outcomes} == {0: "not_json", 1: "not_json", 2: "no_answer", 3: ANSWERED}


async def test_retry_after_pauses_everybody() -> None:
    """After one 429 with Retry-After nothing is sent before the time has passed."""
    diary = Diary()
    sent: list[float] = []

    def busy_once(index: int, attempt: int) -> Any:
        sent.append(time.monotonic())
        if len(sent) == 1:
            return TransportFailure("http_429", http_status=429, retry_after_seconds=0.4)
        return _yes(index, attempt)

    outcomes = await ask_all(_questions(6), replace(PLAN, concurrency=1), Line(diary, busy_once), diary)
    assert [o.code for o in outcomes].count(ANSWERED) == 6
    assert sent[1] - sent[0] >= 0.39


async def test_a_pause_holds_for_all_also_when_the_question_that_met_it_is_not_asked_again() -> None:
    sent: list[float] = []

    def busy_once(index: int, attempt: int) -> Any:
        sent.append(time.monotonic())
        if len(sent) == 1:
            return TransportFailure("http_429", http_status=429, retry_after_seconds=0.4)
        return _yes(index, attempt)

    plan = replace(PLAN, concurrency=1, retries=0)
    outcomes = await ask_all(_questions(3), plan, Line(Diary(), busy_once), Diary())
    assert [o.code for o in outcomes] == ["http_429", ANSWERED, ANSWERED]
    assert sent[1] - sent[0] >= 0.39


async def test_a_host_that_wants_a_longer_pause_than_the_audit_has_is_asked_no_more() -> None:
    started = time.monotonic()
    busy = TransportFailure("http_503", http_status=503, retry_after_seconds=3600)
    plan = replace(PLAN, concurrency=1)
    outcomes = await ask_all(_questions(50), plan, Line(Diary(), lambda i, a: busy), Diary())
    assert [(o.index, o.code) for o in outcomes] == [(0, "http_503")]
    assert time.monotonic() - started < 1


async def test_a_retry_after_beyond_the_audits_end_is_not_waited_for() -> None:
    started = time.monotonic()
    outcomes = await ask_all(
        _questions(1),
        PLAN,
        Line(Diary(), lambda i, a: TransportFailure("http_429", retry_after_seconds=3600)),
        Diary(),
    )
    assert [o.code for o in outcomes] == ["http_429"]
    assert time.monotonic() - started < 1


async def test_the_total_time_is_kept_and_the_rest_is_not_asked() -> None:
    async def slow(*_: object) -> bytes:
        await asyncio.sleep(0.5)
        return _yes(0, 0)

    plan = replace(PLAN, total_timeout_seconds=1.2, probe_timeout_seconds=5, concurrency=2)
    started = time.monotonic()
    outcomes = await ask_all(_questions(50), plan, Line(Diary(), slow), Diary())
    assert 1.0 < time.monotonic() - started < 1.6
    assert 4 <= len(outcomes) <= 6
    assert {o.code for o in outcomes} == {ANSWERED, "deadline"}


async def test_a_suspect_that_never_answers_is_given_up() -> None:
    outcomes = await ask_all(
        _questions(500),
        replace(PLAN, retries=0),
        Line(Diary(), lambda i, a: TransportFailure("refused")),
        Diary(),
    )
    assert PLAN.give_up_after <= len(outcomes) <= PLAN.give_up_after + PLAN.concurrency


async def test_a_suspect_that_answered_once_is_not_given_up() -> None:
    outcomes = await ask_all(
        _questions(60),
        replace(PLAN, retries=0, concurrency=1),
        Line(Diary(), lambda i, a: TransportFailure("timeout") if i else _yes(i, a)),
        Diary(),
    )
    assert len(outcomes) == 60


async def test_all_replies_together_are_capped() -> None:
    body = _yes(0, 0) + b" " * 1000
    outcomes = await ask_all(
        _questions(10),
        replace(PLAN, reply_bytes=5 * len(body), concurrency=1),
        Line(Diary(), lambda i, a: body),
        Diary(),
    )
    assert [o.code for o in outcomes] == [ANSWERED] * 5 + ["too_large"] * 5


async def test_a_journal_that_fails_ends_the_session_and_nothing_more_is_sent() -> None:
    class Full(Diary):
        async def before_send(self, index: int, attempt: int, body: bytes) -> None:
            if index >= 3:
                raise OSError("disk full")
            await super().before_send(index, attempt, body)

    diary = Full()
    line = Line(diary, _yes)
    with pytest.raises(OSError, match="disk full"):
        await ask_all(_questions(40), PLAN, line, diary)
    assert set(line.asked) <= {0, 1, 2}


async def test_stop_ends_promptly() -> None:
    async def slow(*_: object) -> bytes:
        await asyncio.sleep(30)
        return b""

    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.1, stop.set)
    started = time.monotonic()
    plan = replace(PLAN, probe_timeout_seconds=60, total_timeout_seconds=60)
    assert await ask_all(_questions(10), plan, Line(Diary(), slow), Diary(), stop=stop) == ()
    assert time.monotonic() - started < 1


async def test_draining_waits_for_what_is_in_flight_and_sends_nothing_more() -> None:
    async def slow(*_: object) -> bytes:
        await asyncio.sleep(0.3)
        return _yes(0, 0)

    drain = asyncio.Event()
    asyncio.get_running_loop().call_later(0.1, drain.set)
    line = Line(Diary(), slow)
    outcomes = await ask_all(_questions(20), PLAN, line, Diary(), drain=drain)
    assert [o.code for o in outcomes] == [ANSWERED] * PLAN.concurrency
    assert len(line.asked) == PLAN.concurrency


async def test_draining_ends_a_pause_before_a_retry() -> None:
    drain = asyncio.Event()
    asyncio.get_running_loop().call_later(0.1, drain.set)
    busy = TransportFailure("http_429", http_status=429, retry_after_seconds=8)
    started = time.monotonic()
    outcomes = await ask_all(_questions(1), PLAN, Line(Diary(), lambda i, a: busy), Diary(), drain=drain)
    assert [o.code for o in outcomes] == ["http_429"]
    assert time.monotonic() - started < 1


async def test_what_an_earlier_run_used_is_taken_from_the_limits() -> None:
    body = _yes(0, 0)
    plan = replace(PLAN, reply_bytes=5 * len(body), concurrency=1)
    outcomes = await ask_all(
        _questions(4), plan, Line(Diary(), lambda i, a: body), Diary(), spent_bytes=3 * len(body)
    )
    assert [o.code for o in outcomes] == [ANSWERED] * 2 + ["too_large"] * 2
    assert await ask_all(_questions(4), PLAN, Line(Diary(), _yes), Diary(), spent_seconds=10.0) == ()


async def test_a_later_attempt_starts_where_the_record_ended() -> None:
    diary = Diary()
    await ask_all([Question(index=0, prompt="question 0", first_attempt=1)], PLAN, Line(diary, _yes), diary)
    assert diary.lines[0] == ("sending", 0, 1)


async def test_half_the_requests_refused_as_busy_over_real_http(
    serve: Any, reply_http: Any, chat_body: Any
) -> None:
    """429 half of the time with Retry-After: every question is answered by its second attempt."""
    seen = 0

    async def handler(request: Any, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        seen += 1
        if seen % 2:
            writer.write(reply_http(b"{}", status="429 Busy", headers="Retry-After: 0\r\n"))
        else:
            writer.write(reply_http(chat_body("No")))

    diary = Diary()
    async with serve(handler) as suspect, SuspectChannel(suspect.target, "/chat/completions") as channel:
        outcomes = await ask_all(_questions(8), replace(PLAN, concurrency=1), channel, diary)
    assert [o.code for o in outcomes] == ["http_429", ANSWERED] * 8
    assert [o.text for o in outcomes if o.code == ANSWERED] == ["No"] * 8
