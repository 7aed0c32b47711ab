"""Settings that are lists in one text."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from pydantic import SecretStr

from service.settings import Settings, SettingsError
from tests.timestamp_authority import Authority


def _settings(dns_servers: str = "", *, log_key: Path | None = None, log_origin: str = "") -> Settings:
    return Settings(
        DATABASE_URL=SecretStr("postgresql+psycopg://x"),
        REDIS_URL=SecretStr("redis://x"),
        DOUBLEI_STORAGE_DIR=Path("x"),
        DOUBLEI_KEK_FILE=Path("x"),
        DOUBLEI_SERVING_URL="http://x",
        DOUBLEI_SERVING_TOKEN_FILE=Path("x"),
        DOUBLEI_DNS_SERVERS=dns_servers,
        DOUBLEI_LOG_KEY_FILE=log_key,
        DOUBLEI_LOG_ORIGIN=log_origin,
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


SEED = base64.b64encode(bytes(range(32))).decode()


def test_the_logs_key_has_its_name_from_its_file_or_from_the_operator(tmp_path: Path) -> None:
    file = tmp_path / "log-key"
    file.write_text(f"double-i/0123456789abcdef\n{SEED}\n")
    signer = _settings(log_key=file).log_signer
    assert (signer.name, signer.seed) == ("double-i/0123456789abcdef", bytes(range(32)))
    assert _settings(log_key=file, log_origin="log.example/1").log_signer.name == "log.example/1"
    for shown in (repr(signer), repr(_settings(log_key=file))):
        assert SEED not in shown
        assert repr(bytes(range(32))) not in shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        SEED,
        f"name\n{SEED}\nmore",
        "name\nnot base64!",
        f"name\n{SEED[:-4]}",
        "n\u00e4me\nx",
        f"a+b\n{SEED}",
    ],
)
def test_what_is_no_key_of_a_log_is_refused_without_showing_it(tmp_path: Path, text: str) -> None:
    file = tmp_path / "log-key"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match="DOUBLEI_LOG_") as refused:
        _ = _settings(log_key=file).log_signer
    assert SEED[:12] not in str(refused.value)


def test_a_missing_key_of_the_log_is_named(tmp_path: Path) -> None:
    for log_key in (None, tmp_path / "none"):
        with pytest.raises(SettingsError, match="DOUBLEI_LOG_KEY_FILE"):
            _ = _settings(log_key=log_key).log_signer


def _published(**more: object) -> Settings:
    return _settings().model_copy(update=more)


def test_the_evidence_key_is_read_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "evidence-key"
    file.write_text(base64.b64encode(bytes(range(32))).decode() + "\n")
    assert _published(evidence_key_file=file).evidence_signer.private_bytes_raw() == bytes(range(32))


@pytest.mark.parametrize("content", [None, "", "not base64", base64.b64encode(bytes(31)).decode()])
def test_a_bad_evidence_key_is_said(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "evidence-key"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SettingsError, match="DOUBLEI_EVIDENCE_KEY_FILE"):
        _ = _published(evidence_key_file=file).evidence_signer
    with pytest.raises(SettingsError, match="DOUBLEI_EVIDENCE_KEY_FILE"):
        _ = _published().evidence_signer


def test_a_timestamp_authority_needs_an_address_and_a_root(tmp_path: Path) -> None:
    root = tmp_path / "ca.pem"
    assert _published().timestamp_authority is None
    for url in ("ftp://stamps.example", "stamps.example", "https://user:password@stamps.example"):
        with pytest.raises(SettingsError, match="DOUBLEI_TSA_URL"):
            _ = _published(tsa_url=url, tsa_ca_file=root).timestamp_authority
    with pytest.raises(SettingsError, match="DOUBLEI_TSA_CA_FILE"):
        _ = _published(tsa_url="https://stamps.example").timestamp_authority
    for content in (None, "no certificate"):
        if content is not None:
            root.write_text(content)
        with pytest.raises(SettingsError, match="DOUBLEI_TSA_CA_FILE"):
            _ = _published(tsa_url="https://stamps.example", tsa_ca_file=root).timestamp_authority
    root.write_text(Authority().pem)
    found = _published(tsa_url="https://stamps.example", tsa_ca_file=root).timestamp_authority
    assert found is not None
    assert len(found.roots) == 1
