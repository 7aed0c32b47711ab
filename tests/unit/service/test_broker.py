"""The broker's address in Celery's spelling and in redis-py's."""

from __future__ import annotations

import pytest

from service.broker import client_url


@pytest.mark.parametrize(
    ("celery", "client"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("rediss://:password@host:6380/3", "rediss://:password@host:6380/3"),
        ("redis+socket:///run/v.sock?virtual_host=2", "unix:///run/v.sock?db=2"),
        ("redis+socket:///run/v.sock", "unix:///run/v.sock?db=0"),
        ("redis+socket://:password@/run/v.sock?virtual_host=/1", "unix://:password@/run/v.sock?db=1"),
    ],
)
def test_spelling(celery: str, client: str) -> None:
    assert client_url(celery) == client
