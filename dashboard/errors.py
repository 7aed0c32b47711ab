"""Typed errors of the dashboard; each message is written for the person at the screen."""

from __future__ import annotations

from typing import ClassVar


class DashboardError(Exception):
    """Root of every error here. Subclasses must set ``code``; no message ever holds an API key."""

    code: ClassVar[str]

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class SettingsError(DashboardError):
    """The dashboard can't start as it was configured."""

    code = "settings"


class Unreachable(DashboardError):
    """No usable answer from the API: refused, timed out, a 5xx, or not the API at all. Worth a retry."""

    code = "unreachable"


class KeyRefused(DashboardError):
    """The API does not know this key, or no longer."""

    code = "key_refused"


class WrongRole(DashboardError):
    """The key is good, but it is not a provider's."""

    code = "wrong_role"


class RequestRefused(DashboardError):
    """The API understood the request and would not carry it out (a 4xx); the message is the API's."""

    code = "request_refused"
