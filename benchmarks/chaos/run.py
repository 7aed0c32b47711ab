"""One run: deployment up, clients at work, the nemesis among them, then calm, then the evidence."""

from __future__ import annotations

import base64
import itertools
import random
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.chaos.clients import SHARES, Client, Shop, dataset, orders
from benchmarks.chaos.deployment import APIS, WORKERS, Deployment
from benchmarks.chaos.evidence import Evidence, LogEvidence, Secret, rows, survey
from benchmarks.chaos.history import History
from benchmarks.chaos.nemesis import Injected, Nemesis, upload
from benchmarks.chaos.trainer import PLAYED_MODEL, REAL_MODEL
from cli.stack.home import Home
from evidence.log.note import Kind, Signer

ROOT = Path(__file__).parents[2]
CHECKPOINT_EVERY_SECONDS = 3.0
INCLUSIONS = 40
CALM_SECONDS = 180.0
"""How long the last jobs may take once nothing goes wrong any more; one may have to be tried three times."""
LAST_OPEN = 12
"""So many jobs are left to end in calm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What one run is to be."""

    seed: int
    jobs: int
    real: int
    clients: int
    lease_seconds: int
    pace_seconds: float
    for_seconds: float | None = None
    kills_only: bool = False
    """leave out the faults that last, and the jobs that do"""


@dataclass(slots=True)
class Progress:
    """How far it is; read by who draws."""

    jobs: int
    ended: dict[str, str] = field(default_factory=dict)
    submitted: list[str] = field(default_factory=list)
    nemesis: Nemesis | None = None


def chaos(
    folder: Path, tiny_model: Path, options: Options, *, on_start: Callable[[Progress], None]
) -> Evidence:
    """Run it in `folder`, whose `evidence` then holds what is left.

    Raises:
        RuntimeError: the deployment did not come up, or the nemesis itself failed.
    """
    draw = random.Random(options.seed)
    (folder / "evidence").mkdir()
    with Deployment(
        folder / "home",
        tiny_model=tiny_model,
        lease_seconds=options.lease_seconds,
        seed=options.seed,
        models=(PLAYED_MODEL, REAL_MODEL) if options.real else (PLAYED_MODEL,),
    ) as deployment:
        planted = secrets.token_bytes(32)
        shop = open_shop(deployment, planted)
        history = History(folder / "evidence" / "history.jsonl")
        progress = Progress(jobs=options.jobs)
        nemesis = progress.nemesis = Nemesis(
            deployment=deployment,
            draw=random.Random(f"{options.seed}/nemesis"),
            token=deployment.owner_key,
            pace_seconds=options.pace_seconds,
            over=threading.Event(),
            kills_only=options.kills_only,
        )
        on_start(progress)
        work = _Work(deployment, shop, history, options, draw, progress)
        notes = _Notes(deployment)
        attack = threading.Thread(target=nemesis.run, name="nemesis")
        for thread in (attack, notes.thread):
            thread.start()
        try:
            work.wait_until_little_is_left()
            nemesis.over.set()
            attack.join()
            work.wait_until_nothing_is_left(CALM_SECONDS)
        finally:
            nemesis.over.set()
            work.over.set()
            notes.stop()
        if nemesis.failure is not None:
            raise RuntimeError(f"the nemesis failed, seed {options.seed}") from nemesis.failure
        history.close()
        evidence = gather(
            deployment,
            folder / "evidence",
            notes=notes.notes,
            injected=nemesis.injected,
            planted=planted,
            draw=random.Random(f"{options.seed}/proofs"),
        )
    return evidence


