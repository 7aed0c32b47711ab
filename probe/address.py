"""The suspect-URL rule: which addresses may be probed, and to which one we then connect.

A URL is parsed once, its name is resolved once, every address of the answer is judged, and the
connection goes to an address that was judged: a name that changes between check and use (DNS
rebinding) changes nothing. Private addresses are refused unless the operator listed host:port.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
)
from urllib.parse import urlsplit

from probe.errors import AddressNotAllowed, NameNotResolved, SuspectUrlError
from probe.resolving import DnsServer, ask_servers

Address = IPv4Address | IPv6Address
HostPort = tuple[str, int]

MAX_URL_CHARS = 2048
MAX_ADDRESSES = 16
RESOLVE_SECONDS = 5.0

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_LABELS = re.compile(rf"(?=.{{1,253}}\Z)(?:{_LABEL}\.)*{_LABEL}\.?\Z")
# a last label that makes a host an IPv4 address (https://url.spec.whatwg.org/#ends-in-a-number-checker)
_NUMBER = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")
_PATH = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@%-]*)*\Z")
_DEFAULT_PORTS = {"http": 80, "https": 443}

# ``is_global`` differs between Python versions and calls some of these public
# (https://www.iana.org/assignments/iana-ipv4-special-registry, …/iana-ipv6-special-registry).
_REFUSED_V4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
_REFUSED_V6 = tuple(
    IPv6Network(text)
    for text in (
        "::/128",
        "::1/128",
        "64:ff9b:1::/48",  # NAT64 for local use: what it maps to is the site's own business
        "100::/64",
        "2001::/23",  # Teredo (2001::/32), ORCHID and other protocol assignments
        "2001:db8::/32",
        "2620:4f:8000::/48",
        "3fff::/20",
        "5f00::/16",
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")
_COMPATIBLE = IPv6Network("::/96")
_GLOBAL_UNICAST = IPv6Network("2000::/3")


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspectUrl:
    """A parsed base URL. ``host`` is lower-case ASCII without brackets; ``path`` has no trailing slash."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def host_port(self) -> str:
        """``host:port`` as grants and settings write it; IPv6 in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def authority(self) -> str:
        """What the Host header says: the port only where it is not the scheme's own."""
        if self.port == _DEFAULT_PORTS[self.scheme]:
            return f"[{self.host}]" if ":" in self.host else self.host
        return self.host_port

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class VettedTarget:
    """A URL with the addresses that were judged. The only thing the transport connects to."""

    url: SuspectUrl
    addresses: tuple[str, ...]


def parse_suspect_url(text: str) -> SuspectUrl:
    """Parse the base URL of a suspect, strictly and once.

    Law: ``parse_suspect_url(str(parse_suspect_url(u))) == parse_suspect_url(u)``.

    Raises:
        SuspectUrlError: not http or https, or with userinfo, query, fragment, control characters,
            backslashes, a zone id, or a host or port that is none.
    """
    if not isinstance(text, str) or not text or len(text) > MAX_URL_CHARS:
        raise SuspectUrlError("the suspect's URL is empty or too long")
    if any(ord(char) <= 32 or ord(char) == 127 or char == "\\" for char in text):
        raise SuspectUrlError("the suspect's URL holds a space, a control character or a backslash")
    try:
        parts = urlsplit(text)
        port = parts.port
        hostname = parts.hostname
    except ValueError:
        raise SuspectUrlError("the suspect's URL can't be parsed") from None
    if parts.scheme not in _DEFAULT_PORTS:
        raise SuspectUrlError("the suspect's URL must be http or https")
    if "@" in parts.netloc:
        raise SuspectUrlError("the suspect's URL must not hold a user or a password; use api_key")
    if "?" in text or "#" in text:
        raise SuspectUrlError("the suspect's URL must not have a query or a fragment")
    if not hostname or parts.netloc.endswith(":"):
        raise SuspectUrlError("the suspect's URL has no host or an empty port")
    if port == 0:
        raise SuspectUrlError("port 0 is no port")
    if not _PATH.match(parts.path) or ".." in parts.path.split("/"):
        raise SuspectUrlError("the suspect's URL has an odd path")
    return SuspectUrl(
        scheme=parts.scheme,
        host=plain_host(hostname, bracketed="[" in parts.netloc),
        port=port or _DEFAULT_PORTS[parts.scheme],
        path=parts.path.rstrip("/"),
    )


def plain_host(hostname: str, *, bracketed: bool) -> str:
    """The one spelling of a host: a name in lower-case ASCII, or an address in its usual form.

    Args:
        hostname: without brackets.
        bracketed: it stood in brackets, so it is an IPv6 address or nothing.

    Raises:
        SuspectUrlError: it is none. An IPv4 address in another form than four decimal numbers (``127.1``,
            ``0x7f000001``, ``0177.0.0.1``) is none either: resolvers differ about what it means.
    """
    if bracketed:
        try:
            return str(IPv6Address(hostname)) if "%" not in hostname else _refuse_host()
        except ValueError:
            return _refuse_host()
    host = ".".join(_ascii_label(label) for label in hostname.lower().split("."))
    if not _LABELS.match(host):
        return _refuse_host()
    host = host.removesuffix(".")
    if _NUMBER.match(host.rpartition(".")[2]):
        try:
            return str(IPv4Address(host))
        except ValueError:
            return _refuse_host()
    return host


