# ruff: noqa: RUF001 (look-alike characters are what is tested)
"""The suspect-URL rule: what is refused, whatever its spelling."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.address import (
    is_public,
    parse_suspect_url,
    resolve,
    resolve_and_vet,
    vet,
)
from probe.errors import AddressNotAllowed, NameNotResolved, SuspectUrlError

PRIVATE = [
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.7",
    "203.0.113.9",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a00:1",
    "64:ff9b:1::a00:1",
    "64:ff9b:1::808:808",
    "100::1",
    "2001:0:7f00:1::",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a00:1::",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd12:3456::1",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "4000::1",
]
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "93.184.215.14",
    "2001:4860:4860::8888",
    "2606:4700::1111",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
    "2002:808:808::1",
]


@pytest.mark.parametrize("text", PRIVATE)
def test_an_address_that_is_not_ordinary_public_unicast_is_refused(text: str) -> None:
    url = parse_suspect_url("http://suspect.example:8000/v1")
    assert not is_public(ip_address(text))
    with pytest.raises(AddressNotAllowed):
        vet(url, [ip_address(text)])


@pytest.mark.parametrize("text", PUBLIC)
def test_a_public_address_may_be_probed(text: str) -> None:
    assert vet(parse_suspect_url("https://suspect.example/v1"), [ip_address(text)]).addresses == (
        str(ip_address(text)),
    )


def test_one_bad_address_among_good_ones_refuses_them_all() -> None:
    with pytest.raises(AddressNotAllowed):
        vet(parse_suspect_url("https://suspect.example"), [ip_address("8.8.8.8"), ip_address("10.0.0.1")])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "suspect.example",
        "ftp://suspect.example",
        "gopher://127.0.0.1:70/_x",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "http:",
        "http://",
        "http:///v1",
        "http://user@suspect.example",
        "http://user:pass@suspect.example",
        "http://@suspect.example",
        "http://suspect.example@127.0.0.1",
        "http://suspect.example/v1?x=1",
        "http://suspect.example/v1#x",
        "http://suspect.example?",
        "http://suspect.example\\@127.0.0.1",
        "http://suspect.example/\r\nHost: x",
        "http://sus pect.example",
        "http://suspect.example:0",
        "http://suspect.example:65536",
        "http://suspect.example:",
        "http://suspect.example:８０",
        "http://suspect.example:+80",
        "http://[::1",
        "http://[fe80::1%25lo]/",
        "http://[v1.x]/",
        "http://[127.0.0.1]/",
        "http://①②⑦.0.0.1/",
        "http://１２７.0.0.1/",
        "http://127。0。0。1/",
        "http://ＬＯＣＡＬＨＯＳＴ/",
        "http://①②⑦.bücher.example/",
        "http://bücher。example/",
        "http://١٢٧.٠.٠.١/",
        "http://straße.example/",
        "http://127.1/",
        "http://suspect.0x7f/",
        "http://1.2.3.4.5/",
        "http://08.8.8.8/",
        "http://a..b/",
        "http://-a.example/",
        "http://%31%32%37.0.0.1/",
        "http://suspect.example/../admin",
        "http://" + "a" * 64 + ".example",
        "http://" + "a." * 130 + "example",
        "http://suspect.example/" + "x" * 3000,
        "http://suspect.example\x00.internal/",
    ],
)
def test_a_url_that_is_not_one_plain_http_address_is_refused(text: str) -> None:
    with pytest.raises(SuspectUrlError):
        parse_suspect_url(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://api.Suspect.example/v1/", "https://api.suspect.example/v1"),
        ("http://suspect.example:80", "http://suspect.example"),
        ("https://suspect.example:80/v1", "https://suspect.example:80/v1"),
        ("http://[2606:4700:0::1111]:8000/v1", "http://[2606:4700::1111]:8000/v1"),
        ("http://bücher.example/v1", "http://xn--bcher-kva.example/v1"),
        ("http://suspect.example.:8000", "http://suspect.example:8000"),
    ],
)
def test_parsing_normalises_and_is_stable(text: str, expected: str) -> None:
    url = parse_suspect_url(text)
    assert str(url) == expected
    assert parse_suspect_url(str(url)) == url


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "0x7f000001",
        "0x7f.1",
        "2130706433",
        "0177.0.0.1",
        "017700000001",
        "localhost",
        "LOCALHOST",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "0",
        "0.0.0.0",
        "[::]",
    ],
)
async def test_loopback_in_every_spelling_is_refused_and_nothing_connects(host: str) -> None:
    """A listener on loopback sees no connection, however its address is written."""
    with socket.create_server(("127.0.0.1", 0)) as canary:
        canary.settimeout(0.05)
        port = canary.getsockname()[1]
        with pytest.raises((AddressNotAllowed, SuspectUrlError)):
            await resolve_and_vet(parse_suspect_url(f"http://{host}:{port}/v1"))
        with pytest.raises(TimeoutError):
            canary.accept()


async def test_the_operators_list_allows_exactly_one_host_and_port() -> None:
    allow = {("127.0.0.1", 8000)}
    assert (await resolve_and_vet(parse_suspect_url("http://127.0.0.1:8000"), allow)).addresses == (
        "127.0.0.1",
    )
    for other in ("http://127.0.0.1:8001", "http://127.0.0.2:8000", "http://[::1]:8000"):
        with pytest.raises(AddressNotAllowed):
            await resolve_and_vet(parse_suspect_url(other), allow)


@pytest.mark.parametrize("port", [1, 22, 25, 110, 445])
async def test_ports_of_other_protocols_are_refused(port: int) -> None:
    with pytest.raises(AddressNotAllowed):
        vet(parse_suspect_url(f"http://suspect.example:{port}"), [ip_address("8.8.8.8")])


async def test_a_name_without_an_address_says_so() -> None:
    with pytest.raises(NameNotResolved):
        await resolve(parse_suspect_url("http://no-such-name.invalid"))


@given(
    st.text(max_size=80)
    | st.text(alphabet="htps:/@[]%.#?\\ 0127.x①localhost", max_size=40).map("http://".__add__)
)
def test_parsing_is_total_and_its_result_is_plain(text: str) -> None:
    """Any text is refused with the typed error or becomes a URL that parses to itself."""
    try:
        url = parse_suspect_url(text)
    except SuspectUrlError:
        return
    assert url.scheme in ("http", "https")
    assert url.host.isascii()
    assert not set(url.host) & set("@/\\?#% ")
    assert 1 <= url.port <= 65535
    assert parse_suspect_url(str(url)) == url


@given(st.ip_addresses(v=4))
def test_wrapping_a_private_ipv4_address_never_makes_it_public(inner: IPv4Address) -> None:
    number = int(inner)
    wrapped = [
        IPv6Address((0xFFFF << 32) | number),
        IPv6Address(number),
        IPv6Address((0x0064FF9B << 96) | number),
        IPv6Address((0x2002 << 112) | (number << 80)),
        IPv6Address((0x20010000 << 96) | (number << 64)),
        IPv6Address((0x20010000 << 96) | (number ^ 0xFFFFFFFF)),
    ]
    if not is_public(inner):
        assert not any(is_public(address) for address in wrapped)
