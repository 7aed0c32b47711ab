"""One question over HTTP to a suspect that may be hostile.

Built on httpcore2, the layer under httpx2, because it has by construction what an audit must not do: no
redirects, no cookies, no decompression, no proxy or certificate variables of the environment, and a network
backend of our own that connects to the vetted addresses and to nothing else. Every attempt has a
connection of its own, so a failure belongs to that attempt alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ssl
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from hashlib import sha256
from types import TracebackType
from typing import Self

import certifi
import httpcore2

from probe.address import VettedTarget
from probe.credential import Credential
from probe.errors import FailureCode, TransportFailure
from probe.pacing import USUAL_PACE, Pace, PacedStream, TooSlow
from probe.plan import BODY_BYTES
from probe.template import CREDENTIAL

CONNECT_SECONDS = 5.0
HEADER_BYTES = 32 * 1024
HEADER_COUNT = 100
FAILURE_BODY_BYTES = 4 * 1024
"""What is kept of a reply that is no answer."""
MAX_RETRY_AFTER_SECONDS = 3600.0

SOCKET_OPTION = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]

_ERRNO_FAILURES = {
    errno.ECONNREFUSED: FailureCode.refused,
    errno.ENETUNREACH: FailureCode.unreachable,
    errno.EHOSTUNREACH: FailureCode.unreachable,
    errno.EACCES: FailureCode.unreachable,
    errno.EPERM: FailureCode.unreachable,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A whole reply with status 2xx and an uncompressed body within the cap."""

    http_status: int
    body: bytes


@dataclass(slots=True, kw_only=True)
class Peer:
    """What was seen of the other end. Not proof of anything: TLS signs no answers."""

    addresses: set[str] = field(default_factory=set)
    certificates_sha256: set[str] = field(default_factory=set)


