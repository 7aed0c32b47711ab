"""Typed errors of the service; each knows its HTTP status and its stable code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class ServiceError(Exception):
    """Root of every error a caller may see.

    Subclasses must set ``status`` (HTTP), ``code`` (stable, machine-readable) and ``type``
    (OpenAI's error type). The message says what was wrong and what to do; it never holds a secret.
    """

    status: ClassVar[int]
    code: ClassVar[str]
    type: ClassVar[str] = "invalid_request_error"
    retryable: ClassVar[bool] = False
    """Of a conflict: whether the same request may succeed a moment later."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.error_code = code or self.code

    def extra(self) -> Mapping[str, Any]:
        """More members of the wire's error object, besides message, type, param and code."""
        return {}

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.param, self.error_code))


def _rebuild(cls: type[ServiceError], message: str, param: str | None, code: str) -> ServiceError:
    return cls(message, param=param, code=code)


class InvalidRequest(ServiceError):
    """The request can't be carried out as it stands."""

    status = 400
    code = "invalid_request"


class Unauthenticated(ServiceError):
    """No API key, or one that is unknown, revoked or malformed."""

    status = 401
    code = "invalid_api_key"
    type = "authentication_error"


class Forbidden(ServiceError):
    """The key is valid but its role may not do this at all."""

    status = 403
    code = "role_not_permitted"
    type = "permission_error"


class NotFound(ServiceError):
    """It does not exist, or it is not the caller's: the two look the same on purpose."""

    status = 404
    code = "not_found"


class Conflict(ServiceError):
    """The state of the thing does not allow it now; a retry of the same request won't help."""

    status = 409
    code = "conflict"


class TooLarge(ServiceError):
    """The body is over a limit."""

    status = 413
    code = "too_large"


class UnsupportedMedia(ServiceError):
    """The body is of a kind, or encoded in a way, that is not read here."""

    status = 415
    code = "unsupported_media_type"


class StorageFull(ServiceError):
    """There is no room for what was sent. A retry a moment later won't help."""

    status = 507
    code = "disk_full"
    type = "server_error"


class Unavailable(ServiceError):
    """A part this request needs is not answering; a retry later may work."""

    status = 503
    code = "unavailable"
    type = "server_error"
