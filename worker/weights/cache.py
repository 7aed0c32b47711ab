"""The model cache: which files make up a model, and whether they are still the ones that were fetched."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catalogue import BUILT_IN, BaseModel, Catalogue, HubSource, LocalSource, Source, WheelSource
from worker.weights.errors import CorruptModelError, ModelNotCachedError

MANIFEST_NAME = "manifest.json"
_MANIFEST_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """A base model that is ready to load."""

    model_id: str
    path: Path
    """Folder for `from_pretrained`."""
    gguf_path: Path | None
    """The same weights for llama.cpp, when they came as GGUF."""
    digest: str
    """`sha256:` and hex over the manifest's file digests: equal digests mean equal bytes."""
    source: str
    """In words, where the weights came from."""


def resolve(
    model_id: str, *, cache_dir: Path, catalogue: Catalogue = BUILT_IN, deep: bool = False
) -> ModelFiles:
    """Find a cached model without network access.

    Checks that the manifest fits the catalogue's entry and that every file is there with its recorded
    size (well under a millisecond). `deep=True` also hashes every file (about half a second a gigabyte on
    processors with SHA instructions).

    Raises: catalogue.UnknownModelError, ModelNotCachedError, CorruptModelError.
    """
    model = catalogue.get(model_id)
    folder = cache_dir / model.id
    if not (folder / MANIFEST_NAME).is_file():
        raise ModelNotCachedError(
            f"base model {model_id} is not in {cache_dir}; run: python -m worker.weights fetch {model_id}"
        )
    manifest = verify(folder, deep=deep)
    if manifest.get("source") not in [source_record(source) for source in model.sources]:
        raise CorruptModelError(
            f"{folder} was fetched from {manifest.get('source')}, which the catalogue no longer lists; "
            f"run: python -m worker.weights fetch {model_id}"
        )
    ggufs = sorted(name for name in manifest["files"] if name.endswith(".gguf"))
    return ModelFiles(
        model_id=model.id,
        path=folder,
        gguf_path=folder / ggufs[0] if ggufs else None,
        digest=manifest["digest"],
        source=manifest["source_text"],
    )


def verify(folder: Path, *, deep: bool) -> Mapping[str, Any]:
    """Check a model folder against its manifest and return the manifest.

    Shallow: names and sizes. Deep: SHA-256 of every file too. Files the manifest does not list are
    ignored.

    Raises: CorruptModelError, naming the first file that differs.
    """
    try:
        manifest = json.loads((folder / MANIFEST_NAME).read_text("utf-8"))
        files = manifest["files"]
        if manifest["format"] != _MANIFEST_FORMAT or manifest["digest"] != _digest(files):
            raise ValueError("its digest does not match its content")
        for name, expected in files.items():
            _check_file(folder / name, expected, deep=deep)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        # what the system says names the path, what is raised here the file alone
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CorruptModelError(
            f"model folder {folder} is damaged: {error}", reason=reason or type(error).__name__
        ) from error
    return dict(manifest)


def write_manifest(folder: Path, model: BaseModel, source: Source) -> None:
    """Flush every file of `folder` to disk, then describe them in its manifest."""
    files = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name != MANIFEST_NAME:
            with path.open("rb") as file:
                os.fsync(file.fileno())
            path.chmod(0o644)  # safetensors writes 0600, but the cache may serve several accounts
            files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    manifest = {
        "format": _MANIFEST_FORMAT,
        "model": model.id,
        "licence": model.licence,
        "source": source_record(source),
        "source_text": str(source),
        "digest": _digest(files),
        "files": files,
    }
    with (folder / MANIFEST_NAME).open("w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())


def source_record(source: Source) -> dict[str, str]:
    """What identifies a source's content, for the manifest."""
    match source:
        case LocalSource():
            return {"kind": "local", "path": str(source.path)}
        case HubSource():
            return {"kind": "hub", "repo_id": source.repo_id, "revision": source.revision}
        case WheelSource():
            return {"kind": "wheel", "wheel_sha256": source.wheel_sha256, "member": source.member}


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_file(path: Path, expected: Mapping[str, Any], *, deep: bool) -> None:
    if not path.is_file():
        raise ValueError(f"{path.name} is missing")
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise ValueError(f"{path.name} has {size} bytes, not {expected['bytes']}")
    if deep and sha256_of(path) != expected["sha256"]:
        raise ValueError(f"{path.name} does not have the recorded SHA-256")


def _digest(files: Mapping[str, Any]) -> str:
    canonical = json.dumps(files, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(canonical.encode("ascii")).hexdigest()
