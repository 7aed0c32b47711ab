"""Asking the log's witnesses to cosign a checkpoint (C2SP tlog-witness).

A checkpoint is served with the cosignatures that there are after a short while. A witness that is slow, away
or unwilling costs that while once, then it is left alone for a time: the log itself never waits for anybody.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import httpx2
import structlog
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from evidence.errors import NoteInvalid
from evidence.log.checkpoint import Checkpoint
from evidence.log.note import MAX_NOTE_BYTES, Note, PublicKey, Signature
from evidence.log.witness import SIZE_TYPE, Submission, cosignature_of, known_size, with_cosignatures
from service.log import statements, usecases

log = structlog.get_logger(__name__)

REST_SECONDS = 30.0
"""For so long a witness that failed, or was late, is not asked again."""
LATE_SECONDS = 30.0
"""How long an answer may take to be kept at all."""
ATTEMPTS = 3
"""A witness may know another size than we think; it says which, and is asked again."""


class _Failed(Exception):
    """A witness gave no cosignature; the message says why and quotes nothing of its answer."""


class Cosigners:
    """The witnesses of this log."""

    def __init__(
        self,
        sessions: async_sessionmaker[AsyncSession],
        http: httpx2.AsyncClient,
        witnesses: Sequence[tuple[PublicKey, str]],
        *,
        timeout_seconds: float,
    ) -> None:
        """``witnesses``: key, and the address below which it takes checkpoints."""
        self._sessions = sessions
        self._timeout_seconds = timeout_seconds
        self._witnesses = [_Cosigner(sessions, http, key, url) for key, url in witnesses]
        self._running: set[asyncio.Task[None]] = set()

    @property
    def keys(self) -> list[PublicKey]:
        """Who is asked."""
        return [one.key for one in self._witnesses]

    async def cosigned(self, note: Note) -> Note:
        """The checkpoint with the cosignatures that it has, after asking for those that it lacks.

        The checkpoint must be durable: whoever cosigns it holds us to it.
        """
        size = Checkpoint.from_text(note.text).size
        if not self._witnesses or not size:
            return note
        there = await self._lines(size)
        wanted = [one for one in self._witnesses if str(one.key) not in there and not one.rests]
        if wanted:
            tasks = [asyncio.create_task(one.ask(note, size)) for one in wanted]
            # One that is late goes on: its answer stands below the checkpoint the next time.
            self._running.update(tasks)
            for task in tasks:
                task.add_done_callback(self._running.discard)
            _, late = await asyncio.wait(tasks, timeout=self._timeout_seconds)
            for one, task in zip(wanted, tasks, strict=True):
                if task in late:
                    one.rest()
            there = await self._lines(size)
        lines = [there[str(one.key)] for one in self._witnesses if str(one.key) in there]
        return with_cosignatures(note, [_signature(line) for line in lines])

    async def close(self) -> None:
        """Stop asking."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _lines(self, size: int) -> dict[str, str]:
        async with self._sessions() as session:
            return {row[0]: row[1] for row in await session.execute(statements.cosignatures(size))}


class _Cosigner:
    """One witness."""

    def __init__(
        self,
        sessions: async_sessionmaker[AsyncSession],
        http: httpx2.AsyncClient,
        key: PublicKey,
        url: str,
    ) -> None:
        self.key = key
        self._sessions = sessions
        self._http = http
        self._url = f"{url}/add-checkpoint"
        self._one_at_a_time = asyncio.Lock()
        self._rests_until = 0.0

    @property
    def rests(self) -> bool:
        """Whether it is left alone now."""
        return time.monotonic() < self._rests_until

    def rest(self) -> None:
        """Leave it alone for a time."""
        self._rests_until = time.monotonic() + REST_SECONDS

    async def ask(self, note: Note, size: int) -> None:
        """Get and keep the cosignature of a checkpoint. A failure is logged, never raised."""
        async with self._one_at_a_time:
            if self.rests:
                return
            try:
                async with asyncio.timeout(LATE_SECONDS):
                    await self._ask(note, size)
                self._rests_until = 0.0
            except (_Failed, NoteInvalid, httpx2.HTTPError, TimeoutError) as error:
                self.rest()
                reason = str(error) if isinstance(error, _Failed | NoteInvalid) else type(error).__name__
                log.warning("witness.failed", witness=self.key.name, size=size, reason=reason)
            except Exception as error:
                self.rest()
                log.error("witness.crashed", witness=self.key.name, size=size, error=type(error).__name__)

    async def _ask(self, note: Note, size: int) -> None:
        async with self._sessions() as session:
            known = int(await session.scalar(statements.cosigned_size(str(self.key))) or 0)
        if known == size:
            return
        for _ in range(ATTEMPTS):
            if known > size:
                # Either a larger checkpoint of ours was on its way too, or this log was set back.
                log.warning("witness.ahead", witness=self.key.name, size=size, known=known)
                return
            async with self._sessions() as session:
                proof = await usecases.consistency(session, first=known, second=size)
            told = await self._send(Submission(old_size=known, proof=tuple(proof), note=note))
            if isinstance(told, str):
                line = str(cosignature_of(note, told, self.key))
                async with self._sessions() as session, session.begin():
                    await session.execute(statements.add_cosignature(size, str(self.key), line))
                return
            if told == known:
                raise _Failed(f"it has cosigned another root of {known} entries")
            known = told
        raise _Failed("it says another size each time")

    async def _send(self, submission: Submission) -> str | int:
        """The signature lines, or the size that the witness knows."""
        headers = {"content-type": "text/plain; charset=utf-8"}
        async with self._http.stream(
            "POST",
            self._url,
            content=str(submission).encode(),
            headers=headers,
            timeout=LATE_SECONDS,
        ) as response:
            answer = b""
            async for part in response.aiter_bytes():
                answer += part
                if len(answer) > MAX_NOTE_BYTES:
                    raise _Failed("its answer is larger than any note")
        text = answer.decode("utf-8", errors="replace")
        if response.status_code == 200:
            return text
        if response.status_code == 409 and response.headers.get("content-type", "").startswith(SIZE_TYPE):
            return known_size(text)
        raise _Failed(f"it answered {response.status_code}")


def _signature(line: str) -> Signature:
    return Note.from_text(f"\n\n{line}\n").signatures[0]