class _VettedBackend(httpcore2.AsyncNetworkBackend):
    """Connects to the vetted addresses in turn. Never resolves a name."""

    def __init__(self, target: VettedTarget, peer: Peer, pace: Pace) -> None:
        self._target = target
        self._pace = pace
        self._peer = peer
        self._inner = httpcore2.AnyIOBackend()
        self._preferred = list(target.addresses)

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        last: Exception = httpcore2.ConnectError("no address")
        for address in tuple(self._preferred):
            try:
                stream = await self._inner.connect_tcp(address, self._target.url.port, timeout=timeout)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                last = error
                continue
            # the one that worked is asked first from now on
            self._preferred.sort(key=lambda item: item != address)
            self._peer.addresses.add(address)
            return PacedStream(stream, self._pace)
        raise last

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[SOCKET_OPTION] | None = None
    ) -> httpcore2.AsyncNetworkStream:
        raise httpcore2.ConnectError("a suspect is not on a Unix socket")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class SuspectChannel:
    """Sends JSON bodies to one vetted target. Use as an async context manager.

    Args:
        target: from `probe.address.vet`.
        endpoint: path below the base URL, such as ``/chat/completions``.
        method: of every request.
        headers: from a checked template, instead of or besides our own.
        credential: goes into the template's headers that have a place for it, or else into the
            Authorization header; nowhere else.
        body_bytes: the cap on one reply's body.
        connect_seconds: for each address, and for the TLS handshake.
        pace: what a reply must keep to once it has begun.
    """

    def __init__(
        self,
        target: VettedTarget,
        endpoint: str,
        *,
        method: str = "POST",
        headers: Sequence[tuple[str, str]] = (),
        credential: Credential | None = None,
        body_bytes: int = BODY_BYTES,
        connect_seconds: float = CONNECT_SECONDS,
        pace: Pace = USUAL_PACE,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.peer = Peer()
        self._body_bytes = body_bytes
        self._connect_seconds = connect_seconds
        url = target.url
        host = f"[{url.host}]" if ":" in url.host else url.host
        path = url.path + endpoint
        self._url = httpcore2.URL(
            scheme=url.scheme.encode(),
            host=host.encode("ascii"),
            port=url.port,
            target=(path if path.startswith("/") else f"/{path}").encode("ascii"),
        )
        self._method = method
        self._headers = [(b"Host", url.authority.encode("ascii")), *_own_headers(headers, credential)]
        self._server_name = url.host
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=ssl_context or _tls_context(url.scheme),
            max_connections=None,
            max_keepalive_connections=0,
            http2=False,
            retries=0,
            network_backend=_VettedBackend(target, self.peer, pace),
        )

    def __repr__(self) -> str:
        return "SuspectChannel()"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pool.aclose()

    async def post(self, body: bytes, *, deadline_seconds: float) -> Reply:
        """Ask once. Connecting, sending and reading the whole reply take ``deadline_seconds`` at most.

        Raises:
            TransportFailure: anything but a whole, uncompressed reply with status 2xx.
        """
        try:
            async with asyncio.timeout(max(deadline_seconds, 0.0)):
                return await self._post(body)
        except TooSlow:
            raise TransportFailure(FailureCode.too_slow) from None
        except (TimeoutError, httpcore2.TimeoutException):
            raise TransportFailure(FailureCode.timeout) from None
        except httpcore2.ConnectError as error:
            raise TransportFailure(_connect_failure(error)) from None
        except httpcore2.ProtocolError as error:
            raise TransportFailure(_protocol_failure(error)) from None
        except (httpcore2.NetworkError, OSError) as error:
            failure = FailureCode.tls if isinstance(error, ssl.SSLError) else FailureCode.disconnected
            raise TransportFailure(failure) from None

    async def _post(self, body: bytes) -> Reply:
        request = httpcore2.Request(
            self._method,
            self._url,
            headers=[*self._headers, (b"Content-Length", str(len(body)).encode())],
            content=body,
            extensions={
                "timeout": {"connect": self._connect_seconds},
                "sni_hostname": self._server_name,
            },
        )
        response = await self._pool.handle_async_request(request)
        try:
            self._note_certificate(response)
            headers = _checked_headers(response)
            status = response.status
            if 300 <= status < 400:
                raise TransportFailure(FailureCode.redirect, http_status=status)
            if headers.get(b"content-encoding", b"identity").strip().lower() not in (b"identity", b""):
                raise TransportFailure(FailureCode.encoding, http_status=status)
            if not 200 <= status < 300:
                kept = await _read_some(response, FAILURE_BODY_BYTES)
                raise TransportFailure(
                    f"http_{status}",
                    http_status=status,
                    body=kept,
                    retry_after_seconds=_retry_after(headers.get(b"retry-after")),
                )
            return Reply(http_status=status, body=await self._read_answer(response, headers))
        finally:
            await response.aclose()

    async def _read_answer(self, response: httpcore2.Response, headers: dict[bytes, bytes]) -> bytes:
        if headers.get(b"content-type", b"").lower().startswith(b"text/event-stream"):
            # we asked for no stream, and such a one need not end
            kept = await _read_some(response, FAILURE_BODY_BYTES, seconds=0.2)
            raise TransportFailure(FailureCode.not_json, http_status=response.status, body=kept)
        announced = headers.get(b"content-length", b"0")
        if announced.isdigit() and int(announced[:20]) > self._body_bytes:
            raise TransportFailure(FailureCode.too_large, http_status=response.status)
        parts: list[bytes] = []
        size = 0
        async with contextlib.aclosing(_chunks(response)) as chunks:
            async for chunk in chunks:
                size += len(chunk)
                parts.append(chunk)
                if size > self._body_bytes:
                    head = b"".join(parts)[:FAILURE_BODY_BYTES]
                    raise TransportFailure(FailureCode.too_large, http_status=response.status, body=head)
        return b"".join(parts)

    def _note_certificate(self, response: httpcore2.Response) -> None:
        stream = response.extensions.get("network_stream")
        tls = stream.get_extra_info("ssl_object") if stream is not None else None
        certificate = tls.getpeercert(binary_form=True) if tls is not None else None
        if certificate:
            self.peer.certificates_sha256.add(sha256(certificate).hexdigest())


