"""Names asked of the operator's own DNS servers, once for each kind of address.

dnspython is imported on the first use only: a service that resolves through its system needs none of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

from probe.errors import NameNotResolved

if TYPE_CHECKING:
    from dns.message import QueryMessage

DnsServer = tuple[str, int]
"""(address, port)"""

SECONDS_A_SERVER = 2.0


async def ask_servers(name: str, servers: Sequence[DnsServer]) -> tuple[IPv4Address | IPv6Address, ...]:
    """The A and AAAA records of a name, each kind from the first server that answers.

    A server is asked once. It follows aliases itself; what it answers about other names than those of the
    chain is ignored. The caller bounds the time and judges the addresses.

    Raises:
        NameNotResolved: no server answered, one refused, or the name is none.
    """
    found = await asyncio.gather(*(_records(name, kind, servers) for kind in ("A", "AAAA")))
    return tuple(address for addresses in found for address in addresses)


async def _records(name: str, kind: str, servers: Sequence[DnsServer]) -> list[IPv4Address | IPv6Address]:
    import dns.exception
    import dns.rcode

    for server in servers:
        try:
            reply = await _ask(name, kind, server)
            if reply.rcode() == dns.rcode.NXDOMAIN:
                return []
            if reply.rcode() == dns.rcode.NOERROR:
                records = reply.resolve_chaining().answer
                return [ip_address(record.to_text()) for record in records or ()]
        except (dns.exception.DNSException, OSError, EOFError, ValueError):
            # the next server may do better
            continue
    raise NameNotResolved("no DNS server answered for the suspect's host name")


async def _ask(name: str, kind: str, server: DnsServer) -> QueryMessage:
    import dns.asyncbackend
    import dns.asyncquery
    import dns.exception
    import dns.message

    address, port = server
    reply, _ = await dns.asyncquery.udp_with_fallback(
        dns.message.make_query(name, kind),
        address,
        port=port,
        timeout=SECONDS_A_SERVER,
        backend=dns.asyncbackend.get_backend("asyncio"),
    )
    if not isinstance(reply, dns.message.QueryMessage):
        raise dns.exception.FormError
    return reply
