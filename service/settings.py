"""The service's configuration: one frozen object, built once and passed down."""

from __future__ import annotations

import base64
import os
import re
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509 import Certificate, load_pem_x509_certificates
from pydantic import Field, SecretStr, computed_field
from pydantic_settings import BaseSettings, SettingsConfigDict

from evidence.errors import NoteInvalid
from evidence.log.note import Kind, PublicKey, Signer
from evidence.log.witness import parse_keys

_DNS_SERVER = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<bare>[0-9.]+))(?::(?P<port>[0-9]{1,5}))?")


_WITNESS_ADDRESS = re.compile(r"https?://[^\s/?#@]+(/[^\s?#]*)?")

SEED_BYTES = 32
MAX_WITNESSES = 16
"""A note has room for so many signatures, and every checkpoint asks them all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """This service as a witness of other logs."""

    signer: Signer
    logs: tuple[PublicKey, ...]
    """whose checkpoints it cosigns; several keys of one name while that log's key is changed"""


def _default_model_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "doublei" / "models"


@dataclass(frozen=True, slots=True, kw_only=True)
class TimestampAuthority:
    """Who stamps, and under which roots its stamps are believed."""

    url: str
    roots: tuple[Certificate, ...]


class SettingsError(Exception):
    """The configuration can't be used; the message names the variable and what to do."""


