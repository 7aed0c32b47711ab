"""The serving process's own settings: command line over environment over defaults."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretBytes
from pydantic_settings import BaseSettings, SettingsConfigDict

from worker.serving.errors import SettingsInvalid

MIN_TOKEN_BYTES = 16


class ServingSettings(BaseSettings):
    """Built once by `__main__`; no default is a secret."""

    model_config = SettingsConfigDict(
        frozen=True,
        env_prefix="DOUBLEI_SERVING_",
        env_file=".env",
        extra="ignore",
        populate_by_name=True,
    )

    token_file: Path = Field(validation_alias="DOUBLEI_SERVING_TOKEN_FILE")
    """A 0600 file holding the bearer token."""
    adapter_root: Path = Field(validation_alias="DOUBLEI_STORAGE_DIR")
    """Adapters are loaded from below this folder and from nowhere else."""

    model: str = "smollm2-135m-instruct"
    """Catalogue id; also the base model's name on the wire."""
    model_dir: Path | None = None
    """The operator's own folder in Hugging Face layout, in place of the catalogue's."""

    precision: Literal["auto", "bf16", "fp32"] = "auto"
    threads: int | None = Field(default=None, ge=1)
    max_adapters: int = Field(default=16, ge=1)
    """Adapters kept in memory; the least recently used one leaves, and comes back when asked for."""
    max_adapter_bytes: int = Field(default=1 << 30, ge=1)
    max_rows: int = Field(default=32, ge=1)
    """Answers generated at the same time."""
    max_waiting: int = Field(default=512, ge=1)
    """Answers waiting for a place; beyond it requests get 429."""
    step_tokens: int = Field(default=512, ge=16)
    """Most tokens computed in one step: longer prompts are cut into chunks so that others go on."""
    kv_cache_megabytes: int = Field(default=512, ge=1)
    """Memory for keys and values; raised to one full context when it is less than that."""
    default_output_tokens: int = Field(default=1024, ge=1)
    """Length limit of a chat answer whose request names none."""

    def read_token(self) -> SecretBytes:
        """The bearer token.

        Raises: SettingsInvalid if the file is missing, readable by others, or holds too short a token.
        """
        try:
            mode = self.token_file.stat().st_mode
            token = self.token_file.read_bytes().strip()
        except OSError as error:
            raise SettingsInvalid(f"DOUBLEI_SERVING_TOKEN_FILE: {error.strerror or 'unreadable'}") from None
        if stat.S_IMODE(mode) & 0o077:
            raise SettingsInvalid("DOUBLEI_SERVING_TOKEN_FILE: other users can read it; set its mode to 0600")
        if len(token) < MIN_TOKEN_BYTES:
            raise SettingsInvalid(f"DOUBLEI_SERVING_TOKEN_FILE: shorter than {MIN_TOKEN_BYTES} bytes")
        return SecretBytes(token)
