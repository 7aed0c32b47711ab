"""Asking the suspect what is left to ask, with everything on record before it leaves.

A fixed audit asks all its questions; a sequential one asks mark by mark and looks after each, by the rule
that its pre-registration names. A run that follows a crashed one asks only what was not sent.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType

import structlog

from evidence.audit import Records, where
from evidence.document import Exchange, final_replies
from evidence.plan import ask_plan
from evidence.remaining import given_up, left_to_ask, spent_seconds
from probe import session as asking
from probe.address import parse_suspect_url, resolve_and_vet
from probe.errors import AddressNotAllowed, NameNotResolved
from probe.plan import AskPlan
from probe.session import Outcome
from probe.transport import SuspectChannel
from watermark.questions import Question
from watermark.replay import Standing
from worker.lease import StopReason
from worker.record.verifications import Journal, Progress, Sending, VerificationRun

log = structlog.get_logger(__name__)

PROGRESS_SECONDS = 0.5
"""No two progress updates closer than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """How the asking went; what came back is in the transcript."""

    failure: str = ""
    """why nothing could be sent at all, or empty"""
    addresses: tuple[str, ...] = ()
    certificates_sha256: tuple[str, ...] = ()


async def ask(run: VerificationRun, records: Records, drawn: Sequence[Question], signals: Signals) -> Asked:
    """Ask until everything was asked, the rule says stop, or the time is up. What came is in the transcript.

    Raises:
        LeaseLost, RecordsAway: as the journal's.
    """
    plan = ask_plan(records.preregistration)
    before = await asyncio.to_thread(run.transcript)
    if not left_to_ask(drawn, before, plan):
        return Asked()
    url = parse_suspect_url(run.base_url)
    try:
        target = await resolve_and_vet(
            url, run.place.settings.suspect_allow_list, servers=run.place.settings.dns_server_list
        )
    except (AddressNotAllowed, NameNotResolved) as error:
        log.warning("verification.not_asked", code=error.code)
        return Asked(failure=error.code)
    signals.listen(asyncio.get_running_loop())
    channel = SuspectChannel(
        target, plan.endpoint, method=plan.method, headers=plan.headers, credential=run.credential()
    )
    sitting = Sitting(run=run, plan=plan, channel=channel, drawn=drawn, signals=signals)
    with run.journal() as journal:
        async with channel:
            if records.is_sequential:
                await sitting.ask_mark_by_mark(journal, records)
            else:
                await sitting.ask(journal, drawn, before)
    return Asked(
        addresses=tuple(channel.peer.addresses), certificates_sha256=tuple(channel.peer.certificates_sha256)
    )


def stand(
    run: VerificationRun, records: Records, drawn: Sequence[Question], transcript: Sequence[Exchange]
) -> Standing:
    """Where a sequential audit stands, with every look on record.

    Raises:
        LeaseLost, RecordsAway: as the journal's.
    """
    plan = ask_plan(records.preregistration)
    replies, _ = final_replies(transcript, len(drawn), retries=plan.retries)
    standing = where(records, replies)
    run.record_looks(standing.looks)
    return standing


@dataclass(frozen=True, slots=True, kw_only=True)
class Sitting:
    """One run's asking."""

    run: VerificationRun
    plan: AskPlan
    channel: SuspectChannel
    drawn: Sequence[Question]
    signals: Signals

    async def ask(self, journal: Journal, wanted: Sequence[Question], before: Sequence[Exchange]) -> None:
        """Ask what is left of ``wanted``."""
        remaining = left_to_ask(wanted, before, self.plan)
        group = GroupJournal(
            journal,
            already_asked=len({item.index for item in before}),
            total=len(self.drawn),
            count=self.run.place.metrics.probe,
        )
        async with group:
            await asking.ask_all(
                remaining,
                self.plan,
                self.channel,
                group,
                stop=self.signals.drop,
                drain=self.signals.drain,
                spent_seconds=spent_seconds(before, self.run.sitting_since),
                spent_bytes=sum(len(item.body) for item in before),
            )

    async def ask_mark_by_mark(self, journal: Journal, records: Records) -> None:
        """Ask one group after the other, and look in between; ends where a group stays incomplete."""
        previous: int | None = None
        while not self.signals.stopped:
            transcript = await asyncio.to_thread(self.run.transcript)
            standing = await asyncio.to_thread(stand, self.run, records, self.drawn, transcript)
            group = standing.next_group
            if group is None or group == previous or given_up(transcript, self.plan):
                return
            previous = group
            await self.ask(journal, [item for item in self.drawn if item.group == group], transcript)


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

    @property
    def stopped(self) -> bool:
        """Whether nothing more is to be sent."""
        return self.drop.is_set() or self.drain.is_set()

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

    def __init__(
        self,
        journal: Journal,
        *,
        already_asked: int,
        total: int,
        count: Callable[[str], None] = lambda outcome: None,
    ) -> None:
        """`count` hears of each outcome that is on record."""
        self._count = count
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
            for outcome in group.outcomes:
                self._count(outcome.code)
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
