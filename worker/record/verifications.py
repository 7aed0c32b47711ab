"""A claimed audit as its run sees it. Every write is fenced by the run's epoch; once the lease is lost it is
refused, and with it the sending that it would have announced."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Self

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from evidence.audit import Conclusion, Records, preset_opening
from evidence.document import UNKNOWN, Document, Exchange, KeyRecord, write
from evidence.provenance import software_record, timestamp
from probe.credential import Credential
from probe.session import Outcome
from service.db.faults import is_temporary
from service.db.models import Preregistration, ProbeAnswer, ProbeSent, Verification, WatermarkKey
from service.log import deeds
from service.log.usecases import append
from service.trail.usecases import finished
from service.verifications import openings, statements
from service.verifications.lifecycle import VerificationStatus
from service.verifications.suspects import CREDENTIAL_PURPOSE
from service.watermarks.secrets import OWNER_HELD, PresetSecret, load_key
from watermark.nonces import Nonces
from watermark.numerals import decimal_text
from watermark.sequential import Look
from worker.errors import LeaseLost, RecordsAway
from worker.lease import Beat
from worker.record.engine import Workplace


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """A question about to leave."""

    index: int
    attempt: int
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How many questions were sent at least once, of how many."""

    asked: int
    total: int


class Journal:
    """One open connection for the many small writes while an audit asks."""

    def __init__(self, connection: Connection, verification_id: str, epoch: int) -> None:
        self._connection = connection
        self._id = verification_id
        self._epoch = epoch

    def write(
        self, sendings: Sequence[Sending], outcomes: Sequence[Outcome], progress: Progress | None
    ) -> None:
        """Store a group in one transaction; when it returns, the group is durable.

        Raises:
            LeaseLost: another run has the audit.
        """
        if progress is None:
            fence: Any = statements.lock_while_held(self._id, epoch=self._epoch)
        else:
            fence = statements.progress(
                self._id, epoch=self._epoch, asked=progress.asked, total=progress.total
            )
        with _records(), self._connection.begin():
            if self._connection.execute(fence).first() is None:
                raise LeaseLost(self._id)
            if sendings:
                self._connection.execute(statements.sent([self._sent_row(item) for item in sendings]))
            if outcomes:
                self._connection.execute(statements.answered([self._answer_row(item) for item in outcomes]))

    def _sent_row(self, sending: Sending) -> dict[str, Any]:
        return {
            "verification_id": self._id,
            "probe_index": sending.index,
            "attempt": sending.attempt,
            "request_body": sending.body,
        }

    def _answer_row(self, outcome: Outcome) -> dict[str, Any]:
        return {
            "verification_id": self._id,
            "probe_index": outcome.index,
            "attempt": outcome.attempt,
            "outcome": outcome.code,
            "http_status": outcome.http_status,
            "text": outcome.text,
            "response_body": outcome.response_body,
            "latency_ms": outcome.latency_ms,
        }


