"""What runs, with what, after what: the whole stack as one table."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cli.stack import postgres, valkey
from cli.stack.checks import AnswersHttp, AnswersSocket, Exits, ReadyCheck, TouchesFile
from cli.stack.home import Home
from cli.stack.launch import launcher
from cli.stack.ports import HOST, Ports
from cli.stack.privileges import Privileges
from cli.stack.processes import CHILD_VARIABLE, STACK_VARIABLE
from cli.stack.state import State

BASE_MODEL = "smollm2-135m-instruct"
ALONE = ("--without-gossip", "--without-mingle", "--without-heartbeat")
"""Workers of Celery talk to each other by default. Nobody listens here, and it has been part of how restarts
of the broker left them deaf (celery#8030)."""
READY_FILE_VARIABLE = "DOUBLEI_READY_FILE"
METRICS_VARIABLE = "DOUBLEI_METRICS_ADDRESS"
_PATH_VARIABLES = (
    "DOUBLEI_MODEL_CACHE",
    "DOUBLEI_CATALOGUE_FILE",
    "DOUBLEI_TSA_CA_FILE",
    "DOUBLEI_LOG_WITNESSES",
    "DOUBLEI_WITNESSED_LOGS",
    "XDG_CACHE_HOME",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """One process of the stack. ``after`` names what must be ready (or have ended well) before it starts."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    folder: Path
    """Its working folder."""
    ready: ReadyCheck
    after: tuple[str, ...] = ()
    stop_stage: int
    """Stages are stopped one after the other, the smallest first; within a stage, together."""
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout_seconds: float = 5.0
    hurried_signal: signal.Signals = signal.SIGKILL
    """What it gets when the user can't wait or its time is over."""
    start_timeout_seconds: float = 60.0
    essential: bool = True
    """Whether the stack ends when this child can't be kept running."""
    reports_progress: bool = False
    """Its standard output is JSON lines: {"stage", "done_bytes", "total_bytes"}, or {"stage": "error",
    "message"}."""

    @property
    def is_task(self) -> bool:
        """A one-shot, done when it has ended well."""
        return isinstance(self.ready, Exits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where this start of the stack happens."""

    home: Home
    ports: Ports
    socket_dir: Path
    stack_id: str
    privileges: Privileges


def build_plan(site: Site) -> tuple[ChildSpec, ...]:
    """The children of the stack, each after those it waits for."""
    return (*stores(site), *_preparations(site), *_servers(site), *_workers(site))


def stores(site: Site) -> tuple[ChildSpec, ...]:
    """Postgres, made on the first start, and the queue."""
    home, sockets = site.home, site.socket_dir
    # Postgres gets the prefix before the launcher: entering a namespace would forget the death signal.
    # On its parent's death it stops as for us, fast and clean.
    as_postgres = (*site.privileges.prefix, *launcher(signal.SIGINT))
    initialised = postgres.is_initialised(home.postgres)
    cluster = ChildSpec(
        name="cluster",
        command=_python("cli.stack.initialise", str(home.postgres)),
        environment=_environment(site, "cluster"),
        folder=site.home.root,
        ready=Exits(),
        stop_stage=0,
        stop_signal=signal.SIGKILL,
        start_timeout_seconds=300,
    )
    server = ChildSpec(
        name="postgres",
        command=postgres.server_command(home.postgres, sockets, launcher=as_postgres),
        environment=_environment(site, "postgres") | {"LC_ALL": "C", "TZ": "UTC"},
        folder=site.home.root,
        ready=AnswersSocket(folder=sockets, ask=postgres.answers),
        after=() if initialised else ("cluster",),
        stop_stage=6,
        stop_signal=signal.SIGINT,
        stop_timeout_seconds=30,
        hurried_signal=signal.SIGQUIT,
        start_timeout_seconds=300,
    )
    queue = ChildSpec(
        name="valkey",
        command=valkey.server_command(home.valkey, sockets, launcher=launcher(signal.SIGTERM)),
        environment=_environment(site, "valkey"),
        folder=site.home.root,
        ready=AnswersSocket(folder=sockets, ask=valkey.answers),
        stop_stage=5,
        stop_timeout_seconds=15,
        start_timeout_seconds=120,
    )
    return (server, queue) if initialised else (cluster, server, queue)


def _preparations(site: Site) -> tuple[ChildSpec, ...]:
    weights = ChildSpec(
        name="weights",
        command=_python("worker.weights", "fetch", BASE_MODEL, "--json"),
        environment=_environment(site, "weights"),
        folder=site.home.root,
        ready=Exits(),
        stop_stage=0,
        stop_timeout_seconds=3,
        start_timeout_seconds=3600,
        reports_progress=True,
    )
    migrations = ChildSpec(
        name="migrations",
        command=_python("migrations", "upgrade"),
        environment=_environment(site, "migrations"),
        folder=site.home.root,
        ready=Exits(),
        after=("postgres",),
        stop_stage=0,
        start_timeout_seconds=600,
    )
    bootstrap = ChildSpec(
        name="bootstrap",
        command=_python("service.bootstrap", "--credentials-file", str(site.home.credentials_file)),
        environment=_environment(site, "bootstrap"),
        folder=site.home.root,
        ready=Exits(),
        after=("migrations",),
        stop_stage=0,
    )
    return weights, migrations, bootstrap


def _servers(site: Site) -> tuple[ChildSpec, ...]:
    ports = site.ports
    api = ChildSpec(
        name="api",
        command=_python(
            "uvicorn", "service.app:create_app", "--factory", "--host", HOST, "--port", str(ports.api),
            "--no-access-log", "--timeout-graceful-shutdown", "3",
        ),
        # Nobody else signs the log, another's log or bundles, so nobody else is told where the keys are.
        environment=_environment(site, "api")
        | {
            "DOUBLEI_LOG_KEY_FILE": str(site.home.log_key_file),
            "DOUBLEI_EVIDENCE_KEY_FILE": str(site.home.evidence_key_file),
            "DOUBLEI_WITNESS_KEY_FILE": str(site.home.witness_key_file),
            METRICS_VARIABLE: f"{HOST}:{ports.metrics_api}",
        },
        folder=site.home.root,
        ready=AnswersHttp(port=ports.api, path="/healthz"),
        after=("bootstrap", "valkey"),
        stop_stage=2,
    )  # fmt: skip
    serving = ChildSpec(
        name="serving",
        command=_python(
            "worker.serving", "--model", BASE_MODEL, "--host", HOST, "--port", str(ports.serving)
        ),
        environment=_environment(site, "serving"),
        folder=site.home.root,
        ready=AnswersHttp(port=ports.serving, path="/health"),
        after=("weights",),
        stop_stage=4,
        start_timeout_seconds=300,
    )
    dashboard = ChildSpec(
        name="dashboard",
        command=_python(
            "dashboard", "--host", HOST, "--port", str(ports.dashboard), "--api", f"http://{HOST}:{ports.api}"
        ),
        environment=_environment(site, "dashboard"),
        folder=site.home.root,
        ready=AnswersHttp(port=ports.dashboard, path="/healthz"),
        after=("api",),
        stop_stage=1,
        stop_timeout_seconds=3,
        essential=False,
    )
    return api, serving, dashboard


def _workers(site: Site) -> tuple[ChildSpec, ...]:
    return (
        _worker(
            site,
            "train",
            concurrency=1,
            after=("bootstrap", "valkey", "weights"),
            metrics_port=site.ports.metrics_train,
        ),
        _worker(
            site,
            "probe",
            concurrency=2,
            after=("bootstrap", "valkey"),
            metrics_port=site.ports.metrics_probe,
        ),
    )


def _worker(
    site: Site, queue: str, *, concurrency: int, after: tuple[str, ...], metrics_port: int
) -> ChildSpec:
    name = f"worker-{queue}"
    ready_file = site.socket_dir / f"{name}.ready"
    return ChildSpec(
        name=name,
        command=_python(
            "celery", "-q", "-A", "worker.app", "worker", "-Q", queue, "-c", str(concurrency),
            "-n", f"{queue}@%h", "--loglevel", "WARNING", *ALONE,
        ),
        environment=_environment(site, name)
        | {READY_FILE_VARIABLE: str(ready_file), METRICS_VARIABLE: f"{HOST}:{metrics_port}"},
        folder=site.home.root,
        ready=TouchesFile(path=ready_file),
        after=after,
        stop_stage=3,
        # A warm stop waits for the task at hand. A fine-tuning job does not end in time and needs not:
        # its lease expires and the next start takes it up again.
        stop_timeout_seconds=8,
        start_timeout_seconds=120,
    )  # fmt: skip


def operator_task(
    home: Home, current: State, module: str, *arguments: str
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Command and environment of what an operator runs once beside a running stack. It is no child of the
    stack: it ends by itself."""
    site = Site(
        home=home,
        ports=current.ports,
        socket_dir=current.socket_dir,
        stack_id=current.stack_id,
        privileges=Privileges(),
    )
    environment = _environment(site, "operator") | {
        "DOUBLEI_LOG_KEY_FILE": str(home.log_key_file),
        "DOUBLEI_EVIDENCE_KEY_FILE": str(home.evidence_key_file),
    }
    del environment[STACK_VARIABLE], environment[CHILD_VARIABLE]
    return (sys.executable, "-P", "-m", module, *arguments), environment


def _python(module: str, *arguments: str) -> tuple[str, ...]:
    # -P: whatever folder the user stands in must not shadow our modules.
    return (*launcher(signal.SIGKILL), sys.executable, "-P", "-m", module, *arguments)


def _environment(site: Site, child: str) -> dict[str, str]:
    """The child's environment: the user's own, and what ties the child to this stack."""
    return service_environment(site.home, site.ports, site.socket_dir) | {
        STACK_VARIABLE: site.stack_id,
        CHILD_VARIABLE: child,
    }


def service_environment(home: Home, ports: Ports, socket_dir: Path) -> dict[str, str]:
    """What any program needs that works on this stack's records: the user's own environment, and where the
    stack's things are."""
    own = f"{HOST}:{ports.api}"
    allowed = ",".join(filter(None, (own, os.environ.get("DOUBLEI_SUSPECT_ALLOW", ""))))
    # Children run in the data folder, so a relative path must be resolved where the user meant it.
    paths = {name: str(Path(os.environ[name]).absolute()) for name in _PATH_VARIABLES if os.environ.get(name)}
    local = ",".join(filter(None, (os.environ.get("NO_PROXY", ""), HOST, "localhost")))
    return (
        dict(os.environ)
        | paths
        | {
            "DATABASE_URL": postgres.url(socket_dir),
            "REDIS_URL": valkey.url(socket_dir),
            "DOUBLEI_STORAGE_DIR": str(home.storage),
            "DOUBLEI_KEK_FILE": str(home.kek_file),
            "DOUBLEI_SERVING_URL": f"http://{HOST}:{ports.serving}",
            "DOUBLEI_SERVING_TOKEN_FILE": str(home.serving_token_file),
            "DOUBLEI_DASHBOARD_SECRET_FILE": str(home.dashboard_secret_file),
            "DOUBLEI_METRICS_TOKEN_FILE": str(home.metrics_token_file),
            "DOUBLEI_SUSPECT_ALLOW": allowed,
            "DOUBLEI_PUBLIC_URL": f"http://{own}",
            # Our own servers are never behind the user's proxy.
            "NO_PROXY": local,
            "no_proxy": local,
            "PYTHONUNBUFFERED": "1",
            "PYTHONFAULTHANDLER": "1",
            # The default model is fetched from its declared sources only; nothing calls home besides.
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "DO_NOT_TRACK": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
    )
