"""``host:port`` as a grant names it, in one spelling."""

from __future__ import annotations

import ipaddress
import re

from service.errors import InvalidRequest

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_FORM = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:/@\s]+):(?P<port>[0-9]{1,5})")
MAX_HOST_CHARACTERS = 253


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
    if host.startswith("["):
        try:
            return f"[{ipaddress.IPv6Address(host[1:-1]).compressed}]"
        except ValueError:
            raise InvalidHost(f"{host[:80]!r} is not an IPv6 address") from None
    lowered = host.lower().removesuffix(".")
    labels = lowered.split(".")
    if labels[-1].isdigit() or re.fullmatch(r"0x[0-9a-f]*", labels[-1]):
        # resolvers read 127.1 and 0x7f000001 as addresses too: only the plain form is taken
        try:
            return str(ipaddress.IPv4Address(lowered))
        except ValueError:
            raise InvalidHost(f"{host[:80]!r} is not an IPv4 address in its usual form") from None
    if len(lowered) > MAX_HOST_CHARACTERS or not all(_LABEL.fullmatch(label) for label in labels):
        raise InvalidHost(f"{host[:80]!r} is not a host name (international names: in their xn-- form)")
    return lowered
