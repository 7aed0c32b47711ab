"""Whether a request was made before, and what it was answered.

Two kinds of requests have a record: those with an Idempotency-Key, and creations by the official OpenAI
client, which repeats a POST whose answer it did not get and sends no such key, but says which try it is.
Without a key the request itself is the name: a second try gets the answer of the first, and another first try
is another request.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.models import IdempotencyRecord
from service.errors import Conflict, Unavailable
from service.idempotency import statements
from service.idempotency.statements import Answer, Asked
from service.sealing import Sealer

KEYED_LIFETIME = timedelta(hours=24)

REPEATED_LIFETIME = timedelta(minutes=30)
"""Two tries of the official client after the first one, each given up after its 600 s, and some room."""

ABANDONED = timedelta(seconds=30)
"""A deed that commits in the middle and was then killed may be done again after so long. What it left is of
no use to anybody (`service.watermarks.usecases.create`), and no request of such a kind takes a second."""

PURPOSE = "idempotent-answer"
_LOCK_NOT_AVAILABLE = "55P03"
_ATTEMPTS = 3


class KeyReused(Conflict):
    """The Idempotency-Key was used for another request."""

    code = "idempotency_key_reused"


class InProgress(Conflict):
    """The same request is being carried out now; its answer is there a moment later."""

    code = "request_in_progress"
    retryable: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """An answer that was given before."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The right to carry a request out; see `keep`."""

    asked: Asked
    started_at: datetime


async def begin(
    session: AsyncSession, sealer: Sealer, asked: Asked, *, implied: bool, arrived: float
) -> Claim | Replay:
    """Claim a request in the transaction of its deed, first of all; or find what it was answered.

    Who asks while another transaction has the claim waits for its end, `LOCK_TIMEOUT_MS` of
    `service.db.engine` at most. `implied`: there was no Idempotency-Key. `arrived`: when the request did, on
    this process's monotonic clock.

    Raises:
        KeyReused: the same key came with another request.
        InProgress: the other one takes too long.
    """
    for _ in range(_ATTEMPTS):
        if (started_at := await _insert(session, asked)) is not None:
            return Claim(asked=asked, started_at=started_at)
        found = (await session.execute(statements.find(asked))).one_or_none()
        if found is None:
            continue
        record, age, expired = found
        waited = timedelta(seconds=time.monotonic() - arrived)
        if expired or _is_new(asked, record, age, implied=implied, waited=waited):
            taken = await session.scalar(statements.take_over(asked, record.started_at))
            if taken is not None:
                return Claim(asked=asked, started_at=taken)
            continue
        return _opened(sealer, asked, record)
    raise InProgress("the same request is being made at this moment; try again")


async def find(session: AsyncSession, sealer: Sealer, asked: Asked, *, implied: bool) -> Replay | None:
    """What the request was answered before. For deeds that may be repeated in vain: see `keep_late`.

    Raises:
        KeyReused: the same key came with another request.
    """
    found = (await session.execute(statements.find(asked))).one_or_none()
    if found is None:
        return None
    record, _, expired = found
    if expired or (implied and asked.retry_count == 0):
        return None
    return _opened(sealer, asked, record)


async def keep(
    session: AsyncSession, sealer: Sealer, claim: Claim, replay: Replay, subject: str | None
) -> None:
    """Put the answer on record; it becomes durable with the deed.

    Raises:
        Unavailable: another request took the claim over meanwhile. The deed must not be committed.
    """
    answer = _sealed(sealer, claim.asked, replay, subject)
    kept = await session.scalar(statements.keep(claim.asked, claim.started_at, answer))
    if kept is None:
        raise Unavailable("the request was given up and is being made again; try once more")


async def keep_late(
    session: AsyncSession, sealer: Sealer, asked: Asked, replay: Replay, subject: str | None, *, implied: bool
) -> Replay | None:
    """Put the answer of a request that claimed nothing on record, last in its transaction.

    Returns what a request that was faster was answered: then the transaction must be rolled back.

    Raises:
        KeyReused: the faster one was another request.
        InProgress: it takes too long.
    """
    answer = _sealed(sealer, asked, replay, subject)
    for _ in range(_ATTEMPTS):
        if await _insert(session, asked, answer) is not None:
            return None
        found = (await session.execute(statements.find(asked))).one_or_none()
        if found is None:
            continue
        record, _, expired = found
        if not (expired or (implied and asked.retry_count == 0)):
            return _opened(sealer, asked, record)
        if await session.scalar(statements.take_over(asked, record.started_at, answer)) is not None:
            return None
    raise InProgress("the same request is being made at this moment; try again")


def _is_new(
    asked: Asked, record: IdempotencyRecord, age: timedelta, *, implied: bool, waited: timedelta
) -> bool:
    """Whether the request is to be carried out although its name is on record."""
    if record.status is None and age > ABANDONED:
        return True
    if not implied or asked.retry_count > 0:
        return False
    # A first try that arrived before a later try was carried out was overtaken by it.
    return record.retry_count == 0 or age > waited


async def _insert(session: AsyncSession, asked: Asked, answer: Answer | None = None) -> datetime | None:
    try:
        return await session.scalar(statements.claim(asked, answer))
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) == _LOCK_NOT_AVAILABLE:
            raise InProgress("the same request is still being carried out; try again") from None
        raise


def _opened(sealer: Sealer, asked: Asked, record: IdempotencyRecord) -> Replay:
    if record.request != asked.request:
        raise KeyReused(
            "this Idempotency-Key was used for another request: send a new key, or the same body",
            param="Idempotency-Key",
        )
    if record.status is None or record.sealed_answer is None:
        raise InProgress("the same request is still being carried out; try again")
    body = sealer.open(
        record.sealed_answer, purpose=PURPOSE, owner=asked.api_key_id, subject=asked.name.hex()
    )
    return Replay(status=record.status, body=body)


def _sealed(sealer: Sealer, asked: Asked, replay: Replay, subject: str | None) -> Answer:
    """An answer may hold a secret that is shown once, so all of them are sealed."""
    sealed = sealer.seal(replay.body, purpose=PURPOSE, owner=asked.api_key_id, subject=asked.name.hex())
    return Answer(status=replay.status, sealed=sealed, subject=subject)
