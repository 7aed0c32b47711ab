"""One run of an audit: draw the questions, ask, decide, record.

Whatever the suspect does is an outcome on record, never an exception. A run that dies is followed by
another, which asks only what has not been sent: a question that was sent and whose answer is not on record
counts as missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import structlog

from evidence.audit import Records, conclude, questions
from evidence.document import Exchange, final_replies
from evidence.plan import ask_plan
from probe.plan import ANSWERED
from watermark.questions import Question
from worker.asking import Asked, Signals, ask, stand
from worker.lease import LeaseKeeper, Stopped, StopReason
from worker.record.verifications import Progress, VerificationRun

log = structlog.get_logger(__name__)

GRANT_ENDED: Mapping[str, str | None] = {
    "code": "grant_ended",
    "message": "The owner's grant was revoked or has expired; this run sent nothing.",
    "param": "watermark",
}


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
    records = run.records()
    drawn = questions(records)
    asked = Asked() if run.conclude_requested else asyncio.run(ask(run, records, drawn, signals))
    keeper.check()
    transcript = run.transcript()
    if records.is_sequential and _is_undecided(run, records, drawn, transcript):
        if not run.pause():
            run.cancelled()
        log.info("verification.paused", questions=len(drawn))
        return
    _conclude(run, records, drawn, transcript, asked)


def _is_undecided(
    run: VerificationRun, records: Records, drawn: Sequence[Question], transcript: Sequence[Exchange]
) -> bool:
    """Whether a sequential audit waits to be continued. One that was never answered, or that is to be
    concluded as it is, does not."""
    standing = stand(run, records, drawn, transcript)
    answered = any(exchange.outcome == ANSWERED for exchange in transcript)
    return standing.next_group is not None and answered and not run.conclude_requested


def _conclude(
    run: VerificationRun,
    records: Records,
    drawn: Sequence[Question],
    transcript: Sequence[Exchange],
    asked: Asked,
) -> None:
    replies, failures = final_replies(
        transcript,
        len(drawn),
        retries=ask_plan(records.preregistration).retries,
        asking_failure=asked.failure,
    )
    conclusion = conclude(records, replies, failures)
    document = run.document(
        records=records,
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


def _record_stop(run: VerificationRun, reason: StopReason) -> None:
    log.info("verification.stopped", reason=reason.value)
    if reason is StopReason.lease_lost:
        return
    handed_back = reason is StopReason.shutting_down and run.hand_back()
    if not handed_back:
        run.cancelled()
