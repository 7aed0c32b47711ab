"""A backup taken under load, restored elsewhere: what was there is there, and proves what it proved."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cli.stack import state
from cli.stack.home import Home
from cli.stack.plan import ChildSpec, Site, build_plan, service_environment
from cli.stack.stack import Stack
from service.settings import Settings
from tests.integration.conftest import TINY, dataset
from tests.integration.service.suspects import Suspect, always, listening
from worker.record.engine import open_workplace
from worker.tasks import finetune_run, verify_run

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PASSPHRASE = "correct horse battery staple"
MODEL = "smollm2-135m-instruct"


def without_torch(site: Site) -> tuple[ChildSpec, ...]:
    """The stack as far as a database and its API go."""
    wanted = {"cluster", "postgres", "valkey", "migrations", "bootstrap", "api"}
    return tuple(spec for spec in build_plan(site) if spec.name in wanted)


def doublei(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command."""
    import os

    return subprocess.run(
        [sys.executable, "-m", "cli", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


class Owner:
    """The first owner of a running stack."""

    def __init__(self, stack: Stack) -> None:
        headers = {"authorization": f"Bearer {stack.credentials['owner'].api_key}"}
        self.http = httpx2.Client(base_url=stack.api_url, headers=headers, trust_env=False, timeout=60)

    def upload(self, rows: int) -> str:
        """A dataset's id."""
        files = {"file": ("d.jsonl", dataset(rows), "application/octet-stream")}
        return str(
            self.http.post("/v1/files", data={"purpose": "fine-tune"}, files=files)
            .raise_for_status()
            .json()["id"]
        )

    def job(self, file_id: str) -> str:
        """A queued job's id."""
        body = {"model": MODEL, "training_file": file_id}
        return str(self.http.post("/v1/fine_tuning/jobs", json=body).raise_for_status().json()["id"])

    def key(self) -> str:
        """A watermark's id; two entries of the log."""
        return str(self.http.post("/v1/watermarks", json={"name": "k"}).raise_for_status().json()["id"])


@pytest.fixture
def passphrase_file(tmp_path: Path) -> Path:
    path = tmp_path / "passphrase"
    path.write_text(PASSPHRASE + "\n")
    return path


@pytest.fixture
def load() -> Iterator[tuple[Callable[[Owner], list[str]], Callable[[], None]]]:
    """Begins a writer, and ends it; the list fills with the files that it was told of."""
    over, threads = threading.Event(), []
    made: list[str] = []

    def begin(owner: Owner) -> list[str]:
        def write() -> None:
            rows = 20
            while not over.is_set():
                rows += 1
                file = owner.upload(rows)
                owner.job(file)
                owner.key()
                if rows % 3 == 0:
                    owner.http.delete(f"/v1/files/{owner.upload(rows + 1000)}")
                made.append(file)

        thread = threading.Thread(target=write)
        thread.start()
        threads.append(thread)
        return made

    def stop() -> None:
        over.set()
        for thread in threads:
            thread.join()

    yield begin, stop
    stop()


def test_under_load_and_back(
    tmp_path: Path, passphrase_file: Path, load: tuple[Callable[[Owner], list[str]], Callable[[], None]]
) -> None:
    first, second, target = tmp_path / "first", tmp_path / "second", tmp_path / "monday.tar"
    checkpoint = tmp_path / "checkpoint"
    with Stack(Home(root=first), plan=without_torch) as stack:
        owner = Owner(stack)
        file_id = owner.upload(12)
        job_id, key_id = owner.job(file_id), owner.key()
        audited = doublei("log", "audit", "--home", str(first), "--save", str(checkpoint))
        assert audited.returncode in (0, 2), audited.stderr
        begin, stop = load
        made = begin(owner)
        taken = doublei(
            "backup", str(target), "--home", str(first), "--passphrase-file", str(passphrase_file)
        )
        assert taken.returncode == 0, taken.stderr
        assert made, "there was load"
        stop()
        api_key = stack.credentials["owner"].api_key
        kek = (first / "secrets" / "kek").read_bytes()
        assert not list(first.glob("backup.*")), "nothing is left of the taking"
        archive = target.read_bytes()
        assert target.stat().st_mode & 0o077 == 0
        for secret in (kek.strip(), api_key.encode(), PASSPHRASE.encode()):
            assert secret not in archive
        restored = doublei(
            "restore", str(target), "--home", str(second), "--passphrase-file", str(passphrase_file)
        )
        assert restored.returncode == 0, restored.stderr
        over_it = doublei("restore", str(target), "--home", str(second), DOUBLEI_BACKUP_PASSPHRASE=PASSPHRASE)
        assert over_it.returncode == 2
        assert "is not empty" in over_it.stderr
        check_others(tmp_path, target, archive)

    assert (second / "secrets" / "kek").read_bytes() == kek
    with Stack(Home(root=second), plan=without_torch) as stack:
        again = Owner(stack)
        assert stack.credentials["owner"].api_key == api_key
        assert again.http.get(f"/v1/fine_tuning/jobs/{job_id}").json()["id"] == job_id
        assert again.http.get(f"/v1/watermarks/{key_id}").json()["id"] == key_id
        listed = again.http.get("/v1/files").raise_for_status().json()["data"]
        assert file_id in {entry["id"] for entry in listed}
        assert len(listed) > 1
        for entry in listed:
            content = again.http.get(f"/v1/files/{entry['id']}/content").raise_for_status().content
            assert len(content) == entry["bytes"]
        jobs = again.http.get("/v1/fine_tuning/jobs?limit=100").raise_for_status().json()["data"]
        assert {job["training_file"] for job in jobs} <= {entry["id"] for entry in listed}
        audited = doublei("log", "audit", "--home", str(second), "--checkpoint", str(checkpoint), "--json")
        report = json.loads(audited.stdout)
        assert not [step for step in report["steps"] if step["status"] == "failed"], report
        # the API writes on: a key of the restored log signs what comes after
        again.key()
        assert doublei("log", "audit", "--home", str(second)).returncode in (0, 2)


def check_others(tmp_path: Path, target: Path, archive: bytes) -> None:
    """What is refused, each in one line and without leaving anything behind."""
    wrong = tmp_path / "wrong"
    wrong.write_text("another passphrase")
    flipped = tmp_path / "flipped.tar"
    place = len(archive) // 2
    flipped.write_bytes(archive[:place] + bytes([archive[place] ^ 1]) + archive[place + 1 :])
    short = tmp_path / "short.tar"
    short.write_bytes(archive[: len(archive) * 2 // 3])
    good = ("--passphrase-file", str(tmp_path / "passphrase"))
    for source, options, words in (
        (target, ("--passphrase-file", str(wrong)), "another passphrase"),
        (target, (), "are sealed"),
        (flipped, good, "archive"),
        (short, good, "archive"),
        (wrong, good, "no backup of doublei"),
        (tmp_path / "none.tar", good, "can't read"),
    ):
        home = tmp_path / "third"
        done = doublei("restore", str(source), "--home", str(home), *options)
        assert done.returncode in (1, 2), (source, done.stderr)
        assert words in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert not home.exists()
        assert not list(tmp_path.glob(".third*"))


class Works:
    """A worker beside a stack that has none: it takes what it is told of, and its trainings are not real."""

    def __init__(self, home: Path) -> None:
        current = state.read(Home(root=home))
        assert current is not None
        environment = service_environment(Home(root=home), current.ports, current.socket_dir)
        settings = Settings.model_validate(environment)
        self.place = open_workplace(settings, shutting_down=lambda: False)

    def model(self, owner: Owner) -> str:
        """A published model's name."""
        body = {"model": TINY, "training_file": owner.upload(12)}
        job_id = owner.http.post("/v1/fine_tuning/jobs", json=body).raise_for_status().json()["id"]
        finetune_run(self.place, job_id)
        job = owner.http.get(f"/v1/fine_tuning/jobs/{job_id}").json()
        assert job["status"] == "succeeded", job
        return str(job["fine_tuned_model"])

    def audit(self, owner: Owner, suspect: Suspect) -> str:
        """A finished verification's id."""
        small = {"name": "k", "marks_per_family": 8, "cues_per_mark": 4}
        key = owner.http.post("/v1/watermarks", json=small).raise_for_status().json()["id"]
        body = {"watermark": key, "suspect": {"base_url": suspect.base_url, "model": "m"}}
        audit = owner.http.post("/v1/verify", json=body).raise_for_status().json()["id"]
        verify_run(self.place, audit)
        found = owner.http.get(f"/v1/verifications/{audit}").json()
        assert (found["status"], found["verdict"]) == ("succeeded", "not_detected"), found
        return str(audit)


@pytest.fixture
def suspect(monkeypatch: pytest.MonkeyPatch) -> Iterator[Suspect]:
    """An innocent one, which the operator allows to be asked."""
    with listening(always("No")) as found:
        monkeypatch.setenv("DOUBLEI_SUSPECT_ALLOW", found.host_port)
        yield found


def test_models_and_evidence_that_are_made_meanwhile(
    tmp_path: Path,
    passphrase_file: Path,
    suspect: Suspect,
    tiny_catalogue: tuple[Path, Path],
    fake_trainer: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A model in the backup has all its files, a verification all its evidence, whenever it was taken."""
    monkeypatch.setenv("DOUBLEI_CATALOGUE_FILE", str(tiny_catalogue[0]))
    monkeypatch.setenv("DOUBLEI_MODEL_CACHE", str(tiny_catalogue[1]))
    fake_trainer("finish")
    first, second, target = tmp_path / "first", tmp_path / "second", tmp_path / "monday.tar"
    checkpoint, over = tmp_path / "checkpoint", threading.Event()
    made: list[str] = []
    with Stack(Home(root=first), plan=without_torch) as stack:
        owner, works = Owner(stack), Works(first)
        model, audit = works.model(owner), works.audit(owner, suspect)
        adapter = owner.http.get(f"/v1/models/{model}/adapter").raise_for_status().content
        evidence = owner.http.get(f"/v1/verifications/{audit}/evidence").raise_for_status().content
        assert doublei("log", "audit", "--home", str(first), "--save", str(checkpoint)).returncode in (0, 2)

        def make() -> None:
            while not over.is_set():
                made.append(works.model(owner))
                made.append(works.audit(owner, suspect))

        with ThreadPoolExecutor(1) as pool:
            making = pool.submit(make)
            try:
                taken = doublei(
                    "backup", str(target), "--home", str(first), "--passphrase-file", str(passphrase_file)
                )
            finally:
                over.set()
            making.result()
        assert taken.returncode == 0, taken.stderr
        assert made, "there was work"
    restored = doublei(
        "restore", str(target), "--home", str(second), "--passphrase-file", str(passphrase_file)
    )
    assert restored.returncode == 0, restored.stderr

    with Stack(Home(root=second), plan=without_torch) as stack:
        again = Owner(stack)
        assert again.http.get(f"/v1/models/{model}/adapter").content == adapter
        assert again.http.get(f"/v1/verifications/{audit}/evidence").content == evidence
        listed = again.http.get("/v1/models").raise_for_status().json()["data"]
        for name in (entry["id"] for entry in listed if entry["id"].startswith("ft:")):
            download = again.http.get(f"/v1/models/{name}/adapter").raise_for_status().content
            with tarfile.open(fileobj=io.BytesIO(download)) as files:
                names = {Path(one).name for one in files.getnames()}
            assert {"adapter_model.safetensors", "adapter_config.json"} <= names
        audits = again.http.get("/v1/verifications?limit=100").raise_for_status().json()["data"]
        ended = [one["id"] for one in audits if one["status"] == "succeeded"]
        assert audit in ended
        for number, found in enumerate(ended):
            file = tmp_path / f"evidence-{number}.json"
            file.write_bytes(again.http.get(f"/v1/verifications/{found}/evidence").raise_for_status().content)
            checked = doublei("evidence", "check", str(file))
            assert checked.returncode == 0, checked.stdout + checked.stderr
        audited = doublei("log", "audit", "--home", str(second), "--checkpoint", str(checkpoint), "--json")
        report = json.loads(audited.stdout)
        assert not [step for step in report["steps"] if step["status"] == "failed"], report
        passed = {step["name"] for step in report["steps"] if step["status"] == "passed"}
        assert {"earlier checkpoint", "growth", "history"} <= passed, report


def test_keys_kept_apart(tmp_path: Path) -> None:
    """And a data folder whose stack does not run."""
    first, second, target = tmp_path / "first", tmp_path / "second", tmp_path / "b.tar"
    with Stack(Home(root=first), plan=without_torch) as stack:
        job_id = Owner(stack).job(Owner(stack).upload(12))
    bare = doublei("backup", str(target), "--home", str(first))
    assert bare.returncode == 2
    assert "--without-keys" in bare.stderr
    taken = doublei("backup", str(target), "--home", str(first), "--without-keys")
    assert taken.returncode == 0, taken.stderr
    with tarfile.open(target) as archive:
        names = archive.getnames()
    assert "keys.sealed" not in names
    assert "database.dump" in names
    missing = doublei("restore", str(target), "--home", str(second))
    assert (missing.returncode, "--keys" in missing.stderr) == (2, True)
    keys = ("--keys", str(first / "secrets"))
    restored = doublei("restore", str(target), "--home", str(second), *keys)
    assert restored.returncode == 0, restored.stderr
    digest = hashlib.sha256((first / "secrets" / "log-key").read_bytes()).hexdigest()
    assert hashlib.sha256((second / "secrets" / "log-key").read_bytes()).hexdigest() == digest
    (second / "credentials.json").write_bytes((first / "credentials.json").read_bytes())
    with Stack(Home(root=second), plan=without_torch) as stack:
        got: Any = Owner(stack).http.get(f"/v1/fine_tuning/jobs/{job_id}").json()
    assert got["status"] == "queued"


def test_there_is_nothing_to_back_up(tmp_path: Path) -> None:
    done = doublei("backup", str(tmp_path / "x.tar"), "--home", str(tmp_path / "none"), "--without-keys")
    assert done.returncode == 2
    assert "holds no data" in done.stderr
    assert not (tmp_path / "none").exists()
