"""A timestamp authority for tests: real RFC 3161 replies, at any time that a test wants.

DER is written by hand (X.690): nothing that is installed issues timestamps, and a program that does
(`openssl ts`) knows no other time than now.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SEQUENCE, SET, INTEGER, OCTETS, OID = 0x30, 0x31, 0x02, 0x04, 0x06
SHA256 = "2.16.840.1.101.3.4.2.1"
ECDSA_SHA256 = "1.2.840.10045.4.3.2"
SIGNED_DATA = "1.2.840.113549.1.7.2"
TST_INFO = "1.2.840.113549.1.9.16.1.4"
CONTENT_TYPE = "1.2.840.113549.1.9.3"
MESSAGE_DIGEST = "1.2.840.113549.1.9.4"
SIGNING_CERTIFICATE_V2 = "1.2.840.113549.1.9.16.2.47"
POLICY = "1.3.6.1.4.1.32473.1"
"""Under the arc that RFC 5612 reserves for examples."""


def der(tag: int, *parts: bytes) -> bytes:
    """One value with its length."""
    content = b"".join(parts)
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def integer(value: int) -> bytes:
    return der(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def oid(dotted: str) -> bytes:
    first, second, *rest = map(int, dotted.split("."))
    content = bytes([40 * first + second])
    for arc in rest:
        digits = [arc & 0x7F]
        while arc := arc >> 7:
            digits.append(arc & 0x7F | 0x80)
        content += bytes(reversed(digits))
    return der(OID, content)


def attribute(kind: str, value: bytes) -> bytes:
    return der(SEQUENCE, oid(kind), der(SET, value))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a request asks for."""

    imprint: bytes
    nonce: int | None


def parts_of(data: bytes) -> list[tuple[int, bytes]]:
    """Tags and contents of the values in a row."""
    found = []
    while data:
        tag, size, start = data[0], data[1], 2
        if size & 0x80:
            start += size & 0x7F
            size = int.from_bytes(data[2:start], "big")
        found.append((tag, data[start : start + size]))
        data = data[start + size :]
    return found


def read_request(body: bytes) -> Asked:
    """TimeStampReq: version, imprint, and perhaps policy, nonce, certReq."""
    ((_, request),) = parts_of(body)
    _, (_, imprint), *optional = parts_of(request)
    _, (_, digest) = parts_of(imprint)
    nonces = [int.from_bytes(content, "big") for tag, content in optional if tag == INTEGER]
    return Asked(imprint=digest, nonce=nonces[0] if nonces else None)


@dataclass
class Authority:
    """A root, and a certificate for time stamping below it."""

    name: str = "test authority"
    serial: int = 1
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        root_key = ec.generate_private_key(ec.SECP256R1())
        start = datetime(2020, 1, 1, tzinfo=UTC)
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{self.name} root")])
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])

        def builder(subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
            return (
                x509.CertificateBuilder()
                .issuer_name(issuer)
                .subject_name(subject)
                .public_key(key)
                .serial_number(x509.random_serial_number())
                .not_valid_before(start)
                .not_valid_after(start + timedelta(days=365 * 30))
                .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
                .add_extension(
                    x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False
                )
            )

        def usage(*, signs_certificates: bool) -> x509.KeyUsage:
            return x509.KeyUsage(
                digital_signature=not signs_certificates,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=signs_certificates,
                crl_sign=signs_certificates,
                encipher_only=False,
                decipher_only=False,
            )

        self.root = (
            builder(issuer, root_key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage(signs_certificates=True), critical=True)
            .sign(root_key, hashes.SHA256())
        )
        self.certificate = (
            builder(subject, self.key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True)
            .sign(root_key, hashes.SHA256())
        )

    @property
    def pem(self) -> str:
        """The root, as it is handed out."""
        return self.root.public_bytes(Encoding.PEM).decode()

    def stamp(self, text: str, at: datetime) -> bytes:
        """A reply over the SHA-256 of a text, at a time."""
        return self.reply(Asked(imprint=sha256(text.encode()).digest(), nonce=None), at)

    def reply(self, asked: Asked, at: datetime) -> bytes:
        """TimeStampResp of RFC 3161, section 2.4.2: granted, and the token."""
        self.serial += 1
        algorithm = der(SEQUENCE, oid(SHA256))
        info = der(
            SEQUENCE,
            integer(1),
            oid(POLICY),
            der(SEQUENCE, algorithm, der(OCTETS, asked.imprint)),
            integer(self.serial),
            der(0x18, at.astimezone(UTC).strftime("%Y%m%d%H%M%SZ").encode()),
            b"" if asked.nonce is None else integer(asked.nonce),
        )
        certificate = self.certificate.public_bytes(Encoding.DER)
        attributes = sorted(
            (
                attribute(CONTENT_TYPE, oid(TST_INFO)),
                attribute(MESSAGE_DIGEST, der(OCTETS, sha256(info).digest())),
                attribute(
                    SIGNING_CERTIFICATE_V2,
                    der(SEQUENCE, der(SEQUENCE, der(SEQUENCE, der(OCTETS, sha256(certificate).digest())))),
                ),
            )
        )
        signature = self.key.sign(der(SET, *attributes), ec.ECDSA(hashes.SHA256()))
        signer = der(
            SEQUENCE,
            integer(1),
            der(SEQUENCE, self.certificate.issuer.public_bytes(), integer(self.certificate.serial_number)),
            algorithm,
            der(0xA0, *attributes),
            der(SEQUENCE, oid(ECDSA_SHA256)),
            der(OCTETS, signature),
        )
        signed = der(
            SEQUENCE,
            integer(3),
            der(SET, algorithm),
            der(SEQUENCE, oid(TST_INFO), der(0xA0, der(OCTETS, info))),
            der(0xA0, certificate),
            der(SET, signer),
        )
        token = der(SEQUENCE, oid(SIGNED_DATA), der(0xA0, signed))
        return der(SEQUENCE, der(SEQUENCE, integer(0)), token)


REFUSAL = der(SEQUENCE, der(SEQUENCE, integer(2)))
"""A reply that grants nothing."""


@dataclass
class Served:
    """An authority that answers on the loopback address."""

    url: str
    authority: Authority
    asked: list[bytes] = field(default_factory=list)
    answer: bytes | None = None
    """what it says instead of a stamp"""


@contextmanager
def serving(authority: Authority) -> Iterator[Served]:
    """Stamps with the present time until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            served.asked.append(body)
            assert self.headers["content-type"] == "application/timestamp-query"
            reply = served.answer
            if reply is None:
                reply = authority.reply(read_request(body), datetime.now(UTC))
            self.send_response(200)
            self.send_header("content-type", "application/timestamp-reply")
            self.send_header("content-length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served = Served(url=f"http://127.0.0.1:{server.server_address[1]}/tsa", authority=authority)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()
