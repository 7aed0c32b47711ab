"""The service's configuration: one frozen object, built once and passed down."""

from __future__ import annotations

import base64
import os
import re
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path

from pydantic import Field, SecretStr, computed_field
from pydantic_settings import BaseSettings, SettingsConfigDict

from evidence.errors import NoteInvalid
from evidence.log.note import Kind, PublicKey, Signer

_DNS_SERVER = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<bare>[0-9.]+))(?::(?P<port>[0-9]{1,5}))?")


SEED_BYTES = 32


def _default_model_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "doublei" / "models"


class SettingsError(Exception):
    """The configuration can't be used; the message names the variable and what to do."""


class Settings(BaseSettings):
    """Read from the environment and from ``.env``; nothing here has a secret default."""

    model_config = SettingsConfigDict(frozen=True, env_file=".env", extra="ignore")

    database_url: SecretStr = Field(alias="DATABASE_URL")
    """postgresql+psycopg://…; secret because it may carry a password."""
    redis_url: SecretStr = Field(alias="REDIS_URL")
    storage_dir: Path = Field(alias="DOUBLEI_STORAGE_DIR")
    model_cache: Path = Field(default_factory=_default_model_cache, alias="DOUBLEI_MODEL_CACHE")
    catalogue_file: Path | None = Field(default=None, alias="DOUBLEI_CATALOGUE_FILE")
    kek_file: Path = Field(alias="DOUBLEI_KEK_FILE")
    """0600 file holding the 32-byte key-encryption key in base64."""
    log_key_file: Path | None = Field(default=None, alias="DOUBLEI_LOG_KEY_FILE")
    """0600 file: the transparency log's name, and below it the 32-byte seed of its key in base64. The API
    signs; nothing else needs it."""
    log_origin: str = Field(default="", alias="DOUBLEI_LOG_ORIGIN")
    """The log's name, where it is not to be the one in the file."""
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
    lease_seconds: int = Field(default=30, alias="DOUBLEI_LEASE_SECONDS")
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

    @cached_property
    def kek(self) -> SecretStr:
        """The key-encryption key, base64, read once from its file."""
        try:
            text = self.kek_file.read_text(encoding="ascii").strip()
            raw = base64.b64decode(text, validate=True)
        except (OSError, ValueError) as error:
            reason = type(error).__name__
            raise SettingsError(f"DOUBLEI_KEK_FILE: can't read a base64 key: {reason}") from None
        if len(raw) != 32:
            raise SettingsError(f"DOUBLEI_KEK_FILE: the key has {len(raw)} bytes, not 32")
        return SecretStr(text)

    @cached_property
    def log_signer(self) -> Signer:
        """What signs the log's checkpoints, read once from its file.

        Raises:
            SettingsError: there is no such file, or it holds no key.
        """
        if self.log_key_file is None:
            raise SettingsError("missing or invalid settings: DOUBLEI_LOG_KEY_FILE (see .env.example)")
        try:
            name, text = self.log_key_file.read_text(encoding="ascii").split()
            seed = base64.b64decode(text, validate=True)
        except (OSError, ValueError) as error:
            reason = type(error).__name__
            raise SettingsError(f"DOUBLEI_LOG_KEY_FILE: can't read a name and a key: {reason}") from None
        if len(seed) != SEED_BYTES:
            raise SettingsError(f"DOUBLEI_LOG_KEY_FILE: the key has {len(seed)} bytes, not {SEED_BYTES}")
        signer = Signer(name=self.log_origin or name, kind=Kind.log, seed=seed)
        try:
            PublicKey.from_text(str(signer.public))
        except NoteInvalid as error:
            raise SettingsError(f"DOUBLEI_LOG_ORIGIN: {error}") from None
        return signer

    def serving_token(self) -> str:
        """The internal token of the inference server. Never log it."""
        return self.serving_token_file.read_text(encoding="ascii").strip()


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
