"""Who is signed in. API keys live in this process's memory only; the browser holds a signed random id."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from dashboard.feed import Feed

LIFETIME_SECONDS = 12 * 3600.0
MAX_SESSIONS = 64
"""An operators' page: more at once is not use. The oldest is signed out."""


@dataclass(slots=True, kw_only=True)
class Session:
    """One sign-in. The key itself is inside ``feed.api`` and nowhere else."""

    id: str = field(repr=False)
    feed: Feed = field(repr=False)
    expires_at: float
    """On the clock of ``Sessions``."""


class Sessions:
    """The signed-in sessions of this process; a restart signs everybody out."""

    def __init__(self, secret: bytes, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._secret = secret
        self._clock = clock
        self._sessions: dict[str, Session] = {}

    async def open(self, feed: Feed) -> str:
        """Start a session; returns the cookie's value."""
        await self._evict()
        session_id = secrets.token_urlsafe(32)
        self._sessions[session_id] = Session(
            id=session_id, feed=feed, expires_at=self._clock() + LIFETIME_SECONDS
        )
        return f"{session_id}.{self._signature(session_id)}"

    def find(self, cookie: str | None) -> Session | None:
        """The live session that a cookie's value stands for, or None."""
        session_id, _, signature = (cookie or "").partition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(session_id).encode()):
            return None
        session = self._sessions.get(session_id)
        if session is None or session.expires_at <= self._clock():
            return None
        if session.feed.snapshot.signed_out is not None:
            # The API refused the key meanwhile: there is nothing this session could show.
            del self._sessions[session_id]
            return None
        return session

    async def close(self, session: Session, reason: str) -> None:
        """End a session on all its pages."""
        self._sessions.pop(session.id, None)
        await session.feed.end(reason)

    async def close_all(self) -> None:
        """End every session: the process is stopping."""
        for session in list(self._sessions.values()):
            await self.close(session, "The dashboard is stopping.")

    async def _evict(self) -> None:
        now = self._clock()
        for session in [item for item in self._sessions.values() if item.expires_at <= now]:
            await self.close(session, "Signed in too long ago.")
        while len(self._sessions) >= MAX_SESSIONS:
            await self.close(next(iter(self._sessions.values())), "Signed in elsewhere too often.")

    def _signature(self, session_id: str) -> str:
        return hmac.new(
            self._secret, b"doublei-dashboard-session\0" + session_id.encode(), hashlib.sha256
        ).hexdigest()
