"""Every failure on the wire is OpenAI's envelope ``{"error": {message, type, param, code}}``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DataError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from service.api.idempotency import Replayed
from service.db.faults import is_temporary
from service.errors import ServiceError, StorageFull
from service.storage import NO_SPACE

log = structlog.get_logger()

RETRY_AFTER_SECONDS = 2
SHOWN_ERRORS = 20

HTTP_CODES: Mapping[int, str] = {
    400: "invalid_request",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    415: "unsupported_media_type",
}


def envelope(
    message: str, *, type: str, code: str, param: str | None = None, extra: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The body of an error. ``extra`` goes inside the error object."""
    return {"error": {"message": message, "type": type, "param": param, "code": code, **(extra or {})}}


def response_of(error: ServiceError) -> JSONResponse:
    """The response a typed error becomes."""
    headers: dict[str, str] = {}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    elif error.status == 409:
        # The official client retries 409 by default, and a conflict of state does not go away by that.
        headers["x-should-retry"] = "true" if error.retryable else "false"
        if error.retryable:
            headers["retry-after"] = "1"
    elif error.status == 507:
        headers["x-should-retry"] = "false"
    elif error.status == 503:
        headers["retry-after"] = str(RETRY_AFTER_SECONDS)
    body = envelope(
        error.message, type=error.type, code=error.error_code, param=error.param, extra=error.extra()
    )
    return JSONResponse(body, status_code=error.status, headers=headers)


def internal_error(request_id: str) -> JSONResponse:
    """What a caller learns of a bug of ours: where to find it in the log."""
    body = envelope(f"internal error; request id {request_id}", type="server_error", code="internal_error")
    return JSONResponse(body, status_code=500)


def install(app: FastAPI) -> None:
    """Replace FastAPI's own handlers, so that nothing else than the envelope is ever sent."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(Replayed, _replayed)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(DBAPIError, _database_error)
    app.add_exception_handler(PoolTimeout, _database_error)
    app.add_exception_handler(OSError, _system_error)


async def _service_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServiceError)
    return response_of(error)


async def _replayed(request: Request, error: Exception) -> Response:
    """Not a failure: the answer that was given before."""
    assert isinstance(error, Replayed)
    return error.response


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    """400, naming the first bad field; the rejected values themselves are not echoed: one may be a secret."""
    assert isinstance(error, RequestValidationError)
    found = [_field_error(item) for item in error.errors()]
    first = found[0]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    where = f"{first['param']}: " if first["param"] else ""
    return JSONResponse(
        envelope(
            f"{where}{first['message']}{more}",
            type="invalid_request_error",
            code=first["code"],
            param=first["param"],
            extra={"errors": found[:SHOWN_ERRORS]} if len(found) > 1 else None,
        ),
        status_code=400,
    )


def _field_error(item: Mapping[str, Any]) -> dict[str, Any]:
    if item["type"] == "json_invalid":
        reason = item.get("ctx", {}).get("error", "")
        at = item["loc"][-1]
        return {"param": None, "code": "invalid_json", "message": f"the body is not JSON: {reason} at {at}"}
    param = _dotted(item["loc"])
    if item["type"] == "missing":
        return {"param": param, "code": "missing_field", "message": "this field is required"}
    if item["type"] == "extra_forbidden":
        return {"param": param, "code": "unknown_field", "message": "this field is not known"}
    return {"param": param, "code": "invalid_value", "message": item["msg"].removeprefix("Value error, ")}


def _dotted(location: Sequence[str | int]) -> str | None:
    """("body", "marks", 0, "cues") -> ``marks[0].cues``."""
    path = ""
    for part in location[1:]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path or None


async def _http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = HTTP_CODES.get(
        error.status_code, "invalid_request" if error.status_code < 500 else "internal_error"
    )
    message = str(error.detail)
    if error.status_code == 404:
        message = f"no such route: {request.method} {request.url.path}"
    elif error.status_code == 405:
        message = f"{request.method} is not allowed here"
    kind = "invalid_request_error" if error.status_code < 500 else "server_error"
    return JSONResponse(
        envelope(message, type=kind, code=code), status_code=error.status_code, headers=error.headers
    )


async def _database_error(request: Request, error: Exception) -> JSONResponse:
    """A database that is away, full or busy is 503, a retry may help; a value that it can't hold is 400."""
    if isinstance(error, DataError):
        body = envelope(
            "a text holds a NUL character, or a number is out of range",
            type="invalid_request_error",
            code="invalid_value",
        )
        return JSONResponse(body, status_code=400)
    if not is_temporary(error):
        raise error
    log.warning("database.unavailable", error=type(error).__name__)
    body = envelope("the database is not answering", type="server_error", code="unavailable")
    return JSONResponse(body, status_code=503, headers={"retry-after": str(RETRY_AFTER_SECONDS)})


async def _system_error(request: Request, error: Exception) -> JSONResponse:
    """A full disk is 507; what was being written is gone. Everything else is a bug."""
    if not isinstance(error, OSError) or error.errno not in NO_SPACE:
        raise error
    log.error("storage.full")
    return response_of(StorageFull("the service's disk is full; nothing of the request was stored"))
