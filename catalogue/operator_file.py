"""The operator's own base models, in TOML.

default = "my-model"                 # optional

[models.my-model]
title = "My model"
licence = "Apache-2.0"
parameters = 1_100_000_000
lora_target_modules = ["q_proj", "v_proj"]          # optional
sources = [
  { path = "/srv/models/my-model" },
  { repo_id = "someone/my-model", revision = "<40 hex digits>" },
  { distribution = "pkg", version = "1.0", sha256 = "<64 hex digits>", bytes = 1, member = "pkg/m.gguf" },
]
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from catalogue.errors import CatalogueFileError, UnknownModelError
from catalogue.models import (
    BUILT_IN,
    LLAMA_LINEAR_LAYERS,
    BaseModel,
    Catalogue,
    HubSource,
    LocalSource,
    Source,
    WheelSource,
)

_Scalar = TypeVar("_Scalar", str, int)

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_COMMIT = re.compile(r"[0-9a-f]{40}\Z")
_DISTRIBUTION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\Z")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]*\Z")
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*\Z")


def load_catalogue(operator_file: Path | None = None) -> Catalogue:
    """The built-in models, then those of `operator_file`.

    Does not check that a source exists: it may be mounted later.

    Raises: CatalogueFileError, naming the file and the entry.
    """
    if operator_file is None:
        return BUILT_IN
    try:
        document = tomllib.loads(operator_file.read_text("utf-8"))
    except OSError as error:
        raise CatalogueFileError(f"{operator_file}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CatalogueFileError(f"{operator_file}: not valid TOML: {error}") from error
    try:
        return _merge(document)
    except (ValueError, UnknownModelError) as error:
        raise CatalogueFileError(f"{operator_file}: {error}") from error


def _merge(document: Mapping[str, Any]) -> Catalogue:
    _refuse_unknown_keys("top level", document, {"default", "models"})
    tables = document.get("models", {})
    if not isinstance(tables, dict):
        raise CatalogueFileError("'models' must be a table")
    added = tuple(_model(model_id, table) for model_id, table in tables.items())
    default = document.get("default", BUILT_IN.default.id)
    if not isinstance(default, str):
        raise CatalogueFileError("'default' must be a model id")
    return Catalogue((*BUILT_IN, *added), default=default)


def _model(model_id: str, table: object) -> BaseModel:
    where = f"models.{model_id}"
    if not isinstance(table, dict):
        raise CatalogueFileError(f"{where} must be a table")
    _refuse_unknown_keys(
        where,
        table,
        {"title", "licence", "parameters", "lora_target_modules", "sources"},
    )
    targets = table.get("lora_target_modules", list(LLAMA_LINEAR_LAYERS))
    if not isinstance(targets, list) or not targets or not all(isinstance(name, str) for name in targets):
        raise CatalogueFileError(f"{where}.lora_target_modules must be a list of names")
    sources = table.get("sources")
    if not isinstance(sources, list) or not sources:
        raise CatalogueFileError(f"{where}.sources must be a list with at least one source")
    return BaseModel(
        id=model_id,
        title=_field(where, table, "title", str),
        licence=_field(where, table, "licence", str),
        parameters=_field(where, table, "parameters", int),
        sources=tuple(_source(f"{where}.sources[{index}]", entry) for index, entry in enumerate(sources)),
        lora_target_modules=tuple(targets),
    )


def _source(where: str, entry: object) -> Source:
    if not isinstance(entry, dict):
        raise CatalogueFileError(f"{where} must be a table")
    match frozenset(entry):
        case keys if keys == {"path"}:
            path = Path(_field(where, entry, "path", str))
            if not path.is_absolute():
                raise CatalogueFileError(f"{where}.path must be absolute")
            return LocalSource(path=path)
        case keys if keys == {"repo_id", "revision"}:
            return HubSource(
                repo_id=_matching(where, entry, "repo_id", _REPO),
                revision=_matching(where, entry, "revision", _COMMIT),
            )
        case keys if keys == {"distribution", "version", "sha256", "bytes", "member"}:
            member = _field(where, entry, "member", str)
            if PurePosixPath(member).is_absolute() or ".." in PurePosixPath(member).parts:
                raise CatalogueFileError(f"{where}.member must be a path inside the wheel")
            return WheelSource(
                distribution=_matching(where, entry, "distribution", _DISTRIBUTION),
                version=_matching(where, entry, "version", _VERSION),
                wheel_sha256=_matching(where, entry, "sha256", _SHA256),
                wheel_bytes=_field(where, entry, "bytes", int),
                member=member,
            )
    raise CatalogueFileError(
        f"{where} must have exactly the keys path; or repo_id, revision; "
        "or distribution, version, sha256, bytes, member"
    )


def _refuse_unknown_keys(where: str, table: Mapping[str, Any], known: set[str]) -> None:
    if unknown := sorted(set(table) - known):
        raise CatalogueFileError(f"{where}: unknown key {unknown[0]!r} (known: {', '.join(sorted(known))})")


def _field(where: str, table: Mapping[str, Any], name: str, kind: type[_Scalar]) -> _Scalar:
    value = table.get(name)
    negative = isinstance(value, int) and value < 0
    if not isinstance(value, kind) or isinstance(value, bool) or not value or negative:
        noun = "a positive whole number" if kind is int else "a non-empty text"
        raise CatalogueFileError(f"{where}.{name} must be {noun}")
    return value


def _matching(where: str, table: Mapping[str, Any], name: str, pattern: re.Pattern[str]) -> str:
    value = _field(where, table, name, str)
    if not pattern.match(value):
        raise CatalogueFileError(f"{where}.{name} must match {pattern.pattern}")
    return value
