"""Configuration that can't be used is refused at the start, in one line that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from dashboard.__main__ import parse_arguments
from dashboard.errors import SettingsError
from dashboard.settings import SECRET_VARIABLE, api_root


@pytest.fixture
def secret_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A good secret, named by the environment."""
    path = tmp_path / "secret"
    path.write_text("x" * 48 + "\n")
    path.chmod(0o600)
    monkeypatch.setenv(SECRET_VARIABLE, str(path))
    return path


@pytest.mark.usefixtures("secret_file")
def test_defaults_are_loopback() -> None:
    """Nobody else is served unless asked for."""
    settings = parse_arguments([])
    assert (settings.host, settings.api_url) == ("127.0.0.1", "http://127.0.0.1:8000")
    assert "xxx" not in repr(settings)


@pytest.mark.parametrize("url", ["http://h:8000", "http://h:8000/", "http://h:8000/v1", "http://h:8000/v1/"])
def test_the_root_is_found(url: str) -> None:
    """With or without /v1, as people paste it."""
    assert api_root(url) == "http://h:8000"


@pytest.mark.parametrize("url", ["", "h:8000", "ftp://h", "http://", "http://u:p@h", "http://h?key=1"])
def test_other_urls_are_refused(url: str) -> None:
    """A credential must not be in an argument list."""
    with pytest.raises(SettingsError):
        api_root(url)


def test_no_secret_no_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no default secret."""
    monkeypatch.delenv(SECRET_VARIABLE, raising=False)
    with pytest.raises(SettingsError, match=SECRET_VARIABLE):
        parse_arguments([])


def test_a_secret_others_can_read_is_refused(secret_file: Path) -> None:
    """The message says how to mend it."""
    secret_file.chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        parse_arguments([])


def test_a_short_secret_is_refused(secret_file: Path) -> None:
    """Fewer than 32 bytes can be guessed."""
    secret_file.write_text("short")
    with pytest.raises(SettingsError, match="too few"):
        parse_arguments([])


@pytest.mark.usefixtures("secret_file")
def test_a_port_out_of_range_is_refused() -> None:
    """Zero would be a port nobody can find."""
    with pytest.raises(SettingsError):
        parse_arguments(["--port", "0"])