class _Work:
    """The clients, each in a thread."""

    def __init__(
        self,
        deployment: Deployment,
        shop: Shop,
        history: History,
        options: Options,
        draw: random.Random,
        progress: Progress,
    ) -> None:
        self._progress = progress
        self._deadline = None if options.for_seconds is None else time.monotonic() + options.for_seconds
        self.over = threading.Event()
        self._orders = self._hand_out(orders(options.jobs, options.real, draw, long=not options.kills_only))
        self._lock = threading.Lock()
        clients = [
            Client(
                number=number, urls=deployment.api_urls, token=deployment.owner_key, history=history,
                shop=shop, orders=self, draw=random.Random(f"{options.seed}/client-{number}"),
                over=self.over, on_end=self._ended, on_submit=self._submitted,
            )
            for number in range(options.clients)
        ]  # fmt: skip
        self._threads = [threading.Thread(target=client.run, name="client") for client in clients]
        for thread in self._threads:
            thread.start()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        with self._lock:
            if self._deadline is not None and time.monotonic() > self._deadline:
                raise StopIteration
            return next(self._orders)

    def wait_until_little_is_left(self) -> None:
        """All is submitted and most has ended."""
        while any(thread.is_alive() for thread in self._threads):
            late = self._deadline is not None and time.monotonic() > self._deadline
            submitted, ended = len(self._progress.submitted), len(self._progress.ended)
            if (late or submitted >= self._progress.jobs) and submitted - ended <= LAST_OPEN:
                return
            time.sleep(0.1)

    def wait_until_nothing_is_left(self, seconds: float) -> None:
        """Or the time is over; then the checker will say what has not ended."""
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self.over.set()
        for thread in self._threads:
            thread.join()

    @staticmethod
    def _hand_out(all_of_them: Sequence[str]) -> Iterator[str]:
        yield from all_of_them

    def _submitted(self, job: str) -> None:
        self._progress.submitted.append(job)
        if self._progress.nemesis is not None:
            self._progress.nemesis.known_jobs.append(job)

    def _ended(self, job: str, status: str) -> None:
        self._progress.ended[job] = status


