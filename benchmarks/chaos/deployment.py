"""The product's own processes, started by its own commands, and started again whenever one dies.

Postgres, Valkey, two APIs (so two reapers) and two training workers. What `doublei up` or docker compose
would do is done here by a plainer keeper: it never gives up, since everything here is killed all the time.
"""

from __future__ import annotations

import ctypes
import os
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import psycopg

from benchmarks.chaos import observer
from benchmarks.chaos.proxy import Proxy
from benchmarks.chaos.trainer import PLAYED_MODEL, REAL_MODEL
from benchmarks.chaos.worker import CATATONIC_VARIABLE, CLOCK_VARIABLE
from cli.stack import postgres, valkey
from cli.stack.checks import AnswersHttp, TouchesFile
from cli.stack.child import Child
from cli.stack.home import Home, ensure_secrets, prepare
from cli.stack.plan import METRICS_VARIABLE, READY_FILE_VARIABLE, ChildSpec, Site, build_plan
from cli.stack.ports import HOST, PortClaims
from cli.stack.privileges import postgres_privileges
from cli.stack.running import read_credentials
from cli.stack.sockets import make_socket_dir, remove_socket_dir

ROOT = Path(__file__).parents[2]
TICK_SECONDS = 0.05
RESTART_SECONDS = 0.3
"""As a container runtime waits at first."""
START_TIMEOUT_SECONDS = 180.0
CLOCK_ERROR_SECONDS = 3600.0
APIS = ("api-a", "api-b")
WORKERS = ("worker-a", "worker-b")
PROXIED = "worker-b"
"""Reaches both stores through proxies that can be cut."""
_STOP_ORDER = (*WORKERS, *APIS, "valkey", "postgres")
_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


@dataclass(slots=True)
class _Slot:
    spec: ChildSpec
    child: Child | None = None
    ready: bool = False
    held: bool = False
    """not to be started again for now"""
    retry_at: float = 0.0
    before_start: list[Callable[[], None]] = field(default_factory=list)


