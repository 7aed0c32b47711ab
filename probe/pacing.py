"""A connection whose other end must keep a pace once it has begun to answer."""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass
from typing import Any

import httpcore2


class TooSlow(httpcore2.ReadTimeout):
    """The reply began, and then came slower than any server sends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What a reply must keep to, from its first byte on. Before it, the question's own time is the limit.

    ``seconds`` is how long a reply may take whatever its size, and how long it may pause;
    ``bytes_per_second`` is what a longer one must average.
    """

    seconds: float = 15.0
    bytes_per_second: float = 32.0


USUAL_PACE = Pace()


class PacedStream(httpcore2.AsyncNetworkStream):
    """Passes everything on, and raises `TooSlow` from ``read`` when the pace is not kept."""

    def __init__(self, stream: httpcore2.AsyncNetworkStream, pace: Pace) -> None:
        self._stream = stream
        self._pace = pace
        self._began_at: float | None = None
        self._received = 0

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._began_at is None:
            data = await self._stream.read(max_bytes, timeout)
            self._began_at = time.monotonic()
        else:
            left = self._patience(self._began_at)
            if left <= 0:
                raise TooSlow
            try:
                data = await self._stream.read(max_bytes, left if timeout is None else min(left, timeout))
            except httpcore2.ReadTimeout:
                raise TooSlow from None
        self._received += len(data)
        return data

    def _patience(self, began_at: float) -> float:
        """How long the next bytes may take: a pause's length, or until the average is too low."""
        may_last = max(self._pace.seconds, self._received / self._pace.bytes_per_second)
        return min(self._pace.seconds, began_at + may_last - time.monotonic())

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        return PacedStream(await self._stream.start_tls(ssl_context, server_hostname, timeout), self._pace)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
