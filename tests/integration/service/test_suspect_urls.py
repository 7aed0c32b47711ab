# ruff: noqa: RUF001 (look-alike characters are what is tested)
"""The corpus of suspect URLs: whatever is written, resolved or redirected to, nothing private is reached.

Each URL goes through the API's check and, where that lets it pass, through a whole run of the worker. A
canary listens on one port of every local address; a control shows that both could be reached.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from itertools import pairwise
from pathlib import Path

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from probe.adapters import Api
from probe.address import resolve_and_vet
from probe.errors import ProbeError
from probe.transport import SuspectChannel
from service.app import create_app
from service.errors import InvalidRequest
from service.settings import Settings
from service.verifications.suspects import SuspectRequest, check_suspect
from tests.integration.service.conftest import Account
from tests.local_dns import LocalDns, Records, Silence, local_dns
from tests.wire_suspect import WireSuspect, http_reply, json_reply, wire_suspect
from worker.record.engine import Workplace, open_workplace
from worker.tasks import verify_run

pytestmark = pytest.mark.integration

PUBLIC = "2d00::1"
"""Public by the rule, and of a range that IANA has given to nobody: nobody is bothered by a packet to it."""
NOBODYS = IPv6Network("2d00::/16")

REFUSED = "refused"
"""The API's 400."""

