"""Asking a suspect from the owner's own machine, and deciding. The service's rules, without the service."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence

from cli.owner.journal import AuditJournal
from cli.owner.registering import Audit
from evidence.audit import Conclusion, conclude, questions, where
from evidence.document import Document, KeyRecord, final_replies, preregistration_digest
from evidence.keyfile import now
from evidence.plan import ask_plan
from evidence.provenance import software_record
from evidence.remaining import given_up, left_to_ask
from probe.address import VettedTarget
from probe.credential import Credential
from probe.plan import ANSWERED
from probe.session import Outcome, ask_all
from probe.transport import SuspectChannel
from watermark.questions import Question
from watermark.replay import Reply, Standing
from watermark.significance import OWNER_ORIGIN


class Sitting:
    """One run of an audit: as much asking as is left, and then the verdict. A `probe.session.Journal` that
    passes everything on to the one on disk.

    Args:
        watch: called with this sitting whenever a question has left or a mark is complete.
    """

    def __init__(self, audit: Audit, journal: AuditJournal, watch: Callable[[Sitting], None]) -> None:
        self.audit = audit
        self.drawn = questions(audit.records)
        self.plan = ask_plan(audit.records.preregistration)
        self.standing: Standing | None = None
        """where a sequential audit is, after its last complete mark"""
        self._journal = journal
        self._watch = watch
        self._asked = {exchange.index for exchange in journal.transcript()}
        self._drain = asyncio.Event()
        self._look()

    @property
    def asked(self) -> int:
        """How many questions were sent at least once."""
        return len(self._asked)

    @property
    def interrupted(self) -> bool:
        """Whether the user stopped it; what was in flight has been waited for."""
        return self._drain.is_set()

    @property
    def left(self) -> bool:
        """Whether anything may still be sent."""
        if self.standing is not None:
            return self.standing.next_group is not None
        return bool(left_to_ask(self.drawn, self._journal.transcript(), self.plan))

    @property
    def undecided(self) -> bool:
        """Whether a sequential audit waits to be continued. One that was never answered does not."""
        answered = any(exchange.outcome == ANSWERED for exchange in self._journal.transcript())
        return self.standing is not None and self.standing.next_group is not None and answered

    def ask(self, target: VettedTarget, credential: Credential | None) -> None:
        """Ask until all was asked, the rule says stop, the time is up or the user interrupts.

        Raises:
            JournalNotWritten: a question could not be put on record; it was not sent.
        """
        if self.left:
            asyncio.run(self._ask(target, credential))

    def conclusion(self) -> Conclusion:
        """Decide from what is on record."""
        replies, failures = self._replies()
        return conclude(self.audit.records, replies, failures)

    def document(self, conclusion: Conclusion) -> Document:
        """The evidence, complete."""
        key, header = self.audit.key, self.audit.header
        addresses, certificates = self._journal.peer
        return Document(
            verification=header.verification,
            claimant=key.owner,
            auditor=key.owner,
            key=KeyRecord(
                id=key.id,
                owner=key.owner,
                origin=OWNER_ORIGIN,
                grade=key.grade,
                commitment=key.committed.commitment,
                commitment_record=key.commitment_record(),
                salt=key.salt_bytes.hex(),
                created_at=key.created_at,
            ),
            opening=self.audit.records.opening,
            nonces=self.audit.records.nonces,
            preregistration=header.preregistration,
            preregistration_sha256=preregistration_digest(header.preregistration),
            preregistered_at=header.registered_at,
            transcript=self._journal.transcript(),
            asking_failure="",
            peer_addresses=addresses,
            peer_certificates_sha256=certificates,
            decision=conclusion.decision,
            verdict=conclusion.verdict,
            reasons=conclusion.reasons,
            started_at=self._journal.started_at or header.registered_at,
            finished_at=now(),
            software=software_record(),
        )

    async def before_send(self, index: int, attempt: int, body: bytes) -> None:
        """As the journal's."""
        await self._journal.before_send(index, attempt, body)
        self._asked.add(index)
        self._watch(self)

    async def answered(self, outcome: Outcome) -> None:
        """As the journal's."""
        await self._journal.answered(outcome)

    async def _ask(self, target: VettedTarget, credential: Credential | None) -> None:
        loop = asyncio.get_running_loop()
        # the first interrupt lets what is in flight come back; the second one is the usual kind
        loop.add_signal_handler(signal.SIGINT, self._interrupt, loop)
        channel = SuspectChannel(
            target,
            self.plan.endpoint,
            method=self.plan.method,
            headers=self.plan.headers,
            credential=credential,
        )
        self._journal.sit()
        try:
            async with channel:
                if self.standing is None:
                    await self._ask_these(self.drawn, channel)
                else:
                    await self._ask_mark_by_mark(channel)
        finally:
            loop.remove_signal_handler(signal.SIGINT)
        self._journal.met(channel.peer)

    def _interrupt(self, loop: asyncio.AbstractEventLoop) -> None:
        self._drain.set()
        loop.remove_signal_handler(signal.SIGINT)

    async def _ask_these(self, wanted: Sequence[Question], channel: SuspectChannel) -> None:
        transcript = self._journal.transcript()
        await ask_all(
            left_to_ask(wanted, transcript, self.plan),
            self.plan,
            channel,
            self,
            drain=self._drain,
            # a mark-by-mark audit may go on whenever its owner likes, so each run has its own time
            spent_seconds=self._journal.spent_seconds(all_runs=self.standing is None),
            spent_bytes=sum(len(exchange.body) for exchange in transcript),
        )

    async def _ask_mark_by_mark(self, channel: SuspectChannel) -> None:
        """One group after the other, with a look in between; ends where a group stays incomplete."""
        previous: int | None = None
        while not self.interrupted:
            group = None if self.standing is None else self.standing.next_group
            if group is None or group == previous or given_up(self._journal.transcript(), self.plan):
                return
            previous = group
            await self._ask_these([item for item in self.drawn if item.group == group], channel)
            self._look()
            self._watch(self)

    def _look(self) -> None:
        if self.audit.records.is_sequential:
            self.standing = where(self.audit.records, self._replies()[0])

    def _replies(self) -> tuple[list[Reply], list[str]]:
        return final_replies(self._journal.transcript(), len(self.drawn), retries=self.plan.retries)