class Settings(BaseSettings):
    """Read from the environment and from ``.env``; nothing here has a secret default."""

    # An empty variable is one that is not set: docker compose passes on what the operator left out.
    model_config = SettingsConfigDict(frozen=True, env_file=".env", extra="ignore", env_ignore_empty=True)

    database_url: SecretStr = Field(alias="DATABASE_URL")
    """postgresql+psycopg://…; secret because it may carry a password."""
    redis_url: SecretStr = Field(alias="REDIS_URL")
    storage_dir: Path = Field(alias="DOUBLEI_STORAGE_DIR")
    model_cache: Path = Field(default_factory=_default_model_cache, alias="DOUBLEI_MODEL_CACHE")
    catalogue_file: Path | None = Field(default=None, alias="DOUBLEI_CATALOGUE_FILE")
    kek_file: Path = Field(alias="DOUBLEI_KEK_FILE")
    """0600 file holding the 32-byte key-encryption key in base64; while it is changed, the new one and below
    it the old one."""
    log_key_file: Path | None = Field(default=None, alias="DOUBLEI_LOG_KEY_FILE")
    """0600 file: the transparency log's name, and below it the 32-byte seed of its key in base64; while it is
    changed, the next one's below that. The API signs; nothing else needs it."""
    log_origin: str = Field(default="", alias="DOUBLEI_LOG_ORIGIN")
    """The log's name, where it is not to be the one in the file."""
    evidence_key_file: Path | None = Field(default=None, alias="DOUBLEI_EVIDENCE_KEY_FILE")
    """0600 file: the 32-byte seed of the key that signs bundles, in base64. The API alone needs it."""
    tsa_url: str = Field(default="", alias="DOUBLEI_TSA_URL")
    """A timestamp authority (RFC 3161) that stamps the log's checkpoints; none if empty."""
    tsa_ca_file: Path | None = Field(default=None, alias="DOUBLEI_TSA_CA_FILE")
    """PEM file with the authority's root certificate: no stamp is kept that does not verify under it."""
    log_witnesses_file: Path | None = Field(default=None, alias="DOUBLEI_LOG_WITNESSES")
    """File of the witnesses that are asked to cosign the log's checkpoints: a public key and an address a
    line."""
    witness_timeout_seconds: float = Field(default=3.0, gt=0, le=60, alias="DOUBLEI_WITNESS_SECONDS")
    """How long a checkpoint waits for its witnesses before it is served without them."""
    witness_key_file: Path | None = Field(default=None, alias="DOUBLEI_WITNESS_KEY_FILE")
    """0600 file: this service's name as a witness of other logs, and below it its key's seed in base64."""
    witnessed_logs_file: Path | None = Field(default=None, alias="DOUBLEI_WITNESSED_LOGS")
    """File of the public keys of the logs that this service witnesses, a line each; without it, it witnesses
    none."""
    serving_url: str = Field(alias="DOUBLEI_SERVING_URL")
    serving_token_file: Path = Field(alias="DOUBLEI_SERVING_TOKEN_FILE")
    suspect_allow: str = Field(default="", alias="DOUBLEI_SUSPECT_ALLOW")
    """Comma-separated host:port of private addresses that may be probed nevertheless."""
    dns_servers: str = Field(default="", alias="DOUBLEI_DNS_SERVERS")
    """Comma-separated address[:port] of the DNS servers that suspects' names are asked of."""
    public_url: str = Field(default="http://127.0.0.1:8000", alias="DOUBLEI_PUBLIC_URL")
    max_file_bytes: int = Field(default=512 * 1024 * 1024, alias="DOUBLEI_MAX_FILE_BYTES")
    public_docs: bool = Field(default=False, alias="DOUBLEI_PUBLIC_DOCS")
    """Serve /docs and /openapi.json to anybody."""
    checkpoint_seconds: float = Field(default=60.0, gt=0, alias="DOUBLEI_CHECKPOINT_SECONDS")
    """How much of a training a killed worker may cost. Later where one takes more than 1% of that time."""
    checkpoint_steps: int | None = Field(default=None, ge=1, alias="DOUBLEI_CHECKPOINT_STEPS")
    """A checkpoint also after every so many steps, whatever it costs."""
    checkpoints_kept: int = Field(default=2, ge=1, le=1000, alias="DOUBLEI_CHECKPOINTS_KEPT")
    """The newest so many of a job."""
    checkpoint_retention_seconds: float = Field(
        default=7 * 24 * 3600, ge=0, alias="DOUBLEI_CHECKPOINT_RETENTION_SECONDS"
    )
    """How long `doublei gc` leaves what a failed job could have gone on from."""
    gc_seconds: float = Field(default=24 * 3600, ge=0, alias="DOUBLEI_GC_SECONDS")
    """How often what nobody needs any more is removed; 0: never by itself."""
    device_slots: int = Field(default=1, ge=1, le=64, alias="DOUBLEI_DEVICE_SLOTS")
    """How many trainings may share one GPU, or this machine's processors where there is none."""
    lease_seconds: int = Field(default=30, alias="DOUBLEI_LEASE_SECONDS")
    retry_seconds: float = Field(default=15.0, ge=0, le=3600, alias="DOUBLEI_RETRY_SECONDS")
    """How long a job waits after its first failed attempt; eight times longer after each further one."""
    watchdog_seconds: float = Field(default=12.0, ge=0, alias="DOUBLEI_WATCHDOG_SECONDS")
    """After so long an idle worker that hears no message while rows wait ends itself; 0: never."""
    metrics_address: str = Field(default="", alias="DOUBLEI_METRICS_ADDRESS")
    """host:port where this process shows its metrics; empty: nowhere. Each process needs its own."""
    metrics_token_file: Path | None = Field(default=None, alias="DOUBLEI_METRICS_TOKEN_FILE")
    """0600 file: what to send to read them. Without it the address must be a loopback one."""
    ready_file: Path | None = Field(default=None, alias="DOUBLEI_READY_FILE")
    """A worker touches it once it takes messages; its supervisor and its container's health check look."""

    @computed_field(repr=False)  # type: ignore[prop-decorator]
    @property
    def suspect_allow_list(self) -> frozenset[tuple[str, int]]:
        """The operator's exceptions to the private-address rule, as (host, port)."""
        pairs: set[tuple[str, int]] = set()
        for item in filter(None, (part.strip() for part in self.suspect_allow.split(","))):
            host, _, port = item.rpartition(":")
            if not host or not port.isdigit():
                raise SettingsError(f"DOUBLEI_SUSPECT_ALLOW: {item!r} is not host:port")
            pairs.add((host.strip("[]").lower(), int(port)))
        return frozenset(pairs)

    @computed_field(repr=False)  # type: ignore[prop-decorator]
    @property
    def dns_server_list(self) -> tuple[tuple[str, int], ...]:
        """The operator's DNS servers as (address, port); none means the system's resolver."""
        servers: list[tuple[str, int]] = []
        for item in filter(None, (part.strip() for part in self.dns_servers.split(","))):
            match = _DNS_SERVER.fullmatch(item)
            try:
                if match is None:
                    raise ValueError
                port = int(match["port"] or 53)
                if not 1 <= port <= 65535:
                    raise ValueError
                servers.append((str(ip_address(match["six"] or match["bare"])), port))
            except ValueError:
                raise SettingsError(f"DOUBLEI_DNS_SERVERS: {item!r} is not address[:port]") from None
        return tuple(servers)

    @property
    def metrics_host_port(self) -> tuple[str, int] | None:
        """Where metrics are shown.

        Raises:
            SettingsError: it is not host:port.
        """
        if not self.metrics_address:
            return None
        host, _, port = self.metrics_address.rpartition(":")
        if not host or not port.isdigit() or not 0 <= int(port) <= 65535:
            raise SettingsError(f"DOUBLEI_METRICS_ADDRESS: {self.metrics_address!r} is not host:port")
        return host.strip("[]"), int(port)

    @property
    def kek(self) -> SecretStr:
        """The key-encryption keys in base64, a line each, the one that seals first; read at each call."""
        try:
            text = self.kek_file.read_text(encoding="ascii").strip()
            keys = [base64.b64decode(line, validate=True) for line in text.split()] or [b""]
        except (OSError, ValueError) as error:
            reason = type(error).__name__
            raise SettingsError(f"DOUBLEI_KEK_FILE: can't read a base64 key: {reason}") from None
        for raw in keys:
            if len(raw) != 32:
                raise SettingsError(f"DOUBLEI_KEK_FILE: the key has {len(raw)} bytes, not 32")
        return SecretStr(text)

    def log_signers(self) -> tuple[Signer, ...]:
        """What signs the log's checkpoints, read from its file at each call; two while the key is changed.

        Raises:
            SettingsError: there is no such file, or it holds no key.
        """
        if self.log_key_file is None:
            raise SettingsError("missing or invalid settings: DOUBLEI_LOG_KEY_FILE (see .env.example)")
        return _signers(
            self.log_key_file, Kind.log, variable="DOUBLEI_LOG_KEY_FILE", name=self.log_origin or None
        )

    @property
    def log_signer(self) -> Signer:
        """The first of `log_signers`: the one that signs, unless the log names the other."""
        return self.log_signers()[0]

    def witness(self) -> Witness | None:
        """This service as a witness; None: it is none.

        Raises:
            SettingsError: it is to be one, and a file is missing or can't be read.
        """
        if self.witnessed_logs_file is None:
            return None
        logs = _keys(self.witnessed_logs_file, Kind.log, variable="DOUBLEI_WITNESSED_LOGS")
        if self.witness_key_file is None:
            raise SettingsError("missing or invalid settings: DOUBLEI_WITNESS_KEY_FILE (see .env.example)")
        signer, *more = _signers(self.witness_key_file, Kind.witness, variable="DOUBLEI_WITNESS_KEY_FILE")
        if more:
            raise SettingsError("DOUBLEI_WITNESS_KEY_FILE: a witness has one key")
        return Witness(signer=signer, logs=tuple(key for key, _ in logs))

    def log_witnesses(self) -> tuple[tuple[PublicKey, str], ...]:
        """The witnesses of this service's own log: key, and address without a slash at its end.

        Raises:
            SettingsError: their file can't be read, or names one without an address.
        """
        variable = "DOUBLEI_LOG_WITNESSES"
        if self.log_witnesses_file is None:
            return ()
        found = _keys(self.log_witnesses_file, Kind.witness, variable=variable)
        if len(found) > MAX_WITNESSES:
            raise SettingsError(f"{variable}: more than {MAX_WITNESSES} witnesses")
        for key, address in found:
            if not _WITNESS_ADDRESS.fullmatch(address):
                raise SettingsError(f"{variable}: behind {key.name}'s key there is no http or https address")
        return tuple((key, address.rstrip("/")) for key, address in found)

    @property
    def evidence_signer(self) -> Ed25519PrivateKey:
        """What signs bundles, read from its file each time: it may be changed while the API runs.

        Raises:
            SettingsError: there is no such file, or it holds no key.
        """
        if self.evidence_key_file is None:
            raise SettingsError("missing or invalid settings: DOUBLEI_EVIDENCE_KEY_FILE (see .env.example)")
        try:
            seed = base64.b64decode(self.evidence_key_file.read_text(encoding="ascii").strip(), validate=True)
        except (OSError, ValueError) as error:
            reason = type(error).__name__
            raise SettingsError(f"DOUBLEI_EVIDENCE_KEY_FILE: can't read a base64 key: {reason}") from None
        if len(seed) != SEED_BYTES:
            raise SettingsError(f"DOUBLEI_EVIDENCE_KEY_FILE: the key has {len(seed)} bytes, not {SEED_BYTES}")
        return Ed25519PrivateKey.from_private_bytes(seed)

    @cached_property
    def timestamp_authority(self) -> TimestampAuthority | None:
        """Who stamps the log's checkpoints; None if nobody is to.

        Raises:
            SettingsError: the address is none, or there is no root certificate to check stamps with.
        """
        if not self.tsa_url:
            return None
        parts = urlsplit(self.tsa_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise SettingsError("DOUBLEI_TSA_URL: give an http or https address without a user name in it")
        if self.tsa_ca_file is None:
            raise SettingsError(
                "DOUBLEI_TSA_CA_FILE: name a file with the authority's root certificate (PEM)"
            )
        try:
            roots = tuple(load_pem_x509_certificates(self.tsa_ca_file.read_bytes()))
        except (OSError, ValueError) as error:
            reason = type(error).__name__
            raise SettingsError(f"DOUBLEI_TSA_CA_FILE: can't read PEM certificates: {reason}") from None
        return TimestampAuthority(url=self.tsa_url, roots=roots)

    def serving_token(self) -> str:
        """The internal token of the inference server. Never log it."""
        return self.serving_token_file.read_text(encoding="ascii").strip()


def _signers(file: Path, kind: Kind, *, variable: str, name: str | None = None) -> tuple[Signer, ...]:
    """A file's name and seeds; ``name`` takes the place of the one in the file."""
    try:
        written, *texts = file.read_text(encoding="ascii").split()
        seeds = [base64.b64decode(text, validate=True) for text in texts]
    except (OSError, ValueError) as error:
        reason = type(error).__name__
        raise SettingsError(f"{variable}: can't read a name and a key: {reason}") from None
    if not 1 <= len(seeds) <= 2:
        raise SettingsError(f"{variable}: can't read a name and a key: it has {len(seeds)} keys")
    for seed in seeds:
        if len(seed) != SEED_BYTES:
            raise SettingsError(f"{variable}: the key has {len(seed)} bytes, not {SEED_BYTES}")
    signers = tuple(Signer(name=name or written, kind=kind, seed=seed) for seed in seeds)
    try:
        PublicKey.from_text(str(signers[0].public))
    except NoteInvalid as error:
        raise SettingsError(f"{'DOUBLEI_LOG_ORIGIN' if name else variable}: {error}") from None
    return signers


def _keys(file: Path, kind: Kind, *, variable: str) -> list[tuple[PublicKey, str]]:
    try:
        return parse_keys(file.read_text(encoding="utf-8"), kind)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{variable}: can't read {file}: {type(error).__name__}") from None
    except NoteInvalid as error:
        raise SettingsError(f"{variable}: {file}: {error}") from None


def load_settings() -> Settings:
    """Build the settings from the environment.

    Raises:
        SettingsError: one line that names each missing or invalid variable.
    """
    from pydantic import ValidationError

    try:
        return Settings()  # type: ignore[call-arg]
    except ValidationError as error:
        names = ", ".join(str(item["loc"][0]) for item in error.errors())
        raise SettingsError(f"missing or invalid settings: {names} (see .env.example)") from None
