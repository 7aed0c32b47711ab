"""What an interrupted audit still has to ask, and what it has used up, from its transcript.

Whoever asks calls these, the service's worker and an owner alone; a reader of evidence does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from evidence.document import Exchange, is_settled, last_sendings
from probe import session
from probe.plan import ANSWERED, AskPlan
from watermark.questions import Question


def left_to_ask(
    drawn: Sequence[Question], transcript: Sequence[Exchange], plan: AskPlan
) -> list[session.Question]:
    """What an audit still has to ask, in order.

    Not again: what was answered, what failed for good, what has no attempts left, and what was sent without
    its answer being on record.
    """
    last = last_sendings(transcript)
    remaining = []
    for question in drawn:
        known = last.get(question.index)
        if known is None:
            attempt = 0
        elif is_settled(known, plan.retries):
            continue
        else:
            attempt = known.attempt + 1
        remaining.append(
            session.Question(index=question.index, prompt=question.prompt, first_attempt=attempt)
        )
    return remaining


def spent_seconds(transcript: Sequence[Exchange], since: str = "") -> float:
    """How long this sitting has asked: from its first sending to the last thing on record.

    Args:
        since: when the audit was last taken up again, "" if it never was; as in the transcript.
    """
    sat = [exchange for exchange in transcript if exchange.sent_at >= since]
    moments = [exchange.sent_at for exchange in sat]
    moments += [exchange.answered_at for exchange in sat if exchange.answered_at is not None]
    if not moments:
        return 0.0
    # one zone and one format, so the texts sort as the times do
    first, last = datetime.fromisoformat(min(moments)), datetime.fromisoformat(max(moments))
    return (last - first).total_seconds()


def given_up(transcript: Sequence[Exchange], plan: AskPlan) -> bool:
    """Whether the suspect has never answered so many questions: it is not asked mark after mark."""
    silent = not any(exchange.outcome == ANSWERED for exchange in transcript)
    return silent and len({exchange.index for exchange in transcript}) >= plan.give_up_after
