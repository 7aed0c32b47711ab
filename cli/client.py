"""A small client of the service's HTTP API, for commands that speak to it."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import httpx2

from cli.errors import CliError


class ApiError(CliError):
    """The service refused a request, or could not be reached; the message is the service's own."""

    code = "api"

    def __init__(self, message: str, *, refusal: str = "") -> None:
        super().__init__(message)
        self.refusal = refusal
        """the service's own code of what it refused; "" if it was not reached"""


class Api:
    """The API under one key. Every failure is an `ApiError` of one line."""

    def __init__(self, base_url: str, api_key: str) -> None:
        self._client = httpx2.Client(
            base_url=base_url,
            headers={"authorization": f"Bearer {api_key}"},
            timeout=httpx2.Timeout(60.0, connect=5.0),
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def get(self, path: str) -> dict[str, Any]:
        """A JSON object."""
        return self._json(self._send("GET", path))

    def post(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send a JSON object, get one."""
        return self._json(self._send("POST", path, json=body or {}))

    def delete(self, path: str) -> dict[str, Any]:
        """Delete something, get an object that says so."""
        return self._json(self._send("DELETE", path))

    def upload(self, name: str, content: bytes) -> dict[str, Any]:
        """Upload a dataset for fine-tuning."""
        return self._json(
            self._send(
                "POST",
                "/v1/files",
                data={"purpose": "fine-tune"},
                files={"file": (name, content, "application/jsonl")},
            )
        )

    def download(self, path: str) -> bytes:
        """The exact bytes of a report or of evidence."""
        return self._send("GET", path).content

    def _send(self, method: str, path: str, **arguments: Any) -> httpx2.Response:
        try:
            response = self._client.request(method, path, **arguments)
        except httpx2.HTTPError as error:
            raise ApiError(
                f"no answer from the API at {self._client.base_url}: {type(error).__name__}"
            ) from None
        if response.is_success:
            return response
        try:
            told = response.json()["error"]
            message, refusal = str(told["message"]), str(told.get("code") or "")
        except (ValueError, KeyError, TypeError, AttributeError):
            message, refusal = "no further message", ""
        raise ApiError(f"{method} {path}: {response.status_code}: {message}", refusal=refusal)

    @staticmethod
    def _json(response: httpx2.Response) -> dict[str, Any]:
        try:
            value = response.json()
        except ValueError:
            raise ApiError("the API answered something that is not JSON") from None
        if not isinstance(value, dict):
            raise ApiError("the API answered something that is not an object")
        return value
