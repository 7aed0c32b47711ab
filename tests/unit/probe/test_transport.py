"""One question against hostile servers on loopback, with real traffic."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import ssl
import struct
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from probe.address import VettedTarget, parse_suspect_url, vet
from probe.credential import Credential
from probe.errors import TransportFailure
from probe.pacing import Pace
from probe.plan import BODY_BYTES
from probe.transport import FAILURE_BODY_BYTES, Reply, SuspectChannel

BODY = b'{"q":1}'


async def _post(
    target: VettedTarget, *, deadline: float = 5.0, credential: Credential | None = None
) -> Reply:
    async with SuspectChannel(target, "/chat/completions", credential=credential) as channel:
        return await channel.post(BODY, deadline_seconds=deadline)


async def _failure(target: VettedTarget, *, deadline: float = 5.0) -> TransportFailure:
    with pytest.raises(TransportFailure) as caught:
        await _post(target, deadline=deadline)
    return caught.value


def _raw(data: bytes) -> Any:
    async def handler(request: object, writer: asyncio.StreamWriter) -> None:
        writer.write(data)

    return handler


async def test_a_plain_reply_comes_back_whole(serve: Any, reply_http: Callable[..., bytes]) -> None:
    async with serve(_raw(reply_http(b'{"ok":1}'))) as suspect:
        reply = await _post(suspect.target)
    assert reply == Reply(http_status=200, body=b'{"ok":1}')
    (request,) = suspect.requests
    assert request.line == "POST /v1/chat/completions HTTP/1.1"
    assert request.headers["host"] == f"127.0.0.1:{suspect.port}"
    assert request.headers["accept-encoding"] == "identity"
    assert request.body == BODY
    assert "authorization" not in request.headers


async def test_a_chunked_reply_comes_back_whole(serve: Any) -> None:
    data = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{"a\r\n4\r\n":1}\r\n0\r\n\r\n'
    async with serve(_raw(data)) as suspect:
        assert (await _post(suspect.target)).body == b'{"a":1}'


async def test_the_credential_travels_in_the_authorization_header_alone(
    serve: Any, reply_http: Callable[..., bytes]
) -> None:
    credential = Credential("sk-canary-7431")
    async with serve(_raw(reply_http(b"{}"))) as suspect:
        await _post(suspect.target, credential=credential)
    (request,) = suspect.requests
    assert request.headers["authorization"] == "Bearer sk-canary-7431"
    assert "canary" not in repr(credential) + str(credential)
    assert "canary" not in json.dumps({**request.headers, "authorization": ""}) + request.line
    assert b"canary" not in request.body


@pytest.mark.parametrize("token", ["", "a b", "x\r\nHost: y", "schlüssel"])
def test_a_credential_that_could_break_the_header_is_refused(token: str) -> None:
    with pytest.raises(ValueError, match="visible ASCII"):
        Credential(token)


async def test_nobody_listening_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    target = vet(
        parse_suspect_url(f"http://127.0.0.1:{port}"), [ip_address("127.0.0.1")], {("127.0.0.1", port)}
    )
    assert (await _failure(target)).failure == "refused"


async def test_the_next_vetted_address_is_tried_and_the_name_never_resolved(
    serve: Any, reply_http: Callable[..., bytes]
) -> None:
    """The host name does not exist; only the addresses that were vetted are used, and Host keeps the name."""
    async with serve(_raw(reply_http(b"{}"))) as suspect:
        url = parse_suspect_url(f"http://no-such-name.invalid:{suspect.port}/v1")
        target = vet(
            url, [ip_address("::1"), ip_address("127.0.0.1")], {("no-such-name.invalid", suspect.port)}
        )
        assert (await _post(target)).http_status == 200
    assert suspect.requests[0].headers["host"] == f"no-such-name.invalid:{suspect.port}"


async def test_silence_ends_at_the_deadline(serve: Any) -> None:
    async def hang(request: object, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    async with serve(hang) as suspect:
        started = time.monotonic()
        assert (await _failure(suspect.target, deadline=0.3)).failure == "timeout"
    assert time.monotonic() - started < 1.0


@pytest.mark.parametrize("part", ["headers", "body"])
async def test_a_slow_drip_ends_at_the_deadline(serve: Any, part: str) -> None:
    """A byte every 20 ms keeps every read alive; the deadline is on the whole."""

    async def drip(request: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        if part == "body":
            writer.write(b"Content-Length: 100000\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with serve(drip) as suspect:
        started = time.monotonic()
        assert (await _failure(suspect.target, deadline=0.4)).failure == "timeout"
    assert time.monotonic() - started < 1.2


@pytest.mark.parametrize("part", ["headers", "body"])
async def test_a_reply_that_does_not_keep_the_pace_is_given_up_before_its_deadline(
    serve: Any, part: str
) -> None:
    """A byte every 50 ms, or a pause: both are slower than the pace; neither waits for the deadline."""

    async def drip(request: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        if part == "body":
            writer.write(b"Content-Length: 100000\r\n\r\n")
        for count in range(10_000):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05 if count < 10 else 60)

    pace = Pace(seconds=0.4, bytes_per_second=100)
    async with serve(drip) as suspect, SuspectChannel(suspect.target, "/x", pace=pace) as channel:
        started = time.monotonic()
        with pytest.raises(TransportFailure) as caught:
            await channel.post(BODY, deadline_seconds=10)
    assert caught.value.failure == "too_slow"
    assert time.monotonic() - started < 3


async def test_thinking_long_before_the_first_byte_is_not_slow(
    serve: Any, reply_http: Callable[..., bytes]
) -> None:
    async def think(request: object, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.5)
        writer.write(reply_http(b"{}"))

    pace = Pace(seconds=0.1, bytes_per_second=1000)
    async with serve(think) as suspect, SuspectChannel(suspect.target, "/x", pace=pace) as channel:
        assert (await channel.post(BODY, deadline_seconds=5)).body == b"{}"


async def test_a_long_reply_may_take_its_time_at_the_pace(serve: Any) -> None:
    async def steady(request: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n")
        for _ in range(10):
            writer.write(b"x" * 1000)
            await writer.drain()
            await asyncio.sleep(0.06)

    pace = Pace(seconds=0.2, bytes_per_second=1000)
    async with serve(steady) as suspect, SuspectChannel(suspect.target, "/x", pace=pace) as channel:
        assert len((await channel.post(BODY, deadline_seconds=5)).body) == 10_000


async def test_a_templates_headers_stand_besides_and_instead_of_ours(
    serve: Any, reply_http: Callable[..., bytes]
) -> None:
    """The credential goes where the template keeps a place for it, and then nowhere else."""
    headers = (("X-Api-Key", "{{credential}}"), ("Accept", "*/*"), ("X-Team", "a b"))
    async with serve(_raw(reply_http(b"{}"))) as suspect:
        async with SuspectChannel(
            suspect.target,
            "/generate?v=1",
            method="PUT",
            headers=headers,
            credential=Credential("sk-canary-7431"),
        ) as channel:
            await channel.post(BODY, deadline_seconds=5)
            assert "canary" not in repr(channel)
        async with SuspectChannel(
            suspect.target, "", headers=headers[1:], credential=Credential("sk-canary-7431")
        ) as channel:
            await channel.post(BODY, deadline_seconds=5)
    placed, plain = suspect.requests
    assert placed.line == "PUT /v1/generate?v=1 HTTP/1.1"
    assert placed.headers["x-api-key"] == "sk-canary-7431"
    assert "authorization" not in placed.headers
    assert (placed.headers["accept"], placed.headers["x-team"]) == ("*/*", "a b")
    assert placed.headers["content-type"] == "application/json"
    assert plain.line == "POST /v1 HTTP/1.1"
    assert plain.headers["authorization"] == "Bearer sk-canary-7431"
    for request in (placed, plain):
        assert request.headers["accept-encoding"] == "identity"
        assert request.headers["host"] == f"127.0.0.1:{suspect.port}"


async def test_an_endless_event_stream_is_cut_at_once(serve: Any) -> None:
    async def stream(request: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        while True:
            writer.write(b'data: {"choices":[]}\n\n')
            await writer.drain()
            await asyncio.sleep(0.01)

    async with serve(stream) as suspect:
        started = time.monotonic()
        failure = await _failure(suspect.target, deadline=10)
    assert failure.failure == "not_json"
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("announced", [True, False])
async def test_a_huge_body_is_cut_at_the_cap(serve: Any, announced: bool) -> None:
    sent = 0

    async def flood(request: object, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        length = b"Content-Length: 1000000000\r\n" if announced else b""
        writer.write(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n")
        while sent < 200_000_000:
            writer.write(b" " * 65536)
            await writer.drain()
            sent += 65536

    async with serve(flood) as suspect:
        failure = await _failure(suspect.target, deadline=20)
    assert failure.failure == "too_large"
    assert len(failure.body) <= FAILURE_BODY_BYTES
    assert sent < 50 * BODY_BYTES


async def test_a_flood_of_tiny_chunks_is_cut_at_the_deadline(serve: Any) -> None:
    async def flood(request: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"1\r\n \r\n" * 10_000)
            await writer.drain()

    async with serve(flood) as suspect:
        started = time.monotonic()
        assert (await _failure(suspect.target, deadline=0.5)).failure in ("timeout", "too_large")
    assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    "head",
    [
        b"X: " + b"a" * 10_000_000 + b"\r\n",
        b"".join(b"X-%d: a\r\n" % i for i in range(500)),
        b"X: y\r\n" * 20_000,
        b"X: " + b"a" * 50_000 + b"\r\n",
    ],
    ids=["10MB", "500", "repeated", "50kB"],
)
async def test_oversized_headers_are_refused(serve: Any, head: bytes) -> None:
    async with serve(_raw(b"HTTP/1.1 200 OK\r\n" + head + b"Content-Length: 2\r\n\r\n{}")) as suspect:
        assert (await _failure(suspect.target)).failure == "too_large"


async def test_a_compressed_body_is_not_decompressed(serve: Any, reply_http: Callable[..., bytes]) -> None:
    bomb = gzip.compress(b"\0" * 20_000_000)
    reply = reply_http(bomb, headers="Content-Encoding: gzip\r\n")
    async with serve(_raw(reply)) as suspect:
        assert (await _failure(suspect.target)).failure == "encoding"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(serve: Any, reply_http: Callable[..., bytes], status: int) -> None:
    async with serve(_raw(reply_http(b"{}"))) as canary:
        location = f"Location: http://127.0.0.1:{canary.port}/\r\n"
        async with serve(_raw(reply_http(b"", status=f"{status} Moved", headers=location))) as suspect:
            failure = await _failure(suspect.target)
    assert failure.failure == "redirect"
    assert failure.http_status == status
    assert canary.connections == 0


async def test_a_reset_is_a_broken_connection(serve: Any) -> None:
    async def reset(request: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async with serve(reset) as suspect:
        assert (await _failure(suspect.target)).failure == "disconnected"


async def test_a_body_cut_short_is_a_broken_connection(serve: Any) -> None:
    async with serve(_raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}")) as suspect:
        assert (await _failure(suspect.target)).failure == "disconnected"


async def test_closing_without_a_word_is_a_broken_connection(serve: Any) -> None:
    async with serve(_raw(b"")) as suspect:
        assert (await _failure(suspect.target)).failure == "disconnected"


@pytest.mark.parametrize(
    "data", [b"SSH-2.0-OpenSSH\r\n\r\n", b"\x15\x03\x01\x00\x02\x02\x50", b"HTTP/1.1 9x9 OK\r\n\r\n"]
)
async def test_what_is_not_http_is_said_to_be_so(serve: Any, data: bytes) -> None:
    async with serve(_raw(data)) as suspect:
        assert (await _failure(suspect.target)).failure in ("protocol", "disconnected")


async def test_tls_to_a_plain_server_is_a_tls_failure() -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert (await _failure(_tls_target("127.0.0.1", port), deadline=3)).failure == "tls"


def _tls_target(host: str, port: int) -> VettedTarget:
    url = parse_suspect_url(f"https://{host}:{port}")
    return vet(url, [ip_address("127.0.0.1")], {(host, port)})


def _certificate(name: str, folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """(the server's context, one that trusts it), for a self-signed certificate of that name."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file = folder / "server.pem"
    file.write_bytes(private + certificate.public_bytes(Encoding.PEM))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    return server, ssl.create_default_context(cadata=certificate.public_bytes(Encoding.PEM).decode())


@pytest.mark.parametrize(
    ("host", "trusted", "expected"),
    [
        ("suspect.example", True, ""),
        ("suspect.example", False, "tls"),
        ("other.example", True, "tls"),
    ],
)
async def test_a_certificate_is_checked_against_the_urls_name_while_the_vetted_address_is_dialled(
    tmp_path: Path, reply_http: Callable[..., bytes], host: str, trusted: bool, expected: str
) -> None:
    """The server's own name passes; an unknown issuer or another name does not. SNI carries the name."""
    server_context, trusting = _certificate("suspect.example", tmp_path)
    seen: list[str] = []
    server_context.sni_callback = lambda _, name, __: seen.append(name)

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply_http(b"{}"))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(handler, "127.0.0.1", 0, ssl=server_context) as server:
        port = server.sockets[0].getsockname()[1]
        channel = SuspectChannel(
            _tls_target(host, port), "/chat/completions", ssl_context=trusting if trusted else None
        )
        async with channel:
            try:
                await channel.post(BODY, deadline_seconds=5)
                failure = ""
                assert len(channel.peer.certificates_sha256) == 1
            except TransportFailure as error:
                failure = error.failure
    assert failure == expected
    assert seen == [host]


async def test_busy_carries_its_retry_after(serve: Any, reply_http: Callable[..., bytes]) -> None:
    reply = reply_http(b'{"error":{}}', status="429 Too Many", headers="Retry-After: 7\r\n")
    async with serve(_raw(reply)) as suspect:
        failure = await _failure(suspect.target)
    assert (failure.failure, failure.http_status, failure.retry_after_seconds) == ("http_429", 429, 7.0)
    assert failure.body == b'{"error":{}}'


async def test_the_environments_proxy_is_not_used(
    serve: Any, reply_http: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(_raw(reply_http(b"{}"))) as proxy, serve(_raw(reply_http(b"{}"))) as suspect:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        await _post(suspect.target)
    assert proxy.connections == 0
    assert suspect.connections == 1
