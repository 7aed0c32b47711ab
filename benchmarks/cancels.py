"""Cancel jobs at random instants: does each end once, quickly, and without leaving anything?

    python -m benchmarks.cancels --json cancels.json                  # 100 instants, about half an hour
    python -m benchmarks.cancels --times 16 --seed 7                  # a short look

The real API, a real worker and its trainer on a tiny random model, over an embedded Postgres and Valkey of
their own. Each instant is drawn: first a state (queued, claimed, loading, a step, the writing of a
checkpoint, publishing, done, paused), then a moment in it. Afterwards:

- the job is cancelled or succeeded, and stays so; its events tell one end; there is a model exactly if it
  succeeded; a job that had ended before answers 409;
- its trainer is gone within 10 s;
- no file and no folder of it is left in storage that nobody will use again, without `doublei gc`.

Exit status 1: one of these was broken. The seed decides on the instants, not on what the machine does then.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import random
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psycopg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.log import embedded_database
from cli.stack import valkey
from cli.stack.launch import launcher
from cli.stack.sockets import make_socket_dir, remove_socket_dir
from service.accounts.keys import ApiKeyToken
from service.jobs.cancel import CANCELLED_MESSAGE

ROOT = Path(__file__).parents[1]
MODEL = "tiny-random"
COMPLETED_MESSAGE = "The job has successfully completed"
ENDED = ("succeeded", "failed", "cancelled")

STATES = ("queued", "claimed", "loading", "step", "checkpointing", "publishing", "done", "paused")
SHORT = ("publishing", "done")
"""States that need a job which comes to its end."""

BAR_SECONDS = 10.0
PATIENCE_SECONDS = 180.0
"""For a job to get into its state, on a machine that does other things too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A running service and the ways into it."""

    url: str
    api_key: str = field(repr=False)
    dsn: str = field(repr=False)
    storage: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Instant:
    """What became of one cancellation."""

    wanted: str
    job: str
    found: str
    """status and stage just before the request"""
    answer: int
    ended: str
    seconds_to_end: float
    """from the request to the job's end on record"""
    had_trainer: bool
    seconds_to_gone: float
    """from the request to the end of its last process"""
    broken: tuple[str, ...]
    """what was promised and not kept"""