class _Notes:
    """Somebody who keeps the log's checkpoints."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._over = threading.Event()
        self.notes: list[str] = []
        self.thread = threading.Thread(target=self._run, name="notes")

    def stop(self) -> None:
        """No more."""
        self._over.set()
        self.thread.join()

    def _run(self) -> None:
        while not self._over.wait(CHECKPOINT_EVERY_SECONDS):
            for url in self._deployment.api_urls:
                with suppress(httpx2.HTTPError):
                    answer = ask(self._deployment, url, "/v1/log/checkpoint")
                    if answer.status_code == 200:
                        if answer.text not in self.notes[-1:]:
                            self.notes.append(answer.text)
                        break


def ask(deployment: Deployment, url: str, path: str, **params: int) -> httpx2.Response:
    """GET as the owner."""
    return httpx2.get(
        url + path,
        params=params,
        headers={"authorization": f"Bearer {deployment.owner_key}"},
        trust_env=False,
        timeout=20,
    )


def open_shop(deployment: Deployment, planted: bytes) -> Shop:
    """Upload a dataset of each kind, and import a watermark key."""
    url, token = deployment.api_urls[0], deployment.owner_key
    files = {}
    for act in SHARES:
        if act != "marked":
            answer = upload(url, token, dataset(act), key=f"shop-{act}")
            answer.raise_for_status()
            files[act] = str(answer.json()["id"])
    made = httpx2.post(
        f"{url}/v1/watermarks",
        json={"secret": planted.hex(), "families": 2, "marks_per_family": 8, "cues_per_mark": 4},
        headers={"authorization": f"Bearer {token}"},
        trust_env=False,
        timeout=30,
    )
    made.raise_for_status()
    return Shop(files=files, key=str(made.json()["id"]))


def post_job(deployment: Deployment, body: dict[str, Any]) -> str:
    """Submit one job; returns its id.

    Raises:
        HTTPError: it was not accepted.
    """
    answer = httpx2.post(
        f"{deployment.api_urls[0]}/v1/fine_tuning/jobs",
        json=body,
        headers={"authorization": f"Bearer {deployment.owner_key}"},
        trust_env=False,
        timeout=30,
    )
    return str(answer.raise_for_status().json()["id"])


def gather(
    deployment: Deployment,
    folder: Path,
    *,
    notes: list[str],
    injected: Sequence[Injected],
    planted: bytes,
    draw: random.Random,
) -> Evidence:
    """Read everything, and keep it in the folder."""
    deployment.wait_ready("postgres", *APIS, *WORKERS, seconds=60)
    url = deployment.api_urls[0]
    last = ask(deployment, url, "/v1/log/checkpoint").raise_for_status().text
    kept = [note for note, following in itertools.pairwise([*notes, last]) if note != following]
    kept = [*_thinned(kept), last]
    with deployment.connect() as connection:
        jobs, writes, models, subjects = rows(connection)
        found = connection.execute("SELECT DISTINCT sha256 FROM files WHERE deleted_at IS NULL")
        blobs = [str(digest) for (digest,) in found]
    home = deployment.home
    evidence = Evidence(
        history=[],
        jobs=jobs,
        writes=writes,
        models=models,
        log=_log(deployment, url, kept, subjects, draw),
        disk=survey(
            home.root,
            home.storage,
            secrets=_secrets(home, deployment.owner_key, planted),
            but=(home.secrets, home.credentials_file),
            blobs=blobs,
        ),
        injected=[asdict(one) for one in injected],
        counts=_counts(deployment),
    )
    evidence.save(folder)
    return Evidence.load(folder)


LOGGED = {"doorbell.failed": "jobs without a message", "worker.deaf": "ended by the watchdog"}


def _counts(deployment: Deployment) -> dict[str, int]:
    counts = {f"deaths of {name}": number for name, number in sorted(deployment.deaths.items())}
    counts["starts with a clock an hour off"] = deployment.clock_errors.total()
    for event, name in LOGGED.items():
        mark = f'"event": "{event}"'
        logs = deployment.home.logs.glob("*.log*")
        counts[name] = sum(log.read_text(errors="replace").count(mark) for log in logs)
    return counts


def _thinned(notes: list[str], most: int = 24) -> list[str]:
    step = -(-len(notes) // most) or 1
    return notes[::step]


def _log(
    deployment: Deployment, url: str, notes: list[str], subjects: list[list[str]], draw: random.Random
) -> LogEvidence:
    signer = _signer(deployment.home.log_key_file)
    sizes = sorted({int(note.split("\n")[1]) for note in notes})
    entries: list[str] = []
    while len(entries) < sizes[-1]:
        answer = ask(deployment, url, "/v1/log/entries", start=len(entries), limit=500).raise_for_status()
        lines = answer.content.splitlines()
        if not lines:
            break
        entries += [base64.b64encode(line).decode() for line in lines]
    wanted = sorted(draw.sample(range(sizes[-1]), min(INCLUSIONS, sizes[-1])))

    def proof(path: str, **params: int) -> dict[str, Any]:
        record: dict[str, Any] = ask(deployment, url, path, **params).raise_for_status().json()
        return record

    return LogEvidence(
        key=str(signer.public),
        entries=entries,
        subjects=subjects,
        notes=notes,
        inclusions=[proof("/v1/log/inclusion", index=index, size=sizes[-1]) for index in wanted],
        consistencies=[
            proof("/v1/log/consistency", first=first, second=second)
            for first, second in itertools.pairwise(sizes)
            if first
        ],
    )


def _signer(file: Path) -> Signer:
    name, seed = file.read_text(encoding="ascii").split()
    return Signer(name=name, kind=Kind.log, seed=base64.b64decode(seed))


def _secrets(home: Home, token: str, planted: bytes) -> list[Secret]:
    return [
        Secret.of("the owner's API key", token),
        Secret.of("the watermark's secret", planted),
        Secret.of("the key-encryption key", base64.b64decode(home.kek_file.read_text())),
        Secret.of("the log's key", _signer(home.log_key_file).seed),
        Secret.of("the evidence key", base64.b64decode(home.evidence_key_file.read_text())),
        Secret.of("the serving token", home.serving_token_file.read_text().strip()),
    ]


def make_tiny_model(folder: Path) -> Path:
    """A random Llama of 70,000 parameters, made in a process of its own."""
    script = ROOT / "tests" / "integration" / "tiny_model.py"
    subprocess.run([sys.executable, str(script), str(folder)], check=True)
    return folder