# {p} is the canary's port
LITERALS = [
    # dotted, and all that inet_aton and getaddrinfo take for 127.0.0.1
    "http://127.0.0.1:{p}/v1",
    "http://127.0.0.2:{p}/v1",
    "http://127.255.255.254:{p}/v1",
    "http://127.1:{p}/v1",
    "http://127.0.1:{p}/v1",
    "http://2130706433:{p}/v1",
    "http://0x7f000001:{p}/v1",
    "http://0X7F000001:{p}/v1",
    "http://0x7f.0x0.0x0.0x1:{p}/v1",
    "http://0x7f.1:{p}/v1",
    "http://0177.0.0.1:{p}/v1",
    "http://017700000001:{p}/v1",
    "http://0177.0.0x0.1:{p}/v1",
    "http://00000177.0.0.1:{p}/v1",
    "http://127.0.0.01:{p}/v1",
    "http://127.0.0.1.:{p}/v1",
    "http://127.0.0.1..:{p}/v1",
    "http://2130706433.:{p}/v1",
    "http://0x7f000001.:{p}/v1",
    "http://4294967297:{p}/v1",
    "http://0:{p}/v1",
    "http://0.0.0.0:{p}/v1",
    "http://00:{p}/v1",
    "http://0x:{p}/v1",
    "http://0x0:{p}/v1",
    # other scripts' digits and dots
    "http://①②⑦.0.0.1:{p}/v1",
    "http://１２７.0.0.1:{p}/v1",
    "http://127。0。0。1:{p}/v1",
    "http://127．0．0．1:{p}/v1",
    "http://127｡0｡0｡1:{p}/v1",
    "http://١٢٧.٠.٠.١:{p}/v1",
    "http://ｌｏｃａｌｈｏｓｔ:{p}/v1",
    "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ:{p}/v1",
    "http://loc\u00adalhost:{p}/v1",
    "http://local\u200dhost:{p}/v1",
    # other private ranges
    "http://10.0.0.1:{p}/v1",
    "http://172.16.0.1:{p}/v1",
    "http://192.168.0.1:{p}/v1",
    "http://100.64.0.1:{p}/v1",
    "http://169.254.169.254/latest/meta-data",
    "http://169.254.169.254:{p}/v1",
    "http://192.0.0.8:{p}/v1",
    "http://192.88.99.1:{p}/v1",
    "http://198.18.0.1:{p}/v1",
    "http://224.0.0.1:{p}/v1",
    "http://255.255.255.255:{p}/v1",
    # IPv6, plain and wrapped
    "http://[::1]:{p}/v1",
    "http://[0:0:0:0:0:0:0:1]:{p}/v1",
    "http://[0000:0000:0000:0000:0000:0000:0000:0001]:{p}/v1",
    "http://[::]:{p}/v1",
    "http://[::ffff:127.0.0.1]:{p}/v1",
    "http://[::ffff:7f00:1]:{p}/v1",
    "http://[::FFFF:0:1]:{p}/v1",
    "http://[::127.0.0.1]:{p}/v1",
    "http://[64:ff9b::127.0.0.1]:{p}/v1",
    "http://[64:ff9b::7f00:1]:{p}/v1",
    "http://[64:ff9b:1::a00:1]:{p}/v1",
    "http://[2002:7f00:1::]:{p}/v1",
    "http://[2002:a00:1::1]:{p}/v1",
    "http://[2001:0:7f00:1::]:{p}/v1",
    "http://[2001:0:808:808:0:0:80ff:fffe]:{p}/v1",
    "http://[fc00::1]:{p}/v1",
    "http://[fe80::1]:{p}/v1",
    "http://[fec0::1]:{p}/v1",
    "http://[ff02::1]:{p}/v1",
    # zones and brackets
    "http://[::1%25lo]:{p}/v1",
    "http://[::1%lo]:{p}/v1",
    "http://[fe80::1%25eth0]:{p}/v1",
    "http://[::1]]:{p}/v1",
    "http://[[::1]]:{p}/v1",
    "http://[::1:{p}/v1",
    "http://::1:{p}/v1",
    "http://[127.0.0.1]:{p}/v1",
    "http://[localhost]:{p}/v1",
    "http://[v1.127.0.0.1]:{p}/v1",
    "http://[::1]127.0.0.1:{p}/v1",
    "http://127.0.0.1[::1]:{p}/v1",
    "http://[::1].suspect.test:{p}/v1",
    # userinfo and delimiters that parsers split differently
    "http://suspect.test@127.0.0.1:{p}/v1",
    "http://user:password@127.0.0.1:{p}/v1",
    "http://@127.0.0.1:{p}/v1",
    "http://127.0.0.1:{p}@suspect.test/v1",
    "http://suspect.test\\@127.0.0.1:{p}/v1",
    "http://suspect.test#@127.0.0.1:{p}/v1",
    "http://suspect.test?@127.0.0.1:{p}/v1",
    "http://127.0.0.1\\.suspect.test:{p}/v1",
    "http://127.0.0.1%2f.suspect.test:{p}/v1",
    "http://%31%32%37.0.0.1:{p}/v1",
    "http://127%2e0%2e0%2e1:{p}/v1",
    "http:127.0.0.1:{p}/v1",
    "http:///127.0.0.1:{p}/v1",
    "//127.0.0.1:{p}/v1",
    "http:/127.0.0.1:{p}/v1",
    "http:\\\\127.0.0.1:{p}/v1",
    " http://127.0.0.1:{p}/v1",
    "http://127.0.0.1:{p}/v1\r\nHost: suspect.test",
    "http://127.0.0.1\t:{p}/v1",
    "http://127.0.0.1\x00.suspect.test:{p}/v1",
    "http://127.0.0.1:{p}:80/v1",
    "http://127.0.0.1:0{p}/v1",
    "http://127.0.0.1:+{p}/v1",
    "http://127.0.0.1:/v1",
    "http://suspect.test:22/v1",
    "http://suspect.test:0/v1",
    "http://suspect.test:65536/v1",
    "http://suspect.test/v1/../../admin",
    # schemes
    "ftp://127.0.0.1:{p}/v1",
    "gopher://127.0.0.1:{p}/_GET%20/",
    "file:///etc/passwd",
    "dict://127.0.0.1:{p}/info",
    "ldap://127.0.0.1:{p}/",
    "unix:///var/run/docker.sock",
    "http+unix://%2fvar%2frun%2fdocker.sock/v1",
    "data:text/plain,Yes",
    "javascript:alert(1)",
    "jar:http://127.0.0.1:{p}!/",
    "ws://127.0.0.1:{p}/v1",
    "localhost:{p}/v1",
    "https://127.0.0.1:{p}/v1",
    "HTTP://127.0.0.1:{p}/v1",
    # a name that is local without any server
    "https://[::1]:{p}/v1",
]
LOCAL_NAMES = ["localhost", "LOCALHOST", "localhost."]

NAMES: dict[str, str] = {
    # name -> what becomes of it: the API's refusal, or the reason of the audit
    "loopback.test": REFUSED,
    "loopback6.test": REFUSED,
    "mapped.test": REFUSED,
    "nat64.test": REFUSED,
    "metadata.test": REFUSED,
    "zero.test": REFUSED,
    "mixed.test": REFUSED,
    "mixed6.test": REFUSED,
    "split.test": REFUSED,
    "alias.test": REFUSED,
    "alias-chain.test": REFUSED,
    "xn--lcalhost-54a.test": REFUSED,
    "rebind.test": "suspect_not_allowed",
    "rebind-split.test": "suspect_not_allowed",
    "rebind-alias.test": "suspect_not_allowed",
    "rebind-late.test": "unreached",
    "many.test": "suspect_dns",
    "empty.test": "suspect_dns",
    "none.test": "suspect_dns",
    "stray.test": "suspect_dns",
    "silent.test": "suspect_dns",
    "slow.test": "suspect_dns",
    "localhost": "suspect_dns",
}


