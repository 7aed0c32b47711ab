"""The door of metrics: closed without its token, and never open to others without one."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from prometheus_client import CollectorRegistry, Counter
from pydantic import SecretStr

from service.operator_door import open_door
from service.settings import Settings, SettingsError

TOKEN = "0123456789abcdef"


def settings(tmp_path: Path, address: str, token: str | None = None) -> Settings:
    """Settings of a process that shows metrics there."""
    file = tmp_path / "token"
    if token is not None:
        file.write_text(token + "\n")
    return Settings(
        DATABASE_URL=SecretStr("postgresql+psycopg://"),
        REDIS_URL=SecretStr("redis://"),
        DOUBLEI_STORAGE_DIR=tmp_path,
        DOUBLEI_KEK_FILE=tmp_path / "kek",
        DOUBLEI_SERVING_URL="http://127.0.0.1:9",
        DOUBLEI_SERVING_TOKEN_FILE=tmp_path / "serving",
        DOUBLEI_METRICS_ADDRESS=address,
        DOUBLEI_METRICS_TOKEN_FILE=None if token is None else file,
    )


@pytest.fixture
def registry() -> CollectorRegistry:
    """One counter."""
    made = CollectorRegistry()
    Counter("apples", "counted", registry=made).inc()
    return made


@pytest.fixture
def port() -> int:
    """A free one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def close() -> Iterator[list[Callable[[], None]]]:
    """Doors to close at the end."""
    doors: list[Callable[[], None]] = []
    yield doors
    for door in doors:
        door()


def get(port: int, path: str, **headers: str) -> httpx2.Response:
    return httpx2.get(f"http://127.0.0.1:{port}{path}", headers=headers, trust_env=False)


def test_on_loopback_without_a_token(
    tmp_path: Path, registry: CollectorRegistry, port: int, close: list[Callable[[], None]]
) -> None:
    close.append(
        open_door(settings(tmp_path, f"127.0.0.1:{port}"), registry, lambda: {"database": "missing"})
    )
    shown = get(port, "/metrics")
    assert shown.status_code == 200
    assert "apples_total 1.0" in shown.text
    assert get(port, "/healthz").status_code == 200
    ready = get(port, "/readyz")
    assert (ready.status_code, ready.json()["checks"]) == (503, {"database": "missing"})
    assert get(port, "/elsewhere").status_code == 404


def test_with_a_token_only_for_who_sends_it(
    tmp_path: Path, registry: CollectorRegistry, port: int, close: list[Callable[[], None]]
) -> None:
    close.append(open_door(settings(tmp_path, f"127.0.0.1:{port}", TOKEN), registry))
    for wrong in ("", TOKEN, f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer \xe9"):
        refused = get(port, "/metrics", **({"authorization": wrong} if wrong.isascii() else {}))
        assert refused.status_code == 401
        assert "apples" not in refused.text
    assert "apples" in get(port, "/metrics", authorization=f"Bearer {TOKEN}").text
    assert get(port, "/readyz").status_code == 404


@pytest.mark.parametrize("address", ["0.0.0.0:1", "192.0.2.1:1", "[::]:1"])
def test_elsewhere_a_token_is_needed(tmp_path: Path, registry: CollectorRegistry, address: str) -> None:
    with pytest.raises(SettingsError, match="DOUBLEI_METRICS_TOKEN_FILE"):
        open_door(settings(tmp_path, address), registry)


@pytest.mark.parametrize("address", ["9464", "127.0.0.1", ":9464", "127.0.0.1:x", "127.0.0.1:70000"])
def test_an_address_that_is_none(tmp_path: Path, registry: CollectorRegistry, address: str) -> None:
    with pytest.raises(SettingsError, match="is not host:port"):
        open_door(settings(tmp_path, address), registry)


def test_a_short_token_is_refused(tmp_path: Path, registry: CollectorRegistry) -> None:
    with pytest.raises(SettingsError, match="16 characters"):
        open_door(settings(tmp_path, "127.0.0.1:0", "short"), registry)


def test_a_taken_port_does_not_end_the_process(
    tmp_path: Path, registry: CollectorRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        open_door(settings(tmp_path, f"127.0.0.1:{taken.getsockname()[1]}"), registry)()
    told = capsys.readouterr()
    assert "metrics.unavailable" in told.out + told.err
