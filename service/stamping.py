"""Checkpoints near what they have to prove, and stamps of a timestamp authority on them.

Every API process runs it: a key's commitment and a verdict come under a signed checkpoint within seconds, and
if an authority is configured, the checkpoint is sent to it. No request of anybody waits for that.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import httpx2
import structlog
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from evidence.errors import EvidenceError
from evidence.log.entry import EntryKind
from evidence.log.note import Note
from evidence.timestamps import MAX_REPLY_BYTES, TimestampInvalid, question, verify
from service.log import statements, usecases
from service.log.signers import Signers
from service.settings import TimestampAuthority

log = structlog.get_logger(__name__)

PASS_SECONDS = 3.0
PAUSE_SECONDS = 15.0
"""Between two questions to an authority: those that are public ask for it."""
TIMEOUT_SECONDS = 20.0
COVERED = (EntryKind.key_commitment.value, EntryKind.verdict.value)
"""What is to be under a checkpoint, and under a stamp, soon after it was entered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unstamped:
    """A checkpoint that an authority has not seen."""

    size: int
    text: str


async def stamp_forever(
    sessions: async_sessionmaker[AsyncSession],
    signers: Signers,
    authority: TimestampAuthority | None,
    http: httpx2.AsyncClient,
) -> None:
    """Until cancelled. Survives a database or an authority that is away."""
    while True:
        await asyncio.sleep(PASS_SECONDS)
        try:
            waiting = await sign_what_is_new(sessions, signers, stamps=authority is not None)
            if waiting is not None and authority is not None:
                await stamp(sessions, authority, http, waiting)
                await asyncio.sleep(PAUSE_SECONDS)
        except (EvidenceError, httpx2.HTTPError) as error:
            log.warning("stamping.refused", error=type(error).__name__, reason=str(error))
            await asyncio.sleep(PAUSE_SECONDS)
        except Exception as error:
            log.warning("stamping.failed", error=type(error).__name__)
            await asyncio.sleep(PAUSE_SECONDS)


async def sign_what_is_new(
    sessions: async_sessionmaker[AsyncSession], signers: Signers, *, stamps: bool
) -> Unstamped | None:
    """Sign a checkpoint if a commitment or a verdict is under none. Returns the one that covers them
    if no stamp does and stamps are wanted.

    Raises:
        LogInconsistent: the log is not the one that was signed.
    """
    async with sessions() as session, session.begin():
        last = await session.scalar(statements.last_of(COVERED))
        if last is None:
            return None
        if (await session.execute(statements.covering(last))).first() is None:
            await usecases.checkpoint(session, signers)
        if not stamps or (await session.execute(statements.stamped(last))).first() is not None:
            return None
        size, note = (await session.execute(statements.covering(last))).one()
        return Unstamped(size=size, text=Note.from_text(note).text)


async def stamp(
    sessions: async_sessionmaker[AsyncSession],
    authority: TimestampAuthority,
    http: httpx2.AsyncClient,
    checkpoint: Unstamped,
) -> None:
    """Have a checkpoint stamped and keep the stamp. No transaction is open while the authority is asked.

    Raises:
        TimestampInvalid: what it answered is no stamp of this checkpoint under the configured root.
        httpx2.HTTPError: it did not answer.
    """
    asked = question(checkpoint.text)
    response = await http.post(
        authority.url,
        content=asked.body,
        headers={"content-type": "application/timestamp-query", "accept": "application/timestamp-reply"},
        timeout=TIMEOUT_SECONDS,
    )
    if not response.is_success:
        raise TimestampInvalid(f"the authority answered with status {response.status_code}")
    if len(response.content) > MAX_REPLY_BYTES:
        raise TimestampInvalid("larger than any timestamp")
    moment = verify(response.content, checkpoint.text, authority.roots, nonce=asked.nonce)
    async with sessions() as session, session.begin():
        await session.execute(
            statements.add_stamp(
                checkpoint.size, authority=authority.url, reply=response.content, stamped_at=moment
            )
        )
    log.info("stamping.stamped", size=checkpoint.size)