def _own_headers(
    templated: Sequence[tuple[str, str]], credential: Credential | None
) -> list[tuple[bytes, bytes]]:
    """All headers but Host and Content-Length. The template's stand instead of ours of the same name."""
    placed = any(CREDENTIAL in value for _, value in templated)
    headers = {
        b"accept": (b"Accept", b"application/json"),
        b"content-type": (b"Content-Type", b"application/json"),
        b"user-agent": (b"User-Agent", b"doublei-audit"),
    }
    if credential is not None and not placed:
        headers[b"authorization"] = credential.header()
    for name, value in templated:
        filled = value.encode("ascii") if credential is None else credential.filled_into(value)
        headers[name.lower().encode("ascii")] = (name.encode("ascii"), filled)
    # last, so that no template's header can replace them
    headers[b"accept-encoding"] = (b"Accept-Encoding", b"identity")
    headers[b"connection"] = (b"Connection", b"close")
    return list(headers.values())


def _tls_context(scheme: str) -> ssl.SSLContext | None:
    if scheme != "https":
        return None
    # not httpcore2's default: that one reads SSL_CERT_FILE from the environment
    return ssl.create_default_context(cafile=certifi.where())


async def _chunks(response: httpcore2.Response) -> AsyncGenerator[bytes, None]:
    async for chunk in response.aiter_stream():
        yield chunk
        # lets the deadline fire within a flood of tiny chunks that are already in memory
        await asyncio.sleep(0)


async def _read_some(response: httpcore2.Response, limit: int, *, seconds: float = 2.0) -> bytes:
    """The head of a body, as far as it comes quickly. For the record only, so it never fails."""
    kept = b""
    with contextlib.suppress(TimeoutError, httpcore2.NetworkError, httpcore2.ProtocolError):
        async with asyncio.timeout(seconds), contextlib.aclosing(_chunks(response)) as chunks:
            async for chunk in chunks:
                kept += chunk[: limit - len(kept)]
                if len(kept) >= limit:
                    break
    return kept


def _checked_headers(response: httpcore2.Response) -> dict[bytes, bytes]:
    """Lower-case names; of a repeated header the values joined by commas."""
    headers: dict[bytes, bytes] = {}
    if len(response.headers) > HEADER_COUNT:
        raise TransportFailure(FailureCode.too_large, http_status=response.status)
    if sum(len(name) + len(value) + 4 for name, value in response.headers) > HEADER_BYTES:
        raise TransportFailure(FailureCode.too_large, http_status=response.status)
    for name, value in response.headers:
        name = name.lower()
        headers[name] = headers[name] + b", " + value if name in headers else value
    return headers


def _connect_failure(error: BaseException) -> FailureCode:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return FailureCode.tls
        if isinstance(cause, OSError) and cause.errno in _ERRNO_FAILURES:
            return _ERRNO_FAILURES[cause.errno]
        if isinstance(cause, BaseExceptionGroup) and cause.exceptions:
            cause = cause.exceptions[0]
            continue
        cause = cause.__cause__ or cause.__context__
    return FailureCode.disconnected


def _protocol_failure(error: httpcore2.ProtocolError) -> FailureCode:
    # httpcore2 and h11 have no types for these two
    text = str(error).lower()
    if "too long" in text or "too much data" in text:
        return FailureCode.too_large
    if "disconnected" in text or "peer closed connection" in text:
        return FailureCode.disconnected
    return FailureCode.protocol


def _retry_after(value: bytes | None) -> float | None:
    """Seconds from a Retry-After header (RFC 9110 section 10.2.3); None when there is none to respect."""
    if value is None:
        return None
    text = value.decode("latin-1").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), MAX_RETRY_AFTER_SECONDS)
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if when.tzinfo is None:
        return None
    left = (when - datetime.now(UTC)).total_seconds()
    return min(max(left, 0.0), MAX_RETRY_AFTER_SECONDS)
