"""Asks all questions of one audit and returns the raw transcript. Knows no key and no verdict.

The order, the concurrency, the time limits and the retries are those of the pre-registration. Before each
send the caller is told and may write it down first; a question whose sending is on record is never sent
again without its failure being on record too.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from probe.errors import FailureCode, TransportFailure
from probe.plan import ANSWERED, RETRY_FAILURES, AskPlan
from probe.transport import FAILURE_BODY_BYTES, Reply

BACKOFF_SECONDS = 0.5
BUSY = ("http_429", "http_503")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One probe to be asked. ``first_attempt`` is above 0 when earlier attempts are on record as failed."""

    index: int
    prompt: str
    first_attempt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one attempt brought. ``code`` is ``answered`` or why not; ``text`` is set only if answered."""

    index: int
    attempt: int
    code: str
    http_status: int | None
    text: str | None
    response_body: bytes
    latency_ms: int


class Channel(Protocol):
    """How a body reaches the suspect."""

    async def post(self, body: bytes, *, deadline_seconds: float) -> Reply:
        """Raises `TransportFailure`."""
        ...


class Journal(Protocol):
    """Where the caller writes. An exception from either method ends the session."""

    async def before_send(self, index: int, attempt: int, body: bytes) -> None:
        """Return only when the record of the sending is safe."""
        ...

    async def answered(self, outcome: Outcome) -> None:
        """Called after every attempt that was sent."""
        ...


async def ask_all(
    questions: Sequence[Question],
    plan: AskPlan,
    channel: Channel,
    journal: Journal,
    *,
    stop: asyncio.Event | None = None,
    drain: asyncio.Event | None = None,
    spent_seconds: float = 0.0,
    spent_bytes: int = 0,
) -> tuple[Outcome, ...]:
    """Ask in order, ``plan.concurrency`` at a time, and return every attempt's outcome in order of arrival.

    A question that was not asked (time up, given up, stopped) has no outcome. When ``stop`` is set, what is
    in flight is dropped: it was sent, and its answer is unknown. When ``drain`` is set, nothing more is sent
    and what is in flight is waited for. ``spent_seconds`` and ``spent_bytes`` are what an interrupted run of
    the same audit has used already.

    Raises:
        Whatever the journal raises.
    """
    session = _Session(plan, channel, journal, drain or asyncio.Event())
    session.spend(spent_seconds, spent_bytes)
    queue = iter(questions)
    workers = [asyncio.create_task(session.work(queue)) for _ in range(min(plan.concurrency, len(questions)))]
    watcher = asyncio.create_task(_until(stop))
    try:
        pending = set(workers)
        while pending and not watcher.done():
            done, _ = await asyncio.wait({*pending, watcher}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task
            pending -= done
    finally:
        for task in (*workers, watcher):
            task.cancel()
        await asyncio.gather(*workers, watcher, return_exceptions=True)
    return tuple(session.outcomes)


async def _until(stop: asyncio.Event | None) -> None:
    await (stop or asyncio.Event()).wait()


class _Session:
    """What the concurrent workers share."""

    def __init__(self, plan: AskPlan, channel: Channel, journal: Journal, drain: asyncio.Event) -> None:
        self.outcomes: list[Outcome] = []
        self._plan = plan
        self._channel = channel
        self._journal = journal
        self._drain = drain
        self._ends_at = time.monotonic() + plan.total_timeout_seconds
        self._bytes_left = plan.reply_bytes
        self._failed_in_a_row = 0
        self._any_answer = False
        self._quiet_until = 0.0

    def spend(self, seconds: float, reply_bytes: int) -> None:
        """Take away what an earlier run of the same audit has used."""
        self._ends_at -= seconds
        self._bytes_left -= reply_bytes

    async def work(self, queue: Iterator[Question]) -> None:
        """Take questions from the shared queue until it is empty or the asking is over."""
        for question in queue:
            if self._over():
                return
            await self._ask(question)

    def _over(self) -> bool:
        gave_up = not self._any_answer and self._failed_in_a_row >= self._plan.give_up_after
        return gave_up or self._drain.is_set() or time.monotonic() >= self._ends_at

    async def _ask(self, question: Question) -> None:
        body = self._plan.request(question.prompt)
        for attempt in range(question.first_attempt, self._plan.retries + 1):
            if not await self._wait_until(self._quiet_until):
                return
            outcome, retry_after = await self._attempt(question.index, attempt, body)
            if outcome.code == ANSWERED:
                self._any_answer = True
                self._failed_in_a_row = 0
                return
            again_at = self._next_attempt_at(outcome.code, attempt, retry_after)
            if outcome.code not in RETRY_FAILURES or attempt == self._plan.retries:
                break
            if not await self._wait_until(again_at):
                break
        self._failed_in_a_row += 1

    async def _attempt(self, index: int, attempt: int, body: bytes) -> tuple[Outcome, float | None]:
        await self._journal.before_send(index, attempt, body)
        started = time.monotonic()
        left = self._ends_at - started
        retry_after = None
        text, status = None, None
        try:
            reply = await self._channel.post(
                body, deadline_seconds=min(self._plan.probe_timeout_seconds, left)
            )
            status, received = reply.http_status, reply.body
            text, code = self._read(received)
        except TransportFailure as failure:
            status, received, retry_after = failure.http_status, failure.body, failure.retry_after_seconds
            code = failure.failure
            if code == FailureCode.timeout and left < self._plan.probe_timeout_seconds:
                code = FailureCode.deadline
        kept = received if text is not None else received[:FAILURE_BODY_BYTES]
        self._bytes_left -= len(kept)
        outcome = Outcome(
            index=index,
            attempt=attempt,
            code=str(code),
            http_status=status,
            text=text,
            response_body=kept,
            latency_ms=int((time.monotonic() - started) * 1000),
        )
        self.outcomes.append(outcome)
        await self._journal.answered(outcome)
        return outcome, retry_after

    def _read(self, body: bytes) -> tuple[str | None, str]:
        if len(body) > self._bytes_left:
            return None, FailureCode.too_large
        found = self._plan.read(body)
        return found.text, ANSWERED if found.failure is None else found.failure

    def _next_attempt_at(self, code: str, attempt: int, retry_after: float | None) -> float:
        """When to ask again. A host that says it is busy gets that pause from all workers, also when this
        question is not asked again; one that says so for longer than the audit has ends the asking."""
        pause = retry_after if retry_after is not None else BACKOFF_SECONDS * 2**attempt
        moment = time.monotonic() + pause
        if code in BUSY:
            self._quiet_until = max(self._quiet_until, moment)
        return moment

    async def _wait_until(self, moment: float) -> bool:
        """False when the audit's time is up before that moment, or it is drained."""
        while (left := moment - time.monotonic()) > 0:
            if moment >= self._ends_at or self._drain.is_set():
                return False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._drain.wait()
            moment = max(moment, self._quiet_until)
        return not self._drain.is_set() and time.monotonic() < self._ends_at
