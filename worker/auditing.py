"""One run of an audit: draw the questions, ask, decide, record.

Whatever the suspect does is an outcome on record, never an exception. A run that dies is followed by
another, which asks only what has not been sent: a question that was sent and whose answer is not on record
counts as missing.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any

import structlog

from evidence.audit import Question, conclude, questions
from evidence.document import UNKNOWN, Exchange, final_answers
from evidence.plan import ask_plan
from probe import session as asking
from probe.address import parse_suspect_url, resolve_and_vet
from probe.errors import AddressNotAllowed, NameNotResolved
from probe.plan import ANSWERED, RETRY_FAILURES, AskPlan
from probe.session import Outcome
from probe.transport import SuspectChannel
from worker.lease import LeaseKeeper, Stopped, StopReason
from worker.record.verifications import Journal, Progress, Sending, VerificationRun

log = structlog.get_logger(__name__)

PROGRESS_SECONDS = 0.5
"""No two progress updates closer than this."""

GRANT_ENDED: Mapping[str, str | None] = {
    "code": "grant_ended",
    "message": "The owner's grant was revoked or expired before the asking began; nothing was sent.",
    "param": "watermark",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """How the asking went; what came back is in the transcript."""

    failure: str = ""
    """why nothing could be sent at all, or empty"""
    addresses: tuple[str, ...] = ()
    certificates_sha256: tuple[str, ...] = ()


def audit(run: VerificationRun) -> None:
    """Carry the run to its end, whichever that is, and record it.

    Raises:
        LeaseLost: another run has the audit.
        ServiceError: a sealed value does not open.
    """
    place = run.place
    if not run.permitted():
        run.fail(GRANT_ENDED)
        return
    signals = Signals()
    keeper = LeaseKeeper(
        beat=run.beat,
        lease_seconds=place.settings.lease_seconds,
        shutting_down=place.shutting_down,
        on_stop=signals.stop,
    )
    with keeper:
        try:
            _ask_and_conclude(run, keeper, signals)
        except Stopped as stopped:
            _record_stop(run, stopped.reason)


def _ask_and_conclude(run: VerificationRun, keeper: LeaseKeeper, signals: Signals) -> None:
    preregistration = run.preregistration_record
    opening = run.opening(preregistration["plan"]["family"])
    drawn = questions(preregistration, opening)
    asked = asyncio.run(_ask(run, preregistration, drawn, signals))
    keeper.check()
    transcript = run.transcript()
    answers, failures = final_answers(transcript, len(drawn), asked.failure)
    conclusion = conclude(preregistration, opening, answers, failures)
    document = run.document(
        opening=opening,
        transcript=transcript,
        asking_failure=asked.failure,
        peer=(asked.addresses, asked.certificates_sha256),
        conclusion=conclusion,
    )
    progress = Progress(asked=len({exchange.index for exchange in transcript}), total=len(drawn))
    if not run.succeed(document, progress):
        run.cancelled()
        return
    log.info(
        "verification.concluded",
        verdict=conclusion.verdict,
        reasons=list(conclusion.reasons),
        questions=len(drawn),
        unanswered=len(failures),
    )


async def _ask(
    run: VerificationRun, preregistration: Mapping[str, Any], drawn: Sequence[Question], signals: Signals
) -> Asked:
    plan = ask_plan(preregistration)
    before = await asyncio.to_thread(run.transcript)
    remaining = left_to_ask(drawn, before, plan)
    if not remaining:
        return Asked()
    url = parse_suspect_url(preregistration["suspect"]["base_url"])
    try:
        target = await resolve_and_vet(
            url, run.place.settings.suspect_allow_list, servers=run.place.settings.dns_server_list
        )
    except (AddressNotAllowed, NameNotResolved) as error:
        log.warning("verification.not_asked", code=error.code)
        return Asked(failure=error.code)
    signals.listen(asyncio.get_running_loop())
    with run.journal() as journal:
        group = GroupJournal(journal, already_asked=len({item.index for item in before}), total=len(drawn))
        channel = SuspectChannel(
            target,
            plan.endpoint,
            method=plan.method,
            headers=plan.headers,
            credential=run.credential(),
        )
        async with channel, group:
            await asking.ask_all(
                remaining,
                plan,
                channel,
                group,
                stop=signals.drop,
                drain=signals.drain,
                spent_seconds=spent_seconds(before),
                spent_bytes=sum(len(item.body) for item in before),
            )
    return Asked(
        addresses=tuple(channel.peer.addresses), certificates_sha256=tuple(channel.peer.certificates_sha256)
    )


def left_to_ask(
    drawn: Sequence[Question], transcript: Sequence[Exchange], plan: AskPlan
) -> list[asking.Question]:
    """What an audit still has to ask, in order.

    Not again: what was answered, what failed for good, what has no attempts left, and what was sent without
    its answer being on record.
    """
    last: dict[int, Exchange] = {exchange.index: exchange for exchange in transcript}
    remaining = []
    for question in drawn:
        known = last.get(question.index)
        if known is None:
            attempt = 0
        elif known.outcome in (ANSWERED, UNKNOWN) or known.outcome not in RETRY_FAILURES:
            continue
        else:
            attempt = known.attempt + 1
        if attempt <= plan.retries:
            remaining.append(
                asking.Question(index=question.index, prompt=question.prompt, first_attempt=attempt)
            )
    return remaining


def spent_seconds(transcript: Sequence[Exchange]) -> float:
    """How long earlier runs asked: from the first sending to the last thing on record."""
    moments = [exchange.sent_at for exchange in transcript]
    moments += [exchange.answered_at for exchange in transcript if exchange.answered_at is not None]
    if not moments:
        return 0.0
    # one zone and one format, so the texts sort as the times do
    first, last = datetime.fromisoformat(min(moments)), datetime.fromisoformat(max(moments))
    return (last - first).total_seconds()


class Signals:
    """From the lease's threads into the event loop that asks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reason: StopReason | None = None
        self.drop = asyncio.Event()
        """Stop at once; what is in flight is lost."""
        self.drain = asyncio.Event()
        """Send nothing more, and wait for what is in flight."""

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop that asks, once it runs; a reason that came before is not lost."""
        with self._lock:
            self._loop = loop
            reason = self._reason
        if reason is not None:
            self._set(reason)

    def stop(self, reason: StopReason) -> None:
        """From any thread."""
        with self._lock:
            self._reason = reason
            loop = self._loop
        if loop is not None:
            # a loop that has ended in between has nothing left to stop
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._set, reason)

    def _set(self, reason: StopReason) -> None:
        (self.drain if reason is StopReason.shutting_down else self.drop).set()


@dataclass(slots=True)
class _Waiting:
    """What the next transaction will hold."""

    sendings: list[Sending] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    announced: list[asyncio.Future[None]] = field(default_factory=list)


class GroupJournal:
    """Commits together what the concurrent questions have to record.

    While one transaction is being written, the next group gathers; so every sending is durable before it
    leaves, at a fraction of the commits. Use as an async context manager; leaving it writes the rest.
    """

    def __init__(self, journal: Journal, *, already_asked: int, total: int) -> None:
        self._journal = journal
        self._asked = already_asked
        self._total = total
        self._waiting = _Waiting()
        self._wake = asyncio.Event()
        self._closing = False
        self._writer: asyncio.Task[None] | None = None
        self._progress_at = 0.0

    async def __aenter__(self) -> GroupJournal:
        self._writer = asyncio.create_task(self._write_groups())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raises what the writer raised, unless the asking ended with an error anyway."""
        self._closing = True
        self._wake.set()
        if self._writer is not None:
            await asyncio.wait([self._writer])
            if error is None:
                self._writer.result()
            else:
                self._writer.exception()

    async def before_send(self, index: int, attempt: int, body: bytes) -> None:
        """Returns when the sending is on record. Raises what the writer raised."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked += attempt == 0
        self._waiting.sendings.append(Sending(index=index, attempt=attempt, body=body))
        self._waiting.announced.append(done)
        self._wake.set()
        if self._writer is None or self._writer.done():
            self._fail(self._waiting, RuntimeError("the journal is closed"))
        await done

    async def answered(self, outcome: Outcome) -> None:
        """Goes with the next transaction; leaving the context waits for it."""
        self._waiting.outcomes.append(outcome)
        self._wake.set()

    async def _write_groups(self) -> None:
        while not self._closing or self._waiting.sendings or self._waiting.outcomes:
            await self._wake.wait()
            self._wake.clear()
            group, self._waiting = self._waiting, _Waiting()
            if not group.sendings and not group.outcomes:
                continue
            try:
                await asyncio.to_thread(self._journal.write, group.sendings, group.outcomes, self._progress())
            except Exception as error:
                # also those that gathered meanwhile: nobody will write them
                self._fail(group, error)
                self._fail(self._waiting, error)
                raise
            for done in group.announced:
                if not done.done():
                    done.set_result(None)

    def _progress(self) -> Progress | None:
        if time.monotonic() - self._progress_at < PROGRESS_SECONDS:
            return None
        self._progress_at = time.monotonic()
        return Progress(asked=self._asked, total=self._total)

    @staticmethod
    def _fail(group: _Waiting, error: Exception) -> None:
        for done in group.announced:
            if not done.done():
                done.set_exception(error)


def _record_stop(run: VerificationRun, reason: StopReason) -> None:
    log.info("verification.stopped", reason=reason.value)
    if reason is StopReason.lease_lost:
        return
    handed_back = reason is StopReason.shutting_down and run.hand_back()
    if not handed_back:
        run.cancelled()
