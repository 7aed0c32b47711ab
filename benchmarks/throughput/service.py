"""A deployment of the benchmark's own: Postgres, Valkey, API and workers as `doublei up` starts them."""

from __future__ import annotations

import base64
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from benchmarks.throughput import noop
from catalogue import load_catalogue
from cli.stack import postgres, valkey
from cli.stack.launch import launcher
from cli.stack.privileges import postgres_privileges
from cli.stack.sockets import make_socket_dir, remove_socket_dir
from service.accounts.keys import ApiKeyToken
from service.storage import Storage
from worker.weights.cache import write_manifest

MODEL = "noop"
START_TIMEOUT_SECONDS = 60.0
DATASET = b'{"instruction": "What is one plus one?", "input": "", "output": "Two."}\n'


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What is running."""

    port: int
    dsn: str
    """for psycopg"""
    api_key: str
    training_file: str
    roots: dict[str, tuple[int, ...]]
    """the processes of each kind"""
    logs: Path


@contextmanager
def running(*, workers: int, mode: str) -> Iterator[Service]:
    """All of it, with so many worker processes of one job each; gone afterwards.

    Raises:
        RuntimeError: something did not start; the message has the end of its log.
    """
    folder = make_socket_dir()
    with ExitStack() as stack:
        stack.callback(remove_socket_dir, folder)
        url, store = _postgres(stack, folder)
        dsn = url.replace("postgresql+psycopg", "postgresql", 1)
        queue = _valkey(stack, folder)
        environment = _environment(folder, url) | {noop.MODE_VARIABLE: mode}
        token, file = _account(dsn, Storage(folder / "storage"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        command = [
            "uvicorn", "service.app:create_app", "--factory", "--port", str(port), "--no-access-log",
        ]  # fmt: skip
        api = _start(stack, folder, "api", _python(*command), environment)
        _wait(api, folder / "api.log", lambda: _connects(port))
        pids = []
        for number in range(workers):
            ready = folder / f"worker-{number}.ready"
            command = [
                "celery", "-q", "-A", "benchmarks.throughput.noop", "worker", "-Q", "train", "-c", "1",
                "-n", f"train{number}@%h", "--loglevel", "WARNING",
            ]  # fmt: skip
            name = f"worker-{number}"
            worker = _start(
                stack, folder, name, _python(*command), environment | {"DOUBLEI_READY_FILE": str(ready)}
            )
            _wait(worker, folder / f"{name}.log", ready.exists)
            pids.append(worker.pid)
        yield Service(
            port=port,
            dsn=dsn,
            api_key=token.reveal(),
            training_file=file,
            roots={
                "api": (api.pid,),
                "postgres": (store,),
                "valkey": (queue,),
                "workers": tuple(pids),
                "generator": (os.getpid(),),
            },
            logs=folder,
        )


def _postgres(stack: ExitStack, folder: Path) -> tuple[str, int]:
    data = folder / "pg"
    privileges = postgres_privileges(binary=postgres.binary("postgres"), data_parent=folder)
    privileges.give(folder)
    postgres.initialise(data, privileges)
    command = postgres.server_command(data, folder, launcher=(*privileges.prefix, *launcher(signal.SIGQUIT)))
    server = _start(stack, folder, "postgres", list(command), dict(os.environ), stop=signal.SIGINT)
    _wait(server, folder / "postgres.log", lambda: postgres.answers(folder))
    url = postgres.url(folder)
    migrate = [sys.executable, "-m", "migrations", "upgrade"]
    subprocess.run(migrate, env=os.environ | {"DATABASE_URL": url}, check=True)
    return url, server.pid


def _valkey(stack: ExitStack, folder: Path) -> int:
    data = folder / "valkey"
    data.mkdir(mode=0o700)
    command = valkey.server_command(data, folder, launcher=launcher(signal.SIGKILL))
    server = _start(stack, folder, "valkey", list(command), dict(os.environ))
    _wait(server, folder / "valkey.log", lambda: valkey.answers(folder))
    return server.pid


def _environment(folder: Path, url: str) -> dict[str, str]:
    for name in ("kek", "serving-token", "evidence-key"):
        (folder / name).write_text(base64.b64encode(secrets.token_bytes(32)).decode())
    seed = base64.b64encode(secrets.token_bytes(32)).decode()
    (folder / "log-key").write_text(f"benchmark/log\n{seed}\n")
    return dict(os.environ) | {
        "DATABASE_URL": url,
        "REDIS_URL": valkey.url(folder),
        "DOUBLEI_STORAGE_DIR": str(folder / "storage"),
        "DOUBLEI_MODEL_CACHE": str(folder / "models"),
        "DOUBLEI_CATALOGUE_FILE": str(_catalogue(folder)),
        "DOUBLEI_KEK_FILE": str(folder / "kek"),
        "DOUBLEI_LOG_KEY_FILE": str(folder / "log-key"),
        "DOUBLEI_EVIDENCE_KEY_FILE": str(folder / "evidence-key"),
        "DOUBLEI_SERVING_URL": "http://127.0.0.1:9",
        "DOUBLEI_SERVING_TOKEN_FILE": str(folder / "serving-token"),
    }


def _catalogue(folder: Path) -> Path:
    """An operator's catalogue with a model of one empty file, already in the cache."""
    weights = folder / "models" / MODEL
    weights.mkdir(parents=True)
    (weights / "model.safetensors").write_bytes(b"")
    file = folder / "catalogue.toml"
    file.write_text(
        f'[models.{MODEL}]\ntitle = "Noop"\nlicence = "Apache-2.0"\nparameters = 1\n'
        f'sources = [{{ path = "{weights}" }}]\n'
    )
    model = load_catalogue(file).get(MODEL)
    write_manifest(weights, model, model.sources[0])
    return file


def _account(dsn: str, storage: Storage) -> tuple[ApiKeyToken, str]:
    """A business owner with a key and an uploaded dataset of one row."""
    token, owner, file = ApiKeyToken.new(), "org-benchmark", "file-benchmark"
    digest, size = storage.put_bytes(DATASET)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("INSERT INTO organizations (id, name, role) VALUES (%s, 'o', 'owner')", (owner,))
        connection.execute(
            "INSERT INTO api_keys (id, organization_id, role, name, secret_sha256)"
            " VALUES (%s, %s, 'owner', 'throughput', %s)",
            (token.row_id, owner, token.secret_sha256),
        )
        connection.execute(
            "INSERT INTO files (id, organization_id, purpose, filename, bytes, sha256, validation)"
            " VALUES (%s, %s, 'fine-tune', 'd.jsonl', %s, %s, '{}')",
            (file, owner, size, digest),
        )
    return token, file


def _python(*arguments: str) -> list[str]:
    return [*launcher(signal.SIGKILL), sys.executable, "-m", *arguments]


def _start(
    stack: ExitStack,
    folder: Path,
    name: str,
    command: list[str],
    environment: dict[str, str],
    *,
    stop: signal.Signals = signal.SIGTERM,
) -> subprocess.Popen[bytes]:
    with (folder / f"{name}.log").open("ab") as output:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )

    def end() -> None:
        process.send_signal(stop)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    stack.callback(end)
    return process


def _wait(process: subprocess.Popen[bytes], log: Path, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{log.stem} did not start:\n{log.read_text()[-2000:]}")
        time.sleep(0.05)


def _connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