def _zone(name: str, kind: str, before: int) -> Records:
    """What the resolver that an attacker controls answers; TTL 0 throughout."""
    if name == "silent.test":
        raise Silence
    if name == "slow.test":
        time.sleep(3)
    private = {"A": "127.0.0.1", "AAAA": "::1"}[kind]
    # the API asks first, the worker second, and nobody a third time
    rebound = private if before else PUBLIC
    rows: dict[str, dict[str, list[str]]] = {
        "loopback.test": {"A": ["127.0.0.1"]},
        "loopback6.test": {"AAAA": ["::1"]},
        "mapped.test": {"AAAA": ["::ffff:127.0.0.1"]},
        "nat64.test": {"AAAA": ["64:ff9b::7f00:1"]},
        "metadata.test": {"A": ["169.254.169.254"]},
        "zero.test": {"A": ["0.0.0.0"]},
        "mixed.test": {"A": ["8.8.8.8", "127.0.0.1"]},
        "mixed6.test": {"AAAA": [PUBLIC, "::1"]},
        "split.test": {"A": ["127.0.0.1"], "AAAA": [PUBLIC]},
        "xn--lcalhost-54a.test": {"A": ["127.0.0.1"]},
        "rebind.test": {"AAAA": [rebound]},
        "rebind-split.test": {"AAAA": [PUBLIC], "A": ["127.0.0.1"] if before else []},
        "rebind-late.test": {"AAAA": [PUBLIC if before < 2 else "::1"]},
        "many.test": {"A": [f"8.8.8.{n}" for n in range(16)], "AAAA": ["::1"]},
        "empty.test": {},
        "slow.test": {"A": ["127.0.0.1"]},
        "allowed.test": {"A": ["127.0.0.1"]},
        "tls.test": {"A": ["127.0.0.1"]},
    }
    aliases = {
        "alias.test": (["localhost"], "127.0.0.1"),
        "alias-chain.test": (["a.test", "b.test", "localhost"], "127.0.0.1"),
        "rebind-alias.test": (["public.test"], "127.0.0.1" if before else ""),
    }
    if name == "stray.test":
        return [f"other.test. 0 IN {kind} {private}"]
    if name == "rebind-alias.test" and not before:
        return ["rebind-alias.test. 0 IN CNAME p.test."] + (
            [f"p.test. 0 IN AAAA {PUBLIC}"] * (kind == "AAAA")
        )
    if name in aliases:
        chain, address = aliases[name]
        links = [name, *chain]
        lines = [f"{a}. 0 IN CNAME {b}." for a, b in pairwise(links)]
        return lines + ([f"{chain[-1]}. 0 IN A {address}"] * (kind == "A"))
    if name not in rows:
        return None
    return [f"{name}. 0 IN {kind} {address}" for address in rows[name].get(kind, [])]


@dataclass(slots=True, kw_only=True)
class Canary:
    """One port on every local address, IPv4 and IPv6."""

    four: WireSuspect
    six: WireSuspect

    @property
    def port(self) -> int:
        return self.four.port

    @property
    def connections(self) -> int:
        return self.four.connections + self.six.connections


@contextmanager
def _canary() -> Iterator[Canary]:
    # the second socket takes the first one's number; another program may have it, so try again
    for _ in range(20):
        with wire_suspect(host="0.0.0.0") as four:
            try:
                with wire_suspect(port=four.port, host="::") as six:
                    yield Canary(four=four, six=six)
                    return
            except OSError:
                continue
    pytest.fail("no port that is free in both families")


@pytest.fixture
def canary() -> Iterator[Canary]:
    with _canary() as found:
        yield found


@pytest.fixture
def suspect() -> Iterator[WireSuspect]:
    """The one that the operator allows."""
    with wire_suspect() as found:
        yield found


@pytest.fixture
def dns() -> Iterator[LocalDns]:
    with local_dns(_zone) as found:
        yield found


