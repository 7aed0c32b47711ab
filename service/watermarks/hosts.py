"""``host:port`` as a grant names it, in one spelling."""

from __future__ import annotations

import re

from probe.address import plain_host
from probe.errors import SuspectUrlError
from service.errors import InvalidRequest

_FORM = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:/@\s]+):(?P<port>[0-9]{1,5})")


class InvalidHost(InvalidRequest):
    """Not a host and a port."""

    code = "invalid_host"


def normalise(text: str) -> str:
    """``Example.COM:443`` -> ``example.com:443``; an IPv6 address stays in brackets, compressed.

    Raises:
        InvalidHost: it has a scheme, a path or a user, the port is missing or out of range, or the host is
            neither a name in ASCII nor an address.
    """
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise InvalidHost(f"{text[:80]!r} is not host:port (for example models.example.com:443)")
    port = int(match["port"])
    if not 1 <= port <= 65535:
        raise InvalidHost(f"{text[:80]!r}: a port lies between 1 and 65535")
    return f"{_host(match['host'])}:{port}"


def _host(host: str) -> str:
    """As a suspect's URL spells it, so that a grant and a URL that mean the same host are equal texts."""
    if not host.isascii():
        raise InvalidHost(f"{host[:80]!r} is not in ASCII (international names: in their xn-- form)")
    bracketed = host.startswith("[")
    try:
        plain = plain_host(host.strip("[]"), bracketed=bracketed)
    except SuspectUrlError:
        raise InvalidHost(f"{host[:80]!r} is neither a name nor an address in its usual form") from None
    return f"[{plain}]" if bracketed else plain