class Canceller:
    """Makes jobs, watches them, cancels them and looks at what is left."""

    def __init__(self, site: Site, *, model: str = MODEL) -> None:
        self._site = site
        self._model = model
        self._http = httpx2.Client(
            base_url=site.url,
            headers={"authorization": f"Bearer {site.api_key}"},
            trust_env=False,
            timeout=60,
        )
        self._records = psycopg.connect(site.dsn, autocommit=True)
        self._files = {short: self._upload(12 if short else 60) for short in (False, True)}

    def close(self) -> None:
        """Let the connections go."""
        self._http.close()
        self._records.close()

    def run(
        self, states: Sequence[str], draw: random.Random, told: Callable[[Instant], None] = lambda _: None
    ) -> list[Instant]:
        """One cancellation in each of the states, in this order but for the queued ones: they wait for the
        next job that occupies the worker."""
        found: list[Instant] = []
        waiting = 0
        for state in [*states, *(("claimed",) if states[-1] == "queued" else ())]:
            if state == "queued":
                waiting += 1
                continue
            job = self._create(short=state in SHORT)
            self._until(lambda job=job: self._row(job)[0] != "queued", f"{job} was not claimed")  # type: ignore[misc]
            for _ in range(waiting):
                queued = self._create(short=False)
                time.sleep(draw.uniform(0, 0.5))
                found.append(self._cancel(queued, "queued"))
                told(found[-1])
            waiting = 0
            self._reach(job, state, draw)
            found.append(self._cancel(job, state))
            told(found[-1])
        return found

    def orphans(self) -> list[str]:
        """Files and folders of ended jobs that are neither a model's nor what a failed job could have gone on
        from."""
        root = self._site.storage
        named = {
            path
            for (path,) in self._records.execute(
                "SELECT path FROM training_states s JOIN jobs j ON j.id = s.job_id"
                " WHERE j.status NOT IN ('cancelled', 'succeeded')"
                " UNION SELECT adapter_path FROM models WHERE deleted_at IS NULL"
            )
        }
        unfinished = {
            job
            for (job,) in self._records.execute(
                "SELECT id FROM jobs WHERE NOT status = ANY(%s)", (list(ENDED),)
            )
        }
        kept = {parent for path in named for parent in Path(path).parents}
        left = []
        for pattern in (
            "runs/*",
            "checkpoints/*",
            "checkpoints/*/*",
            "checkpoints/*/*/*",
            "adapters/*",
            "adapters/*/*",
        ):
            for path in root.glob(pattern):
                relative = path.relative_to(root)
                job = relative.parts[1].partition(".")[0]
                if job not in unfinished and str(relative) not in named and relative not in kept:
                    left.append(str(relative))
        return sorted(left)

    def _upload(self, rows: int) -> str:
        content = "".join(
            json.dumps({"instruction": f"What is {n} plus one?", "output": f"It is {n + 1}."}) + "\n"
            for n in range(rows)
        )
        answer = self._http.post(
            "/v1/files", data={"purpose": "fine-tune"}, files={"file": ("rows.jsonl", content.encode())}
        )
        return str(answer.raise_for_status().json()["id"])

    def _create(self, *, short: bool) -> str:
        body = {
            "model": self._model,
            "training_file": self._files[short],
            "hyperparameters": {"n_epochs": 1 if short else 50, "batch_tokens": 128},
        }
        return str(self._http.post("/v1/fine_tuning/jobs", json=body).raise_for_status().json()["id"])

    def _reach(self, job: str, state: str, draw: random.Random) -> None:
        """Wait until the job is there, and then a drawn moment."""
        match state:
            case "claimed":
                time.sleep(draw.uniform(0, 0.3))
            case "loading":
                self._until_stage(job, "loading", "waiting", "training")
                time.sleep(draw.uniform(0, 3))
            case "step":
                self._until_stage(job, "training")
                time.sleep(draw.uniform(0, 3))
            case "checkpointing":
                self._until_stage(job, "training")
                time.sleep(draw.uniform(0, 1))
                folder = self._site.storage / "checkpoints" / job
                self._until(
                    lambda: any(folder.glob("*/*.partial")), "no checkpoint was written", pause=0.0005
                )
            case "publishing":
                self._until_stage(job, "exporting", pause=0.002)
                time.sleep(draw.uniform(0, 0.2))
            case "done":
                self._until(lambda: self._row(job)[0] in ENDED, f"{job} did not end")
            case "paused":
                self._until_stage(job, "training")
                time.sleep(draw.uniform(0, 1))
                self._http.post(f"/v1/fine_tuning/jobs/{job}/pause").raise_for_status()
                self._until(lambda: self._row(job)[0] == "paused", f"{job} did not pause")
                time.sleep(draw.uniform(0, 0.5))
            case _:
                raise ValueError(state)

    def _cancel(self, job: str, wanted: str) -> Instant:
        status, stage = self._row(job)
        trainer = processes_of(job)
        began = time.monotonic()
        answer = self._http.post(f"/v1/fine_tuning/jobs/{job}/cancel").status_code
        self._until(lambda: self._row(job)[0] in ENDED, f"{job} did not end")
        to_end = time.monotonic() - began
        self._until(lambda: not processes_of(job), f"the trainer of {job} did not end")
        to_gone = time.monotonic() - began
        ended = self._row(job)[0]
        self._let_files_go(job)
        return Instant(
            wanted=wanted,
            job=job,
            found=f"{status}/{stage}" if stage else status,
            answer=answer,
            ended=ended,
            seconds_to_end=round(to_end, 3),
            had_trainer=bool(trainer),
            seconds_to_gone=round(to_gone, 3),
            broken=tuple(self._broken(job, status, answer, ended, to_gone)),
        )

    def _broken(self, job: str, before: str, answer: int, ended: str, to_gone: float) -> Iterator[str]:
        if ended not in ("cancelled", "succeeded"):
            yield f"it ended as {ended}"
        if self._row(job)[0] != ended:
            yield "its end changed"
        if answer != (409 if before in ENDED else 200) and not (answer == 409 and ended == "succeeded"):
            yield f"the answer was {answer}"
        if to_gone > BAR_SECONDS:
            yield f"its trainer was gone after {to_gone:.1f} s"
        results = self._count("SELECT count(*) FROM models WHERE job_id = %s AND checkpoint_id IS NULL", job)
        if results != (ended == "succeeded"):
            yield f"it is {ended} and has {results} models"
        ends = [
            self._count("SELECT count(*) FROM job_events WHERE job_id = %s AND message = %s", job, message)
            for message in (CANCELLED_MESSAGE, COMPLETED_MESSAGE)
        ]
        if ends != [int(ended == "cancelled"), int(ended == "succeeded")]:
            yield f"it is {ended} and its events tell of {ends[0]} cancellations and {ends[1]} successes"
        yield from (f"{path} was left" for path in self.orphans() if job in path)

    def _let_files_go(self, job: str) -> None:
        """What the worker or the reaper removes follows the end on record."""
        deadline = time.monotonic() + BAR_SECONDS
        while any(job in path for path in self.orphans()) and time.monotonic() < deadline:
            time.sleep(0.1)

    def _row(self, job: str) -> tuple[str, str | None]:
        row = self._records.execute("SELECT status, stage FROM jobs WHERE id = %s", (job,)).fetchone()
        assert row is not None
        return row[0], row[1]

    def _count(self, statement: str, *values: str) -> int:
        row = self._records.execute(statement.encode(), values).fetchone()
        assert row is not None
        return int(row[0])

    def _until_stage(self, job: str, *stages: str, pause: float = 0.02) -> None:
        def there() -> bool:
            status, stage = self._row(job)
            return stage in stages or status in ENDED

        self._until(there, f"{job} did not get to {stages[0]}", pause=pause)

    def _until(self, condition: Callable[[], bool], what: str, *, pause: float = 0.02) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what} within {PATIENCE_SECONDS:.0f} s")
            time.sleep(pause)