@dataclass(slots=True, kw_only=True)
class Site:
    """The API and a worker under one operator's settings."""

    http: httpx2.AsyncClient
    place: Workplace
    settings: Settings
    key: str = ""
    reasons: list[str] = field(default_factory=list)

    async def drive(self, url: str) -> str:
        """Through the API and, if it may pass, through the worker. REFUSED, or the audit's last reason."""
        plan = {
            "probes_per_cue": 1,
            "concurrency": 32,
            "retries": 0,
            "probe_timeout_seconds": 6,
            "total_timeout_seconds": 8,
        }
        body = {"watermark": self.key, "suspect": {"base_url": url, "model": "m"}, "plan": plan}
        response = await self.http.post("/v1/verify", json=body)
        if response.status_code == 400:
            assert response.json()["error"]["param"] == "suspect.base_url", (url, response.text)
            return REFUSED
        assert response.status_code == 200, (url, response.text)
        verification = response.json()["id"]
        await asyncio.to_thread(verify_run, self.place, verification)
        found = (await self.http.get(f"/v1/verifications/{verification}")).json()
        assert (found["status"], found["verdict"]) == ("succeeded", "inconclusive"), (url, found)
        reason: str = found["reasons"][-1]
        return reason


@pytest.fixture
async def sites(
    owner: Account, settings: Settings, dns: LocalDns, suspect: WireSuspect
) -> AsyncIterator[dict[str, Site]]:
    """``system``: as installed; ``dns``: the operator has named DNS servers."""
    allow = f"{suspect.host_port},allowed.test:{suspect.port},tls.test:{suspect.port}"
    allowed = settings.model_copy(update={"suspect_allow": allow})
    key = (await owner.http.post("/v1/watermarks", json={})).json()["id"]
    headers = {"authorization": f"Bearer {owner.api_key}"}
    found: dict[str, Site] = {}
    async with AsyncExitStack() as stack:
        for name, servers in (("system", ""), ("dns", f"127.0.0.1:{dns.port}")):
            its = allowed.model_copy(update={"dns_servers": servers})
            app = create_app(its)
            await stack.enter_async_context(app.router.lifespan_context(app))
            transport = httpx2.ASGITransport(app=app)
            client = httpx2.AsyncClient(transport=transport, base_url="http://x", headers=headers)
            await stack.enter_async_context(client)
            found[name] = Site(
                http=client,
                place=open_workplace(its, shutting_down=lambda: False),
                settings=its,
                key=key,
            )
        yield found


async def test_every_spelling_of_a_private_address_is_refused(
    sites: dict[str, Site], canary: Canary, suspect: WireSuspect
) -> None:
    """More than 60 rows; with the system's resolver and with the operator's servers alike."""
    assert len(set(LITERALS)) == len(LITERALS) >= 60
    for row in LITERALS:
        url = row.replace("{p}", str(canary.port))
        for name, site in sites.items():
            assert await site.drive(url) == REFUSED, (name, url)
    for host in LOCAL_NAMES:
        assert await sites["system"].drive(f"http://{host}:{canary.port}/v1") == REFUSED
    assert canary.connections == 0
    assert suspect.connections == 0


async def test_whatever_a_name_resolves_to_nothing_private_is_connected_to(
    sites: dict[str, Site], canary: Canary, dns: LocalDns
) -> None:
    for host, expected in NAMES.items():
        outcome = await sites["dns"].drive(f"http://{host}:{canary.port}/v1")
        if expected == "unreached":
            assert outcome in ("suspect_unreachable", "suspect_timeout", "suspect_refused"), (host, outcome)
        else:
            assert outcome == expected, host
    assert canary.connections == 0
    # once by the API and once by the worker: the address that was judged is the one that was dialled
    assert dns.asked["rebind-late.test", "AAAA"] == 2
    assert dns.asked["rebind.test", "AAAA"] == 2


def _redirect(status: int, location: str) -> bytes:
    return http_reply(b"", status=f"{status} Moved", headers=f"Location: {location}\r\n")


