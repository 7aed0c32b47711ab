"""ETag and 304 on what is polled: who has the present answer is not sent it again."""

from __future__ import annotations

import hashlib

from starlette.requests import Request
from starlette.responses import Response

CACHE_CONTROL = "private, no-cache"
"""To be kept by who asked and by nobody between, and asked about before each use."""
TAG_CHARACTERS = 32


def conditional(request: Request, response: Response) -> Response:
    """The answer with its tag, or 304 if the caller names it in If-None-Match (RFC 9110, section 13.1.2).

    The tag digests the bytes, so it is the same in every process and after every restart. Answers that
    stream, that failed, or that have a tag or a rule of their own are left as they are.
    """
    body = getattr(response, "body", b"")  # a file or a stream has none
    if response.status_code != 200 or not body:
        return response
    if "etag" in response.headers or "cache-control" in response.headers:
        return response
    tag = f'"{hashlib.sha256(body).hexdigest()[:TAG_CHARACTERS]}"'
    headers = {"etag": tag, "cache-control": CACHE_CONTROL}
    if _names(request.headers.get("if-none-match", ""), tag):
        return Response(status_code=304, headers=headers)
    response.headers.update(headers)
    return response


def _names(header: str, tag: str) -> bool:
    """Weak comparison, as the RFC asks for here."""
    return header.strip() == "*" or tag in (part.strip().removeprefix("W/") for part in header.split(","))