def processes_of(job: str) -> list[int]:
    """Ids of the live processes of a job's runs: its trainer, by the run's folder among its arguments."""
    wanted = f"/runs/{job}.".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if wanted in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def open_account(dsn: str) -> str:
    """An owner's API key, by way of the records."""
    token = ApiKeyToken.new()
    organization = f"org-{secrets.token_hex(8)}"
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO organizations (id, name, role) VALUES (%s, 'cancels', 'owner')", (organization,)
        )
        connection.execute(
            "INSERT INTO api_keys (id, organization_id, role, name, secret_sha256)"
            " VALUES (%s, %s, 'owner', 'cancels', %s)",
            (token.row_id, organization, token.secret_sha256),
        )
    return token.reveal()


def drawn_states(times: int, draw: random.Random) -> list[str]:
    """So many states, each about as often as the others, in a drawn order."""
    states = [STATES[number % len(STATES)] for number in range(times)]
    draw.shuffle(states)
    return states


def main() -> int:
    """0 when every promise was kept."""
    options = _options()
    draw = random.Random(options.seed)
    states = drawn_states(options.times, draw)
    console = Console(stderr=True)
    with ExitStack() as stack:
        site = stack.enter_context(_site())
        canceller = Canceller(site)
        stack.callback(canceller.close)
        bar = stack.enter_context(
            Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                console=console,
            )
        )  # fmt: skip
        task = bar.add_task("cancelling", total=len(states))

        def told(one: Instant) -> None:
            bar.advance(task)
            for what in one.broken:
                console.print(f"{one.wanted} ({one.found}): {what}", highlight=False)

        instants = canceller.run(states, draw, told)
        left = canceller.orphans()
    record = summary(instants, left) | {"seed": options.seed}
    print(json.dumps({name: value for name, value in record.items() if name != "instants"}, indent=2))
    if options.json:
        options.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0 if record["ok"] else 1


def summary(instants: Sequence[Instant], left: Sequence[str]) -> dict[str, Any]:
    """The figures."""
    to_end = [one.seconds_to_end for one in instants if one.answer == 200]
    to_gone = [one.seconds_to_gone for one in instants if one.had_trainer]
    broken = [f"{one.wanted} ({one.found}): {what}" for one in instants for what in one.broken]
    return {
        "times": len(instants),
        "ended": {end: sum(one.ended == end for one in instants) for end in ENDED},
        "found": _counted(one.found for one in instants),
        "seconds_to_end": _spread(to_end),
        "with_trainer": len(to_gone),
        "seconds_to_gone": _spread(to_gone),
        "broken": broken,
        "left": list(left),
        "ok": not broken and not left,
        "instants": [asdict(one) for one in instants],
    }


def _counted(names: Iterator[str] | Sequence[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))


def _spread(seconds: Sequence[float]) -> dict[str, float] | None:
    if not seconds:
        return None
    return {"median": round(statistics.median(seconds), 2), "max": round(max(seconds), 2)}


