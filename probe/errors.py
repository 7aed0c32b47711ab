"""Typed errors of this room and the names of the ways in which a question can go unanswered."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class FailureCode(StrEnum):
    """Why a question has no answer. ``http_<status>`` completes the list."""

    refused = "refused"
    """nobody listens there"""
    unreachable = "unreachable"
    """no route, or the network refused"""
    dns = "dns"
    """the name has no address"""
    not_allowed = "not_allowed"
    """the name's addresses include one that may not be probed"""
    tls = "tls"
    disconnected = "disconnected"
    """the connection broke before the answer was whole"""
    protocol = "protocol"
    """not HTTP, or broken HTTP"""
    timeout = "timeout"
    """the question's own time was up"""
    too_slow = "too_slow"
    """the reply began, and then came slower than any server sends"""
    deadline = "deadline"
    """the audit's time was up"""
    redirect = "redirect"
    encoding = "encoding"
    """a compressed body, though none was accepted"""
    too_large = "too_large"
    not_json = "not_json"
    no_answer = "no_answer"
    """JSON, but no answer in it"""


class ProbeError(Exception):
    """Root of this room's errors. ``code`` is stable; the message never holds a credential."""

    code: ClassVar[str]


class SuspectUrlError(ProbeError):
    """A suspect URL that is not one plain http or https address."""

    code = "suspect_url_invalid"


class AddressNotAllowed(ProbeError):
    """The URL leads, by its text or by its name's addresses, to where nothing may be sent."""

    code = FailureCode.not_allowed


class NameNotResolved(ProbeError):
    """The host name has no address."""

    code = FailureCode.dns


class TransportFailure(ProbeError):
    """One question, asked once, brought no usable reply.

    ``failure`` is a `FailureCode` or ``http_<status>``; ``body`` is what was read, at most
    `probe.transport.FAILURE_BODY_BYTES`.
    """

    code = "transport_failure"

    def __init__(
        self,
        failure: str,
        *,
        http_status: int | None = None,
        body: bytes = b"",
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(failure)
        self.failure = failure
        self.http_status = http_status
        self.body = body
        self.retry_after_seconds = retry_after_seconds

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self.failure, self.http_status, self.body, self.retry_after_seconds))


def _rebuild(
    failure: str, http_status: int | None, body: bytes, retry_after_seconds: float | None
) -> TransportFailure:
    return TransportFailure(
        failure, http_status=http_status, body=body, retry_after_seconds=retry_after_seconds
    )
