"""How the dashboard is configured: the command line, and one file with the cookie-signing secret."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from dashboard.errors import SettingsError

SECRET_VARIABLE = "DOUBLEI_DASHBOARD_SECRET_FILE"
MIN_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything the process needs to know; built once in ``__main__``."""

    host: str
    port: int
    api_url: str
    """Root of the API without a trailing slash, e.g. ``http://127.0.0.1:8000``."""
    secret: bytes = field(repr=False)
    """Signs session cookies. It guards no stored data: a new one only signs everybody out."""
    poll_seconds: float = 1.5


def api_root(url: str) -> str:
    """The API's root from what an operator typed; a trailing slash or ``/v1`` is forgiven.

    Raises:
        SettingsError: not an http(s) URL, or one that carries a credential.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError("--api must be an http:// or https:// URL, e.g. http://127.0.0.1:8000")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise SettingsError("--api must not carry a user name, password, query or fragment")
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def read_secret() -> bytes:
    """The cookie-signing secret, from the file that ``DOUBLEI_DASHBOARD_SECRET_FILE`` names.

    Raises:
        SettingsError: unset, unreadable, readable by other users, or too short to be a secret.
    """
    name = os.environ.get(SECRET_VARIABLE)
    if not name:
        raise SettingsError(
            f"{SECRET_VARIABLE} is not set: name a 0600 file with {MIN_SECRET_BYTES} random bytes or more"
        )
    try:
        with Path(name).open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            secret = file.read(4096).strip()
    except OSError as error:
        raise SettingsError(f"{SECRET_VARIABLE}: can't read the file: {error.strerror}") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise SettingsError(f"{SECRET_VARIABLE}: other users can read the file; run chmod 600 on it")
    if len(secret) < MIN_SECRET_BYTES:
        raise SettingsError(
            f"{SECRET_VARIABLE}: {len(secret)} bytes are too few; write {MIN_SECRET_BYTES} or more"
        )
    return secret