async def test_no_redirect_is_followed_to_anywhere(
    sites: dict[str, Site], canary: Canary, suspect: WireSuspect
) -> None:
    """Every status, other schemes and hosts, a page that reloads elsewhere, headers that hint elsewhere."""
    there = f"127.0.0.1:{canary.port}"
    page = f'<html><meta http-equiv="refresh" content="0;url=http://{there}/"></html>'.encode()
    rows: list[tuple[bytes, str]] = [
        *(
            (_redirect(status, f"http://{there}/v1"), "suspect_redirect")
            for status in (301, 302, 303, 307, 308)
        ),
        (_redirect(300, f"http://{there}/v1"), "suspect_redirect"),
        (_redirect(307, f"//{there}/v1"), "suspect_redirect"),
        (_redirect(302, f"gopher://{there}/_x"), "suspect_redirect"),
        (_redirect(302, "file:///etc/passwd"), "suspect_redirect"),
        (_redirect(302, f"http://[::1]:{canary.port}/"), "suspect_redirect"),
        (http_reply(page, headers="Content-Type: text/html\r\n"), "suspect_not_json"),
        (http_reply(page, headers=f"Refresh: 0;url=http://{there}/\r\n"), "suspect_not_json"),
        (http_reply(b"{}", headers=f"Location: http://{there}/\r\n"), "suspect_no_answer"),
        (http_reply(b"{}", headers=f"Link: <http://{there}/>; rel=preload\r\n"), "suspect_no_answer"),
        (http_reply(b"{}", headers=f'Alt-Svc: h2="{there}"\r\n'), "suspect_no_answer"),
    ]
    for reply, expected in rows:
        suspect.behaviour = lambda request, reply=reply: reply  # type: ignore[misc]
        suspect.forget()
        assert await sites["system"].drive(f"http://{suspect.host_port}/v1") == expected
        assert suspect.connections > 0
    assert canary.connections == 0


