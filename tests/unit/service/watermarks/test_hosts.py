"""A suspect's host:port has one spelling, or is refused."""

from __future__ import annotations

import pytest

from service.watermarks.hosts import InvalidHost, normalise


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("models.example.com:443", "models.example.com:443"),
        (" Models.Example.COM.:443 ", "models.example.com:443"),
        ("127.0.0.1:8000", "127.0.0.1:8000"),
        ("localhost:80", "localhost:80"),
        ("[::1]:8000", "[::1]:8000"),
        ("[2001:DB8:0:0::1]:443", "[2001:db8::1]:443"),
        ("xn--bcher-kva.example:65535", "xn--bcher-kva.example:65535"),
        ("a:00443", "a:443"),
    ],
)
def test_normal_form(text: str, normal: str) -> None:
    assert normalise(text) == normal
    assert normalise(normal) == normal


@pytest.mark.parametrize(
    "text",
    [
        "",
        "models.example.com",
        "https://models.example.com:443",
        "models.example.com:443/v1",
        "user@models.example.com:443",
        "models.example.com:0",
        "models.example.com:65536",
        "models.example.com:https",
        "bücher.example:443",
        "①②⑦.0.0.1:80",
        "127.1:80",
        "0x7f000001:80",
        "2130706433:80",
        "0177.0.0.1:80",
        "::1:80",
        "[::1]",
        "[::1%eth0]:80",
        "[127.0.0.1]:80",
        "-a.example:80",
        "a..b:80",
        "a b:80",
        "a\x00b:80",
        "a" * 64 + ".example:80",
        "*.example.com:443",
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(InvalidHost) as caught:
        normalise(text)
    assert caught.value.status == 400
