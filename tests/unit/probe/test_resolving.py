"""Names asked of DNS servers of the operator's choice: real messages to a real server on loopback."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from probe.address import parse_suspect_url, resolve, resolve_and_vet
from probe.errors import AddressNotAllowed, NameNotResolved
from tests.local_dns import LocalDns, Records, Silence, Truncate, local_dns


def _zone(name: str, kind: str, before: int) -> Records:
    zone: dict[tuple[str, str], Records] = {
        ("public.test", "A"): ["public.test. 0 IN A 93.184.215.14"],
        ("public.test", "AAAA"): ["public.test. 0 IN AAAA 2606:4700::1111"],
        ("alias.test", "A"): ["alias.test. 0 IN CNAME public.test.", "public.test. 0 IN A 93.184.215.14"],
        ("alias.test", "AAAA"): ["alias.test. 0 IN CNAME public.test."],
        ("stray.test", "A"): ["other.test. 0 IN A 8.8.8.8"],
        ("stray.test", "AAAA"): [],
        ("half.test", "A"): ["half.test. 0 IN A 8.8.8.8"],
        ("half.test", "AAAA"): ["half.test. 0 IN AAAA ::1"],
        ("many.test", "A"): [f"many.test. 0 IN A 8.8.8.{n}" for n in range(17)],
        ("many.test", "AAAA"): [],
        ("big.test", "AAAA"): [],
        ("loop.test", "A"): ["loop.test. 0 IN CNAME loop.test."],
        ("loop.test", "AAAA"): ["loop.test. 0 IN CNAME loop.test."],
    }
    if name == "silent.test":
        raise Silence
    if (name, kind) == ("big.test", "A"):
        if before != -1:
            raise Truncate
        return ["big.test. 0 IN A 8.8.4.4"]
    if name == "slow.test":
        time.sleep(1)
    return zone.get((name, kind))


async def _resolve(dns: LocalDns, name: str, seconds: float = 5.0) -> list[str]:
    url = parse_suspect_url(f"http://{name}/v1")
    return [str(a) for a in await resolve(url, timeout_seconds=seconds, servers=[dns.address])]


async def test_both_kinds_of_address_are_asked_for_once() -> None:
    with local_dns(_zone) as dns:
        assert await _resolve(dns, "public.test") == ["93.184.215.14", "2606:4700::1111"]
        assert dns.asked == {("public.test", "A"): 1, ("public.test", "AAAA"): 1}


async def test_an_alias_that_the_server_followed_is_taken() -> None:
    with local_dns(_zone) as dns:
        assert await _resolve(dns, "alias.test") == ["93.184.215.14"]


async def test_a_truncated_answer_is_asked_for_over_tcp() -> None:
    with local_dns(_zone) as dns:
        assert await _resolve(dns, "big.test") == ["8.8.4.4"]


async def test_an_address_needs_no_asking() -> None:
    with local_dns(_zone) as dns:
        assert await _resolve(dns, "8.8.8.8") == ["8.8.8.8"]
        assert await _resolve(dns, "[2606:4700::1111]") == ["2606:4700::1111"]
        assert not dns.asked


@pytest.mark.parametrize("name", ["none.test", "stray.test", "many.test", "loop.test", "localhost"])
async def test_a_name_without_a_usable_set_of_addresses_does_not_resolve(name: str) -> None:
    """No such name, an answer about another name, more than 16 addresses, an alias of itself."""
    with local_dns(_zone) as dns, pytest.raises(NameNotResolved):
        await _resolve(dns, name)


@pytest.mark.parametrize("name", ["silent.test", "slow.test"])
async def test_a_server_without_an_answer_in_time_ends_the_asking(name: str) -> None:
    with local_dns(_zone) as dns:
        started = time.monotonic()
        with pytest.raises(NameNotResolved):
            await _resolve(dns, name, seconds=0.3)
        assert time.monotonic() - started < 0.8


async def test_the_second_server_is_asked_when_the_first_does_not_answer() -> None:
    with local_dns(_zone) as gone:
        pass
    with local_dns(_zone) as dns:
        url = parse_suspect_url("http://public.test")
        found = await resolve(url, servers=[gone.address, dns.address])
        assert len(found) == 2


async def test_one_private_address_in_either_kind_refuses_the_name() -> None:
    with local_dns(_zone) as dns, pytest.raises(AddressNotAllowed):
        await resolve_and_vet(parse_suspect_url("http://half.test"), servers=[dns.address])


def test_without_servers_dnspython_is_not_imported() -> None:
    """Also after a resolution through the system."""
    program = (
        "import asyncio, sys\n"
        "from probe.address import parse_suspect_url, resolve\n"
        "asyncio.run(resolve(parse_suspect_url('http://localhost')))\n"
        "sys.exit('dns' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