@contextmanager
def _site() -> Iterator[Site]:
    """Everything of this run's own; gone at its end."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cancels-")))
        url = stack.enter_context(embedded_database())
        environment = os.environ | _environment(folder, url, stack.enter_context(_queue()))
        _make_model(folder, environment)
        port = _free_port()
        uvicorn = ["-m", "uvicorn", "service.app:create_app", "--factory", "--port", str(port)]
        celery = ["-m", "celery", "-A", "worker.app", "worker", "-Q", "train", "-c", "1", "-n", "train@%h"]
        processes = [
            stack.enter_context(_running(name, arguments, environment, folder))
            for name, arguments in (("api", uvicorn), ("worker", celery))
        ]
        address = f"http://127.0.0.1:{port}"
        _until_ready(address, processes, folder)
        dsn = url.replace("postgresql+psycopg", "postgresql", 1)
        yield Site(url=address, api_key=open_account(dsn), dsn=dsn, storage=folder / "storage")


def _environment(folder: Path, database_url: str, redis_url: str) -> dict[str, str]:
    for secret in ("kek", "evidence-key", "serving-token"):
        (folder / secret).write_text(base64.b64encode(os.urandom(32)).decode())
    (folder / "log-key").write_text(f"benchmark/log\n{base64.b64encode(os.urandom(32)).decode()}\n")
    return {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "DOUBLEI_STORAGE_DIR": str(folder / "storage"),
        "DOUBLEI_MODEL_CACHE": str(folder / "cache"),
        "DOUBLEI_CATALOGUE_FILE": str(folder / "catalogue.toml"),
        "DOUBLEI_KEK_FILE": str(folder / "kek"),
        "DOUBLEI_LOG_KEY_FILE": str(folder / "log-key"),
        "DOUBLEI_EVIDENCE_KEY_FILE": str(folder / "evidence-key"),
        "DOUBLEI_SERVING_URL": "http://127.0.0.1:9",
        "DOUBLEI_SERVING_TOKEN_FILE": str(folder / "serving-token"),
        "DOUBLEI_READY_FILE": str(folder / "worker.ready"),
        "DOUBLEI_CHECKPOINT_STEPS": "3",
    }


def _make_model(folder: Path, environment: Mapping[str, str]) -> None:
    maker = ROOT / "tests" / "integration" / "tiny_model.py"
    subprocess.run([sys.executable, str(maker), str(folder / "model")], check=True, stderr=subprocess.DEVNULL)
    (folder / "catalogue.toml").write_text(
        f'[models.{MODEL}]\ntitle = "Tiny"\nlicence = "Apache-2.0"\nparameters = 70000\n'
        f'sources = [{{ path = "{folder / "model"}" }}]\n'
    )
    subprocess.run(
        [sys.executable, "-m", "worker.weights", "fetch", MODEL],
        env=environment, check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip


@contextmanager
def _queue() -> Iterator[str]:
    folder = make_socket_dir()
    data = folder / "data"
    data.mkdir(mode=0o700)
    command = valkey.server_command(data, folder, launcher=launcher(signal.SIGTERM))
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not valkey.answers(folder):
            if server.poll() is not None:
                raise RuntimeError("Valkey did not start")
            time.sleep(0.05)
        yield valkey.url(folder, 0)
    finally:
        server.terminate()
        server.wait()
        remove_socket_dir(folder)


@contextmanager
def _running(
    name: str, arguments: Sequence[str], environment: Mapping[str, str], folder: Path
) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [*launcher(signal.SIGKILL), sys.executable, *arguments],
            env=environment, stdout=log, stderr=log, cwd=ROOT,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _until_ready(address: str, processes: Sequence[subprocess.Popen[bytes]], folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            answered = httpx2.get(f"{address}/healthz", trust_env=False).status_code == 200
        except httpx2.HTTPError:
            answered = False
        if answered and (folder / "worker.ready").exists():
            return
        if time.monotonic() > deadline or any(process.poll() is not None for process in processes):
            logs = "".join((folder / f"{name}.log").read_text()[-1000:] for name in ("api", "worker"))
            raise RuntimeError(f"the service did not start:\n{logs}")
        time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cancels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--times", type=int, default=100, help="how many jobs are cancelled (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the instants (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures here, each instant among them")
    options = parser.parse_args()
    if options.times < 1:
        parser.error("--times must be at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main())