def _ascii_label(label: str) -> str:
    if label.isascii():
        return label
    try:
        encoded = label.encode("idna")
        # the codec folds look-alikes (circled digits, full-width letters, other dots): what does not come
        # back as it was written is refused instead of guessed, and so are other scripts' numbers
        if label.isnumeric() or not encoded.startswith(b"xn--") or encoded.decode("idna") != label:
            return _refuse_host()
    except UnicodeError:
        return _refuse_host()
    return encoded.decode("ascii")


def _refuse_host() -> str:
    raise SuspectUrlError("the suspect's URL has a host that is no plain name or address")


def embedded_addresses(address: Address) -> tuple[Address, ...]:
    """The address and every address that it carries inside (mapped, compatible, 6to4, NAT64, Teredo)."""
    if isinstance(address, IPv4Address):
        return (address,)
    inner: list[Address] = []
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address.sixtofour is not None:
        inner.append(address.sixtofour)
    if address.teredo is not None:
        inner.extend(address.teredo)
    if address in _NAT64 or address in _COMPATIBLE:
        inner.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return (address, *inner)


def is_public(address: Address) -> bool:
    """Whether an address, and every address inside it, is ordinary public unicast."""
    return all(_is_public_itself(item) for item in embedded_addresses(address))


def _is_public_itself(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return address.is_global and not any(address in network for network in _REFUSED_V4)
    if any(address in network for network in _REFUSED_V6):
        return False
    return address in _NAT64 or address in _GLOBAL_UNICAST


def check_port(url: SuspectUrl, allow: Collection[HostPort]) -> None:
    """Refuse the privileged ports of other protocols: an audit is no port scanner.

    Raises:
        AddressNotAllowed: a port below 1024 that is neither 80 nor 443 nor in the operator's list.
    """
    if url.port < 1024 and url.port not in (80, 443) and (url.host, url.port) not in allow:
        raise AddressNotAllowed(f"port {url.port} is not probed")


def vet(url: SuspectUrl, addresses: Sequence[Address], allow: Collection[HostPort] = ()) -> VettedTarget:
    """Judge every address of a URL; one bad address refuses them all.

    Args:
        url: the parsed URL.
        addresses: all that its host resolved to.
        allow: the operator's (host, port) exceptions; a host is a name or an address, lower-case.

    Raises:
        AddressNotAllowed: an address is not public and neither it nor the host is in ``allow``.
    """
    check_port(url, allow)
    if not addresses:
        raise NameNotResolved("the suspect's host has no address")
    if (url.host, url.port) not in allow:
        for address in addresses:
            plain = embedded_addresses(address)[0]
            if not is_public(address) and (str(plain), url.port) not in allow:
                raise AddressNotAllowed(
                    "the suspect's address is loopback, private, link-local or otherwise not public"
                )
    return VettedTarget(url=url, addresses=tuple(str(address) for address in addresses))


async def resolve(
    url: SuspectUrl, *, timeout_seconds: float = RESOLVE_SECONDS, servers: Sequence[DnsServer] = ()
) -> tuple[Address, ...]:
    """Ask once for all addresses of the host: the operator's DNS servers, or without any the system.

    An address needs no asking.

    Raises:
        NameNotResolved: no such name, or no answer in time.
    """
    try:
        return (ip_address(url.host),)
    except ValueError:
        pass
    try:
        async with asyncio.timeout(timeout_seconds):
            found = await (ask_servers(url.host, servers) if servers else _ask_system(url))
    except (OSError, UnicodeError, TimeoutError):
        raise NameNotResolved("the suspect's host name does not resolve") from None
    unique = tuple(dict.fromkeys(found))
    if not unique or len(unique) > MAX_ADDRESSES:
        raise NameNotResolved("the suspect's host name has no usable set of addresses")
    return unique


async def _ask_system(url: SuspectUrl) -> tuple[Address, ...]:
    found = await asyncio.get_running_loop().getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
    return tuple(
        # a scoped address (fe80::1%eth0) is judged without its zone
        ip_address(str(sockaddr[0]).partition("%")[0])
        for family, _, _, _, sockaddr in found
        if family in (socket.AF_INET, socket.AF_INET6)
    )


async def resolve_and_vet(
    url: SuspectUrl,
    allow: Collection[HostPort] = (),
    *,
    timeout_seconds: float = RESOLVE_SECONDS,
    servers: Sequence[DnsServer] = (),
) -> VettedTarget:
    """Resolve once and judge the whole answer.

    Raises:
        NameNotResolved: no such name.
        AddressNotAllowed: see `vet`.
    """
    check_port(url, allow)
    return vet(url, await resolve(url, timeout_seconds=timeout_seconds, servers=servers), allow)
