"""Settings that are lists in one text."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from service.settings import Settings, SettingsError


def _settings(dns_servers: str) -> Settings:
    return Settings(
        DATABASE_URL=SecretStr("postgresql+psycopg://x"),
        REDIS_URL=SecretStr("redis://x"),
        DOUBLEI_STORAGE_DIR=Path("x"),
        DOUBLEI_KEK_FILE=Path("x"),
        DOUBLEI_SERVING_URL="http://x",
        DOUBLEI_SERVING_TOKEN_FILE=Path("x"),
        DOUBLEI_DNS_SERVERS=dns_servers,
    )


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("", ()),
        ("192.0.2.53", (("192.0.2.53", 53),)),
        ("127.0.0.1:5353, [2001:DB8::1],[::1]:54,", (("127.0.0.1", 5353), ("2001:db8::1", 53), ("::1", 54))),
    ],
)
def test_dns_servers_are_addresses_with_an_optional_port(text: str, servers: object) -> None:
    assert _settings(text).dns_server_list == servers


@pytest.mark.parametrize("text", ["dns.example", "::1", "127.0.0.1:0", "127.0.0.1:65536", "300.1.1.1", "[1"])
def test_what_is_no_dns_server_is_named(text: str) -> None:
    with pytest.raises(SettingsError, match="DOUBLEI_DNS_SERVERS"):
        _ = _settings(text).dns_server_list