class Deployment:
    """``with Deployment(...) as it:`` is up when entered, and gone when left."""

    def __init__(
        self,
        root: Path,
        *,
        tiny_model: Path,
        lease_seconds: int,
        seed: int,
        models: Sequence[str] = (PLAYED_MODEL, REAL_MODEL),
    ) -> None:
        self.home = Home(root=root)
        self.lease_seconds = lease_seconds
        self.deaths: Counter[str] = Counter()
        self.clock_errors: Counter[int] = Counter()
        self._tiny_model = tiny_model
        self._models = tuple(models)
        self._extra: dict[str, str] = {}
        self.catatonic_file = root.with_name("catatonic")
        """while it is there, workers stop to take messages"""
        self._draw = random.Random(f"{seed}/clocks")
        self._claims = PortClaims()
        self._slots: dict[str, _Slot] = {}
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._up = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="keeper")

    def __enter__(self) -> Self:
        self._settle()
        self._thread.start()
        try:
            while not self._up.wait(0.1):
                if self._failure is not None:
                    raise self._failure
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    # What clients and the nemesis need.

    @property
    def api_urls(self) -> tuple[str, ...]:
        """Both APIs' roots."""
        return tuple(f"http://{HOST}:{port}" for port in (self._ports.api, self._ports.dashboard))

    @property
    def owner_key(self) -> str:
        """The bearer key of the first owner."""
        return read_credentials(self.home)["owner"].api_key

    def connect(self) -> psycopg.Connection:
        """To the database, past every proxy."""
        return psycopg.connect(
            host=str(self.socket_dir), user=postgres.SUPERUSER, dbname=postgres.DATABASE, connect_timeout=5
        )

    @property
    def redis_url(self) -> str:
        """The broker's, past every proxy."""
        return valkey.url(self.socket_dir)

    def service_environment(self) -> dict[str, str]:
        """For a program that works on this deployment's records."""
        return dict(self._slots["api-a"].spec.environment)

    def pid(self, name: str) -> int | None:
        """The process of that name, if it runs now."""
        with self._lock:
            child = self._slots[name].child
            return child.identity.pid if child is not None and child.returncode is None else None

    def family(self, name: str) -> list[psutil.Process]:
        """It and everything it has started, itself first."""
        pid = self.pid(name)
        if pid is None:
            return []
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            return [process, *process.children(recursive=True)]
        return []

    def trainers(self) -> list[psutil.Process]:
        """The training processes that run now."""
        return [process for worker in WORKERS for process in self.family(worker)[1:] if _is_trainer(process)]

    def signal(self, name: str, number: signal.Signals) -> bool:
        """Send it to the process itself; false if it does not run."""
        pid = self.pid(name)
        with suppress(ProcessLookupError):
            if pid is not None:
                os.kill(pid, number)
                return True
        return False

    def before_next_start(self, name: str, action: Callable[[], None]) -> None:
        """Called once, by the keeper, when it next starts that process."""
        with self._lock:
            self._slots[name].before_start.append(action)

    def is_ready(self, name: str) -> bool:
        """Whether it has been ready since it was last started."""
        with self._lock:
            return self._slots[name].ready

    def wait_ready(self, *names: str, seconds: float = 60.0) -> bool:
        """False: not within that time."""
        deadline = time.monotonic() + seconds
        while not all(self.is_ready(name) and self.pid(name) for name in names):
            if time.monotonic() > deadline or self._stopping.is_set():
                return False
            time.sleep(TICK_SECONDS)
        return True

    # What follows runs on the keeper's thread, for the kernel ties children to the thread that starts them.

    def _settle(self) -> None:
        prepare(self.home)
        ensure_secrets(self.home)
        self._ports = self._claims.choose(api=None, remembered=None)
        self.socket_dir = make_socket_dir()
        self._proxy_dir = make_socket_dir()
        privileges = postgres_privileges(binary=postgres.binary("postgres"), data_parent=self.home.root)
        privileges.give(self.socket_dir)
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._site = Site(
            home=self.home,
            ports=self._ports,
            socket_dir=self.socket_dir,
            stack_id=secrets.token_hex(8),
            privileges=privileges,
        )
        self._extra |= {
            "PYTHONPATH": str(ROOT),
            "DOUBLEI_LEASE_SECONDS": str(self.lease_seconds),
            "DOUBLEI_MODEL_CACHE": str(self.home.root / "cache"),
            "DOUBLEI_CATALOGUE_FILE": str(self._catalogue()),
            "DOUBLEI_CHECKPOINT_STEPS": "2",
            "DOUBLEI_RETRY_SECONDS": "1",
        }
        self.proxies = {
            name: Proxy(self._proxy_dir / socket, self.socket_dir / socket)
            for name, socket in (("postgres", ".s.PGSQL.5432"), ("valkey", valkey.SOCKET_NAME))
        }

    def _catalogue(self) -> Path:
        path = self.home.root / "catalogue.toml"
        path.write_text(
            "\n".join(
                f'[models.{name}]\ntitle = "Tiny"\nlicence = "Apache-2.0"\nparameters = 70000\n'
                f'sources = [{{ path = "{self._tiny_model}" }}]\n'
                for name in self._models
            )
        )
        return path

    def _plan(self) -> dict[str, ChildSpec]:
        """The product's plan, with a second API and a second worker, and without what no job needs."""
        plan = {spec.name: spec for spec in build_plan(self._site)}
        wanted = {name: plan[name] for name in ("cluster", "postgres", "migrations", "bootstrap", "valkey")}
        ports = (self._ports.api, self._ports.dashboard)
        metrics = (self._ports.metrics_api, self._ports.serving)
        for name, port, door in zip(APIS, ports, metrics, strict=True):
            command = tuple(
                str(port) if part == str(self._ports.api) else part for part in plan["api"].command
            )
            wanted[name] = replace(
                plan["api"],
                name=name,
                command=command,
                environment={**plan["api"].environment, METRICS_VARIABLE: f"{HOST}:{door}"},
                ready=AnswersHttp(port=port, path="/healthz"),
            )
        metrics = (self._ports.metrics_train, self._ports.metrics_probe)
        for name, door in zip(WORKERS, metrics, strict=True):
            ready = self.socket_dir / f"{name}.ready"
            own: dict[str, str] = {
                READY_FILE_VARIABLE: str(ready), METRICS_VARIABLE: f"{HOST}:{door}", "CHAOS_WORKER": name,
            }  # fmt: skip
            if name == PROXIED:
                own |= {
                    "DATABASE_URL": postgres.url(self._proxy_dir),
                    "REDIS_URL": valkey.url(self._proxy_dir),
                }
            own[CATATONIC_VARIABLE] = str(self.catatonic_file)
            changed = {"celery": "benchmarks.chaos.worker", "train@%h": f"{name}@%h"}
            wanted[name] = replace(
                plan["worker-train"],
                name=name,
                command=tuple(changed.get(part, part) for part in plan["worker-train"].command),
                environment={**plan["worker-train"].environment, **own},
                ready=TouchesFile(path=ready),
            )  # fmt: skip
        return {
            name: replace(spec, environment={**spec.environment, **self._extra, "DOUBLEI_CHILD": name})
            for name, spec in wanted.items()
        }

    def _run(self) -> None:
        try:
            for proxy in self.proxies.values():
                proxy.start()
            plan = self._plan()
            self._fetch_weights(plan["api-a"].environment)
            tasks = {name: plan.pop(name) for name in ("cluster", "migrations", "bootstrap")}
            self._slots = {name: _Slot(spec) for name, spec in plan.items()}
            self._do(tasks["cluster"])
            self._start_and_wait("postgres", "valkey")
            self._do(tasks["migrations"])
            self._do(tasks["bootstrap"])
            with self.connect() as connection:
                observer.install(connection)
            self._start_and_wait(*APIS, *WORKERS)
            self._up.set()
            while not self._stopping.is_set():
                self._tick(*self._slots)
                time.sleep(TICK_SECONDS)
        except BaseException as error:
            self._failure = error
        finally:
            self._stop()

    def _fetch_weights(self, environment: Mapping[str, str]) -> None:
        for model in self._models:
            subprocess.run(
                [sys.executable, "-m", "worker.weights", "fetch", model],
                env=dict(environment), check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            )  # fmt: skip

    def _do(self, spec: ChildSpec) -> None:
        child = Child(spec, self.home.logs / f"{spec.name}.log")
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while child.returncode is None and time.monotonic() < deadline:
            time.sleep(TICK_SECONDS)
        child.sweep()
        if child.returncode != 0:
            raise RuntimeError(f"{spec.name} failed: {child.last_words()}")

    def _start_and_wait(self, *names: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not all(self._slots[name].ready for name in names):
            self._tick(*names)
            time.sleep(TICK_SECONDS)
            if time.monotonic() > deadline or self._stopping.is_set():
                raise RuntimeError(f"not ready: {[name for name in names if not self._slots[name].ready]}")

    def _tick(self, *names: str) -> None:
        for name in names:
            slot = self._slots[name]
            with self._lock:
                if slot.child is not None and slot.child.returncode is not None:
                    slot.child.sweep()
                    slot.child, slot.ready = None, False
                    slot.retry_at = time.monotonic() + RESTART_SECONDS
                    self.deaths[name] += 1
                if slot.child is None and not slot.held and time.monotonic() >= slot.retry_at:
                    self._start(slot)
            if slot.child is not None and not slot.ready:
                slot.ready = slot.child.is_ready()

    def _start(self, slot: _Slot) -> None:
        while slot.before_start:
            slot.before_start.pop()()
        spec = slot.spec
        if spec.name in WORKERS:
            # Each start with another clock, none of them right.
            error = self._draw.choice((-1, 1)) * CLOCK_ERROR_SECONDS
            self.clock_errors[int(error)] += 1
            spec = replace(spec, environment={**spec.environment, CLOCK_VARIABLE: str(error)})
        slot.child = Child(spec, self.home.logs / f"{spec.name}.log")

    def _leave(self) -> None:
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._claims.release()
        for folder in (self.socket_dir, self._proxy_dir):
            remove_socket_dir(folder)

    def _stop(self) -> None:
        for name in _STOP_ORDER:
            slot = self._slots.get(name)
            if slot is None or slot.child is None:
                continue
            for process in self.family(name):
                with suppress(psutil.Error):
                    process.send_signal(signal.SIGCONT)
            slot.child.send(slot.spec.stop_signal)
            deadline = time.monotonic() + slot.spec.stop_timeout_seconds
            while slot.child.returncode is None and time.monotonic() < deadline:
                time.sleep(TICK_SECONDS)
            if slot.child.returncode is None:
                slot.child.kill()
                while slot.child.returncode is None:
                    time.sleep(TICK_SECONDS)
            slot.child.sweep()
        for proxy in self.proxies.values():
            with suppress(RuntimeError):
                proxy.stop()


def _is_trainer(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        command = process.cmdline()
        return "benchmarks.chaos.trainer" in command or "worker.finetune" in command
    return False