@dataclass(slots=True, kw_only=True)
class VerificationRun:
    """One attempt at one audit."""

    place: Workplace = field(repr=False)
    verification_id: str
    epoch: int
    attempt: int
    verification: Verification = field(repr=False)
    preregistration: Preregistration = field(repr=False)
    key: WatermarkKey = field(repr=False)

    @classmethod
    def claim(cls, place: Workplace, verification_id: str) -> Self | None:
        """Take the audit, or None: it does not exist, has ended, is cancelled, or another run has it."""
        with place.sessions.begin() as session:
            claimed = session.execute(
                statements.claim(
                    verification_id, owner=place.owner, lease_seconds=place.settings.lease_seconds
                )
            ).first()
            if claimed is None:
                return None
            epoch, attempt = claimed
            verification, preregistration, key = session.execute(statements.for_run(verification_id)).one()
        return cls(
            place=place,
            verification_id=verification_id,
            epoch=epoch,
            attempt=attempt,
            verification=verification,
            preregistration=preregistration,
            key=key,
        )

    @property
    def base_url(self) -> str:
        """The suspect's, as it was checked."""
        return str(self.verification.suspect["base_url"])

    @property
    def conclude_requested(self) -> bool:
        """Whether to decide from what has been asked."""
        return self.verification.conclude_requested

    @property
    def sitting_since(self) -> str:
        """When the asking was last taken up by request, as in a transcript; "" if it never was."""
        started = self.verification.sitting_started_at
        return "" if started is None else timestamp(started)

    def records(self) -> Records:
        """What the questions and the verdict follow from.

        Raises:
            ServiceError: the key can't be opened.
        """
        preregistration: dict[str, Any] = json.loads(self.preregistration.canonical_bytes)
        with _records(), self.place.sessions() as session:
            reveal = session.scalars(statements.reveal_of(self.verification_id)).one_or_none()
        nonces = Nonces(
            service=self.preregistration.service_nonce,
            auditor=b"" if reveal is None else reveal.auditor_nonce,
            beacon=None if reveal is None else reveal.beacon,
        )
        return Records(
            preregistration=preregistration,
            opening=self._opening(preregistration["plan"]["family"]),
            nonces=nonces.to_record(),
        )

    def _opening(self, family: int) -> dict[str, object]:
        """The planned family, opened: the one place where an audit sees anything of the key's secret."""
        if self.key.origin == OWNER_HELD:
            return openings.unseal(
                self.place.sealer,
                self.verification.sealed_opening,
                owner_id=self.key.organization_id,
                audit_id=self.verification_id,
            )
        secret = load_key(self.key, self.place.sealer)
        if isinstance(secret, PresetSecret):
            return preset_opening(secret.preset)
        return secret.open(self.key.claimant, self.key.salt, family)

    def credential(self) -> Credential | None:
        """The suspect's API key, unsealed.

        Raises:
            ServiceError: it does not open.
        """
        sealed = self.verification.sealed_credential
        if sealed is None:
            return None
        opened = self.place.sealer.open(
            sealed,
            purpose=CREDENTIAL_PURPOSE,
            owner=self.verification.organization_id,
            subject=self.verification_id,
        )
        return Credential(opened.decode("ascii"))

    def permitted(self) -> bool:
        """False: the grant it was pre-registered under was revoked or has expired."""
        grant_id = self.verification.grant_id
        if grant_id is None or self.conclude_requested:
            return True
        with _records(), self.place.sessions() as session:
            return session.execute(statements.live_grant(grant_id)).first() is not None

    def beat(self) -> Beat:
        """Extend the lease. A grant that has ended meanwhile, taken back or expired, is a cancellation."""
        with self.place.sessions.begin() as session:
            row = session.execute(
                statements.heartbeat(
                    self.verification_id,
                    epoch=self.epoch,
                    lease_seconds=self.place.settings.lease_seconds,
                )
            ).first()
        if row is None:
            return Beat.lost
        return Beat.kept if self.permitted() and not row.cancel_requested else Beat.cancel_requested

    def transcript(self) -> tuple[Exchange, ...]:
        """All that was sent so far, by this run and earlier ones, in the order of sending."""
        with _records(), self.place.sessions() as session:
            rows = session.execute(statements.transcript(self.verification_id)).all()
            return tuple(_exchange(sent, answer) for sent, answer in rows)

    @contextmanager
    def journal(self) -> Iterator[Journal]:
        """A connection of its own for the length of the asking."""
        with self.place.sessions() as session:
            engine = session.get_bind()
        assert isinstance(engine, Engine)
        with _records(), engine.connect() as connection:
            yield Journal(connection, self.verification_id, self.epoch)

    def document(
        self,
        *,
        records: Records,
        transcript: Sequence[Exchange],
        asking_failure: str,
        peer: tuple[Sequence[str], Sequence[str]],
        conclusion: Conclusion,
    ) -> Document:
        """The evidence, complete."""
        with _records(), self.place.sessions() as session:
            now = session.execute(statements.now()).scalar_one()
        key, row = self.key, self.verification
        return Document(
            verification=self.verification_id,
            claimant=key.claimant,
            auditor=row.organization_id,
            key=KeyRecord(
                id=key.id,
                owner=key.claimant,
                origin=key.origin,
                grade=key.grade,
                commitment=key.commitment,
                commitment_record=key.commitment_record,
                salt="" if key.salt is None else key.salt.hex(),
                created_at=timestamp(key.created_at),
            ),
            opening=records.opening,
            nonces=records.nonces,
            preregistration=self.preregistration.canonical_bytes.decode(),
            preregistration_sha256=self.preregistration.sha256,
            preregistered_at=timestamp(self.preregistration.created_at),
            transcript=tuple(transcript),
            asking_failure=asking_failure,
            peer_addresses=tuple(sorted(peer[0])),
            peer_certificates_sha256=tuple(sorted(peer[1])),
            decision=conclusion.decision,
            verdict=conclusion.verdict,
            reasons=conclusion.reasons,
            started_at=timestamp(row.started_at or now),
            finished_at=timestamp(now),
            software=software_record(),
        )

    def succeed(self, document: Document, progress: Progress) -> bool:
        """Store evidence and verdict in one transaction. False: cancelled, or the lease is lost."""
        data = write(document)
        file_sha256 = sha256(data).hexdigest()
        values = {
            "verdict": document.verdict,
            "reasons": list(document.reasons),
            "result": dict(document.decision),
            "progress": {"asked": progress.asked, "total": progress.total},
        }
        with _records(), self.place.sessions.begin() as session:
            finish = statements.finish(
                self.verification_id, epoch=self.epoch, status=VerificationStatus.succeeded, values=values
            )
            if session.execute(finish).first() is None:
                return False
            session.execute(
                statements.add_evidence(
                    {
                        "verification_id": self.verification_id,
                        "canonical_bytes": data,
                        "sha256": file_sha256,
                        "verdict": document.verdict,
                    }
                )
            )
            session.execute(finished(self.verification_id))
            append(session, deeds.verdict(self.verification_id, file_sha256, document.verdict))
        return True

    def record_looks(self, looks: Sequence[Look]) -> None:
        """Put on record what a sequential audit saw; a look that is there already stays as it is.

        Raises:
            LeaseLost: another run has the audit.
        """
        if not looks:
            return
        rows = [
            {
                "verification_id": self.verification_id,
                "look": number,
                "mark": look.mark,
                "e_value": decimal_text(look.e_value),
                "product": decimal_text(look.product),
            }
            for number, look in enumerate(looks, start=1)
        ]
        with _records(), self.place.sessions.begin() as session:
            fence = statements.lock_while_held(self.verification_id, epoch=self.epoch)
            if session.execute(fence).first() is None:
                raise LeaseLost(self.verification_id)
            session.execute(statements.looked(rows))

    def pause(self) -> bool:
        """Let a sequential audit wait, undecided. False: the lease is lost, or its cancellation was asked
        for."""
        with _records(), self.place.sessions.begin() as session:
            paused = session.execute(statements.pause(self.verification_id, epoch=self.epoch)).first()
            if paused is not None:
                session.execute(finished(self.verification_id))
            return paused is not None

    def cancelled(self) -> bool:
        """End the audit as it was asked for. False: the lease is lost."""
        return self._end(VerificationStatus.cancelled)

    def fail(self, error: Mapping[str, str | None]) -> bool:
        """End the audit with an error. False: the lease is lost."""
        return self._end(VerificationStatus.failed, error=dict(error))

    def hand_back(self) -> bool:
        """Queue the audit for another run. False: the lease is lost, or its cancellation was asked for."""
        with _records(), self.place.sessions.begin() as session:
            return (
                session.execute(statements.hand_back(self.verification_id, epoch=self.epoch)).first()
                is not None
            )

    def _end(self, status: VerificationStatus, **values: Any) -> bool:
        with _records(), self.place.sessions.begin() as session:
            finish = statements.finish(self.verification_id, epoch=self.epoch, status=status, values=values)
            ended = session.execute(finish).first()
            if ended is not None:
                session.execute(finished(self.verification_id))
            return ended is not None


@contextmanager
def _records() -> Iterator[None]:
    """Around what needs the database. Raises `RecordsAway` for what a later run may find mended."""
    try:
        yield
    except SQLAlchemyError as error:
        if is_temporary(error):
            raise RecordsAway(type(error).__name__) from None
        raise


def _exchange(sent: ProbeSent, answer: ProbeAnswer | None) -> Exchange:
    request = sent.request_body.decode("ascii")
    if answer is None:
        return Exchange(
            index=sent.probe_index,
            attempt=sent.attempt,
            sent_at=timestamp(sent.sent_at),
            request=request,
            outcome=UNKNOWN,
        )
    return Exchange(
        index=sent.probe_index,
        attempt=sent.attempt,
        sent_at=timestamp(sent.sent_at),
        request=request,
        outcome=answer.outcome,
        http_status=answer.http_status,
        text=answer.text,
        body=answer.response_body or b"",
        latency_ms=answer.latency_ms,
        answered_at=timestamp(answer.answered_at),
    )