async def test_a_redirect_from_tls_to_plain_is_not_followed(
    sites: dict[str, Site], canary: Canary, dns: LocalDns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The suspect has a certificate that the worker trusts; its redirect leads to the canary without TLS."""
    server, bundle = _certificate("tls.test", tmp_path)
    monkeypatch.setattr("probe.transport.certifi.where", lambda: str(bundle))
    requests: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(_redirect(307, f"http://127.0.0.1:{canary.port}/v1"))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(handler, "127.0.0.1", 0, ssl=server) as listening:
        port = listening.sockets[0].getsockname()[1]
        site = sites["dns"]
        widened = site.settings.model_copy(update={"suspect_allow": f"tls.test:{port}"})
        app = create_app(widened)
        async with app.router.lifespan_context(app):
            transport = httpx2.ASGITransport(app=app)
            async with httpx2.AsyncClient(
                transport=transport, base_url="http://x", headers=site.http.headers
            ) as client:
                its = replace(site, http=client, place=open_workplace(widened, shutting_down=lambda: False))
                assert await its.drive(f"https://tls.test:{port}/v1") == "suspect_redirect"
    assert requests
    assert canary.connections == 0


def _certificate(name: str, folder: Path) -> tuple[ssl.SSLContext, Path]:
    """(the server's context, the file of roots that trusts it)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    own, roots = folder / "own.pem", folder / "roots.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    own.write_bytes(private + made.public_bytes(Encoding.PEM))
    roots.write_bytes(made.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own)
    return context, roots


async def test_what_the_operator_allowed_is_reached_by_address_and_by_name(
    sites: dict[str, Site], canary: Canary, suspect: WireSuspect
) -> None:
    """The control: the same machinery does connect to loopback when it may, and the canary does count."""
    suspect.behaviour = lambda request: json_reply({"no": "answer"})
    for name, host in (("system", "127.0.0.1"), ("dns", "127.0.0.1"), ("dns", "allowed.test")):
        suspect.forget()
        assert await sites[name].drive(f"http://{host}:{suspect.port}/v1") == "suspect_no_answer"
        assert suspect.connections > 0
        assert suspect.requests[0].headers["host"] == f"{host}:{suspect.port}"
    for address in ("127.0.0.1", "127.0.0.2", "::1"):
        _, writer = await asyncio.open_connection(address, canary.port)
        writer.close()
    await asyncio.sleep(0.2)
    assert canary.connections == 3


def _numbers_of(address: IPv4Address) -> list[str]:
    """Spellings of an IPv4 address that some resolver or other reads."""
    number, parts = int(address), str(address).split(".")
    return [
        str(address),
        f"{address}.",
        str(number),
        hex(number),
        f"0{number:o}",
        ".".join(hex(int(part)) for part in parts),
        ".".join(f"0{int(part):o}" for part in parts),
        f"{parts[0]}.{int(address) & 0xFFFFFF}",
        f"{parts[0]}.{parts[1]}.{int(address) & 0xFFFF}",
        str(address).translate(str.maketrans("123456789", "①②③④⑤⑥⑦⑧⑨")),
        str(address).translate(str.maketrans("0123456789.", "０１２３４５６７８９。")),
        f"[::ffff:{address}]",
        f"[::{address}]",
        f"[64:ff9b::{address}]",
        f"[2002:{number >> 16:x}:{number & 0xFFFF:x}::]",
        f"[::ffff:0:{number >> 16:x}:{number & 0xFFFF:x}]",
        f"[::ffff:{number >> 16:x}:{number & 0xFFFF:x}%25lo]",
    ]


LOCAL = st.sampled_from(["127.0.0.1", "127.9.8.7", "0.0.0.0", "10.0.0.1", "169.254.169.254"])
HOSTS = (
    LOCAL.map(IPv4Address).map(_numbers_of).flatmap(st.sampled_from)
    | st.sampled_from(
        ["suspect.test", "localhost", "LocalHost.", "[::1]", "[0::0:1]", "[fe80::1%25lo]", "a.b."]
    )
    | st.text(alphabet="0x1f7.:[]@%2elocahst①。", min_size=1, max_size=20)
)
ANSWERS = st.lists(
    st.sampled_from(
        ["127.0.0.1", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "10.1.2.3", "8.8.8.8", PUBLIC]
    )
    | st.ip_addresses().map(str),
    max_size=4,
)


@st.composite
def _urls(draw: st.DrawFn) -> str:
    """A URL that leads, or nearly leads, to the canary's port (``{p}``)."""
    scheme = draw(st.sampled_from(["http://"] * 4 + ["https://", "HTTP://", "http:", "http:\\\\", "//", ""]))
    user = draw(st.sampled_from([""] * 4 + ["a@", "a:b@", "suspect.test#@", "suspect.test\\@", "%40"]))
    port = draw(st.sampled_from([":{p}", ":{p}", ":0{p}", ":{p}/", ""]))
    path = draw(st.sampled_from(["", "/v1", "/v1/", "/..", "/%2e%2e/", "?x", "#x", "/\r\nX: y", "//a.test"]))
    return scheme + user + draw(HOSTS) + port + path


WRAPPERS = {IPv6Network("::/96"): 0, IPv6Network("::ffff:0:0/96"): 0, IPv6Network("64:ff9b::/96"): 0} | {
    IPv6Network("2002::/16"): 80
}
"""Networks that carry an IPv4 address -> how many bits stand after it."""


def _is_local(text: str) -> bool:
    """Another judgement than the product's: the address, or an IPv4 address inside it, is not global."""
    address = ip_address(text)
    if isinstance(address, IPv6Address):
        for network, after in WRAPPERS.items():
            if address in network and not IPv4Address(int(address) >> after & 0xFFFFFFFF).is_global:
                return True
    return not address.is_global


@pytest.fixture(scope="module")
def lasting_canary() -> Iterator[Canary]:
    with _canary() as found:
        yield found


@pytest.fixture(scope="module")
def told_dns() -> Iterator[tuple[LocalDns, list[str]]]:
    """A server that answers every question with the addresses in the list."""
    told: list[str] = []

    def zone(name: str, kind: str, before: int) -> Records:
        of_kind = [item for item in told if (":" in item) == (kind == "AAAA")]
        return [f"{name}. 0 IN {kind} {address}" for address in of_kind]

    with local_dns(zone) as found:
        yield found, told


@hypothesis_settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(url=_urls(), answers=ANSWERS)
def test_no_generated_url_with_any_generated_answer_reaches_the_canary(
    lasting_canary: Canary, told_dns: tuple[LocalDns, list[str]], url: str, answers: list[str]
) -> None:
    """What passes is public by another judgement too, and then only what was judged is dialled."""
    server, told = told_dns
    told[:] = answers
    asyncio.run(_check_and_dial(url.replace("{p}", str(lasting_canary.port)), server, told))
    assert lasting_canary.connections == 0


async def _check_and_dial(url: str, server: LocalDns, told: list[str]) -> None:
    request = SuspectRequest(base_url=url, model="m", api=Api.chat)
    servers = [server.address]
    try:
        target = await resolve_and_vet(await check_suspect(request, (), servers=servers), (), servers=servers)
    except (InvalidRequest, ProbeError):
        return
    assert not any(_is_local(address) for address in target.addresses), target
    # from here on the name leads to the canary, and nobody asks
    told[:] = ["127.0.0.1", "::1"]
    if all(ip_address(address) in NOBODYS for address in target.addresses):
        async with SuspectChannel(target, "/v1", connect_seconds=0.2) as channel:
            with pytest.raises(ProbeError):
                await channel.post(b"{}", deadline_seconds=0.3)
