"""What is done to the deployment, when, in an order that one seed gives.

First every fault once, shuffled; then by weight, the plain kills most often. Between two faults lies a random
pause, so they also fall into each other's aftermath. Each is written down with its time and what was hit.
"""

from __future__ import annotations

import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import httpx2
import psutil
import redis

from benchmarks.chaos.clients import dataset
from benchmarks.chaos.deployment import APIS, PROXIED, WORKERS, Deployment
from service.broker import client_url
from service.dispatch import Dispatcher, DispatchError, TaskName, broker_transport_options

HANG_SECONDS = 6.0
FILE_LIMIT_BYTES = 64 * 1024
BIG_UPLOAD_ROWS = 20_000
WHILE_STARTING = 0.1
"""How often a process is hit that may not be up yet."""

LASTING = frozenset(
    {
        "worker stopped beyond its lease, then continued",
        "five restarts of Valkey in a row",
        "both workers catatonic",
        "Valkey hangs",
        "Valkey out of memory",
        "no room for an upload",
        "migrations upgraded under load",
        "worker cut off from Postgres",
        "worker half-open to Postgres",
        "worker cut off from Valkey",
        "worker half-open to Valkey",
    }
)
"""Faults that take seconds themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Injected:
    """One fault that was injected. Times are seconds since the epoch."""

    fault: str
    """its number in the list of faults"""
    name: str
    began: float
    ended: float
    detail: str


@dataclass(slots=True)
class Nemesis:
    """Runs in a thread of its own."""

    deployment: Deployment
    draw: random.Random
    token: str
    pace_seconds: float
    over: threading.Event
    kills_only: bool = False
    known_jobs: list[str] = field(default_factory=list)
    injected: list[Injected] = field(default_factory=list)
    failure: BaseException | None = None

    def run(self) -> None:
        """Until it is over. A mistake of its own ends it and is kept."""
        try:
            for fault, name, action in self._order():
                if self.over.wait(self.draw.expovariate(1 / self.pace_seconds)):
                    return
                self.inject(fault, name, action)
        except BaseException as error:
            self.failure = error

    def inject(self, fault: str, name: str, action: Callable[[], str | None]) -> None:
        """One fault now; None as its detail: there was nothing to hit."""
        began = time.time()
        detail = action()
        if detail is not None:
            self.injected.append(
                Injected(fault=fault, name=name, began=began, ended=time.time(), detail=detail)
            )

    def _order(self) -> list[tuple[str, str, Callable[[], str | None]]]:
        lasting = LASTING if self.kills_only else frozenset()
        faults = [fault for fault in self.faults() if fault[1] not in lasting]
        once = [(fault, name, action) for fault, name, _, action in faults]
        self.draw.shuffle(once)
        drawn = self.draw.choices(faults, weights=[weight for _, _, weight, _ in faults], k=20_000)
        return once + [(fault, name, action) for fault, name, _, action in drawn]

    def faults(self) -> list[tuple[str, str, float, Callable[[], str | None]]]:
        """Number, name, weight and what to do."""
        return [
            ("F1", "kill -9 trainer", 10, self.kill_trainer),
            ("F2", "kill -9 worker and all it started", 8, self.kill_worker),
            ("F2", "SIGTERM worker (rolling restart)", 2, self.terminate_worker),
            ("F4", "worker stopped beyond its lease, then continued", 1, self.freeze_worker),
            ("F5", "kill -9 Valkey", 5, self.kill_valkey),
            ("F5", "kill -9 Valkey and its data deleted", 3, self.wipe_valkey),
            ("F5", "FLUSHALL", 3, self.flush_valkey),
            ("F5", "five restarts of Valkey in a row", 0.5, self.restart_valkey_often),
            ("F5", "both workers catatonic", 0.5, self.make_catatonic),
            ("F6", "Valkey hangs", 1, self.hang_valkey),
            ("F6", "CLIENT KILL of every connection", 3, self.kill_clients),
            ("F6", "Valkey out of memory", 1, self.fill_valkey),
            ("F7", "kill -9 Postgres", 4, self.kill_postgres),
            ("F7", "Postgres stopped at once (SIGQUIT)", 2, self.quit_postgres),
            ("F7", "pg_terminate_backend of all, ten times", 2, self.terminate_backends),
            ("F9", "ten messages for one job, ended ones too", 3, self.ring_often),
            ("F10", "what is not acknowledged is delivered again", 3, self.redeliver),
            ("F11", "no room for an upload", 1, self.fill_disk),
            ("F15", "kill -9 API", 5, self.kill_api),
            ("F15", "kill -9 API in the middle of an upload", 1, self.kill_api_in_upload),
            ("F22", "migrations upgraded under load", 0.5, self.migrate),
            ("F23", "worker cut off from Postgres", 1, self.cut_postgres),
            ("F23", "worker half-open to Postgres", 1, self.hold_postgres),
            ("F23", "worker cut off from Valkey", 1, self.cut_valkey),
            ("F23", "worker half-open to Valkey", 1, self.hold_valkey),
        ]

    # Processes.

    def kill_trainer(self) -> str | None:
        """In the middle of whatever it does."""
        running = self.deployment.trainers()
        if not running:
            return None
        victim = self.draw.choice(running)
        with suppress(psutil.Error):
            victim.kill()
            return "killed"
        return None

    def kill_worker(self) -> str | None:
        """As when its machine is lost, though the kernel stays."""
        name = self._victim(*WORKERS)
        family = self.deployment.family(name) if name else []
        for process in family:
            with suppress(psutil.Error):
                process.kill()
        return f"{len(family)} processes" if family else None

    def terminate_worker(self) -> str | None:
        """It hands its job back."""
        return "asked to end" if self._hit(signal.SIGTERM, *WORKERS) else None

    def freeze_worker(self) -> str | None:
        """A zombie: when it wakes up its job is somebody else's. A worker that trains, if one does."""
        families = [self.deployment.family(name) for name in WORKERS]
        family = max(families, key=len)
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for process in family:
                with suppress(psutil.Error):
                    process.send_signal(number)
            if number == signal.SIGSTOP:
                self.over.wait(self.deployment.lease_seconds + 5)
        return f"{len(family)} processes" if family else None

    def kill_valkey(self) -> str | None:
        """Up to a second of its messages is lost."""
        return "killed" if self._hit(signal.SIGKILL, "valkey") else None

    def wipe_valkey(self) -> str | None:
        """A broker that comes back with nothing."""
        data = self.deployment.home.valkey

        def wipe() -> None:
            shutil.rmtree(data)
            data.mkdir(mode=0o700)

        self.deployment.before_next_start("valkey", wipe)
        return "wiped" if self.deployment.signal("valkey", signal.SIGKILL) else None

    def flush_valkey(self) -> str | None:
        """The messages go and the connections stay."""
        with self._redis() as client, suppress(redis.RedisError):
            client.flushall()
            return "flushed"
        return None

    def restart_valkey_often(self) -> str | None:
        """What made workers of Celery 5.6 catatonic."""
        for _ in range(5):
            self.deployment.wait_ready("valkey")
            self.deployment.signal("valkey", signal.SIGKILL)
            self.over.wait(self.draw.uniform(1, 4))
        return "five times"

    def make_catatonic(self) -> str | None:
        """What such a restart did to workers of Celery 5.6: alive, connected, and deaf."""
        file = self.deployment.catatonic_file
        file.touch()
        self.over.wait(1.0)
        file.unlink()
        return "for good"

    def hang_valkey(self) -> str | None:
        """It accepts and says nothing."""
        if not self.deployment.signal("valkey", signal.SIGSTOP):
            return None
        self.over.wait(HANG_SECONDS)
        self.deployment.signal("valkey", signal.SIGCONT)
        return f"for {HANG_SECONDS:.0f} s"

    def kill_clients(self) -> str | None:
        """Every connection but ours."""
        with self._redis() as client, suppress(redis.RedisError):
            killed = client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            return f"{killed} connections"
        return None

    def fill_valkey(self) -> str | None:
        """It takes no message for a while."""
        with self._redis() as client, suppress(redis.RedisError):
            client.config_set("maxmemory", 1)
            self.over.wait(HANG_SECONDS)
            client.config_set("maxmemory", 0)
            return f"for {HANG_SECONDS:.0f} s"
        return None

    def kill_postgres(self) -> str | None:
        """The postmaster; its backends follow."""
        return "killed" if self._hit(signal.SIGKILL, "postgres") else None

    def quit_postgres(self) -> str | None:
        """pg_ctl stop -m immediate."""
        return "stopped" if self._hit(signal.SIGQUIT, "postgres") else None

    def terminate_backends(self) -> str | None:
        """Every connection of everybody, a few times a second."""
        ended = 0
        for _ in range(10):
            with suppress(Exception), self.deployment.connect() as connection:
                found = connection.execute(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                    " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
                ).fetchone()
                ended += found[0] if found else 0
            self.over.wait(0.2)
        return f"{ended} connections"

    def kill_api(self) -> str | None:
        """With requests and a reaper's pass under way."""
        return "killed" if self._hit(signal.SIGKILL, *APIS) else None

    def kill_api_in_upload(self) -> str | None:
        """Then the same upload again, with the same Idempotency-Key, at the other API."""
        url, other = self.deployment.api_urls
        content = dataset("played", rows=BIG_UPLOAD_ROWS)
        key = f"upload-{self.draw.getrandbits(64):016x}"
        halfway, go_on = threading.Event(), threading.Event()

        def send() -> None:
            with suppress(httpx2.HTTPError):
                upload(url, self.token, content, key=key, halfway=halfway, go_on=go_on)

        thread = threading.Thread(target=send)
        thread.start()
        halfway.wait(10)
        time.sleep(0.2)
        self.deployment.signal(APIS[0], signal.SIGKILL)
        go_on.set()
        thread.join()
        file = self._upload_until_clear(other, content, key)
        return f"then stored as {file}" if file else "API away"

    def fill_disk(self) -> str | None:
        """A quota on the API: no file may grow beyond some KiB. Nothing is kept, and with room again the same
        upload goes through."""
        pid = self.deployment.pid(APIS[1])
        if pid is None:
            return None
        url, content = self.deployment.api_urls[1], dataset("played", rows=BIG_UPLOAD_ROWS)
        key = f"full-{self.draw.getrandbits(64):016x}"
        try:
            before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (FILE_LIMIT_BYTES, resource.RLIM_INFINITY))
        except (ProcessLookupError, PermissionError):
            return None
        refused: int | None = None
        try:
            with suppress(httpx2.HTTPError):
                refused = upload(url, self.token, content, key=key).status_code
        finally:
            with suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
        file = self._upload_until_clear(url, content, key)
        return f"HTTP {refused}, then {'stored' if file else 'API away'}"

    def _victim(self, *names: str) -> str | None:
        """One that is ready; now and then one that is still starting. Were those killed as often, a slow
        machine would never get to do anything else."""
        ready = [name for name in names if self.deployment.is_ready(name)]
        chosen = names if self.draw.random() < WHILE_STARTING else ready
        return self.draw.choice(chosen) if chosen else None

    def _hit(self, number: signal.Signals, *names: str) -> bool:
        name = self._victim(*names)
        return name is not None and self.deployment.signal(name, number)

    # Messages.

    def ring_often(self) -> str | None:
        """The same message ten times over, for a job in whatever state."""
        if not self.known_jobs:
            return None
        job = self.draw.choice(self.known_jobs)
        dispatcher = Dispatcher(self.deployment.redis_url)
        try:
            for _ in range(10):
                dispatcher.ring(TaskName.finetune_run, job)
        except DispatchError:
            return None
        finally:
            dispatcher.close()
        return "ten"

    def redeliver(self) -> str | None:
        """What an app with a visibility timeout of nothing does to everybody on its broker."""
        from celery import Celery

        app = Celery("impatient", broker=self.deployment.redis_url, set_as_current=False)
        app.conf.broker_transport_options = broker_transport_options() | {
            "visibility_timeout": -2 * 3600,  # beyond the clocks' errors
            "socket_timeout": 2.0,
            "socket_connect_timeout": 2.0,
        }
        try:
            with app.connection_for_write() as connection:
                channel = connection.default_channel
                held = channel.client.hlen(channel.unacked_key)
                channel.qos.restore_visible(num=100, interval=1)
                left = channel.client.hlen(channel.unacked_key)
        except (redis.RedisError, OSError):
            return None
        finally:
            app.close()
        return f"{held - left} of {held} messages" if held else None

    # Networks, clocks and versions.

    def cut_postgres(self) -> str | None:
        """Long enough for the lease to end."""
        with self.deployment.proxies["postgres"].cut():
            self.over.wait(self.deployment.lease_seconds + 3)
        return PROXIED

    def hold_postgres(self) -> str | None:
        """The same without anybody being told."""
        with self.deployment.proxies["postgres"].held():
            self.over.wait(self.deployment.lease_seconds + 3)
        return PROXIED

    def cut_valkey(self) -> str | None:
        """It trains on, and hears of no other job."""
        with self.deployment.proxies["valkey"].cut():
            self.over.wait(self.deployment.lease_seconds)
        return PROXIED

    def hold_valkey(self) -> str | None:
        """A message may be on its way into nothing."""
        with self.deployment.proxies["valkey"].held():
            self.over.wait(self.deployment.lease_seconds)
        return PROXIED

    def migrate(self) -> str | None:
        """Two at once."""
        command = [sys.executable, "-m", "migrations", "upgrade"]
        environment = self.deployment.service_environment()
        both = [
            subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for _ in range(2)
        ]
        return f"exit statuses {sorted(one.wait() for one in both)}"

    def _upload_until_clear(self, url: str, content: bytes, key: str) -> str | None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not self.over.is_set():
            with suppress(httpx2.HTTPError, ValueError):
                answer = upload(url, self.token, content, key=key)
                if answer.status_code == 200:
                    return str(answer.json()["id"])
            time.sleep(0.5)
        return None

    def _redis(self) -> redis.Redis:
        return redis.Redis.from_url(
            client_url(self.deployment.redis_url), socket_timeout=10, socket_connect_timeout=2
        )


def upload(
    url: str,
    token: str,
    content: bytes,
    *,
    key: str,
    halfway: threading.Event | None = None,
    go_on: threading.Event | None = None,
) -> httpx2.Response:
    """Send a dataset; on request stop in its middle until told to go on.

    Raises:
        HTTPError: no answer.
    """
    boundary = "b0undary"

    def body() -> object:
        yield (
            f'--{boundary}\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
            f'--{boundary}\r\ncontent-disposition: form-data; name="file"; filename="d.jsonl"\r\n\r\n'
        ).encode()
        middle = len(content) // 2
        yield content[:middle]
        if halfway is not None and go_on is not None:
            halfway.set()
            go_on.wait(10)
        yield content[middle:] + f"\r\n--{boundary}--\r\n".encode()

    return httpx2.post(
        f"{url}/v1/files",
        content=body(),  # type: ignore[arg-type]
        headers={
            "authorization": f"Bearer {token}",
            "idempotency-key": key,
            "content-type": f"multipart/form-data; boundary={boundary}",
        },
        trust_env=False,
        timeout=30,
    )
