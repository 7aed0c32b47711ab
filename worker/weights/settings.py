"""Where the cache and the operator's catalogue are, for the command line.

Separate from the service's settings: fetching weights needs no database and no secret.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


def _default_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "doublei" / "models"


class WeightsSettings(BaseSettings):
    """Environment variables shared with `service.settings`."""

    model_config = SettingsConfigDict(frozen=True, env_file=".env", extra="ignore")

    model_cache: Path = Field(default_factory=_default_cache, alias="DOUBLEI_MODEL_CACHE")
    catalogue_file: Path | None = Field(default=None, alias="DOUBLEI_CATALOGUE_FILE")
