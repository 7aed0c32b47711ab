"""How much does asking for a job's status cost beside a route that does nothing, with a million jobs there?

    taskset -c 1 python -m benchmarks.polls --json polls.json         # some minutes, most of it the loading
    taskset -c 1 python -m benchmarks.polls --jobs 100000

An embedded Postgres of its own, durable as the product's, with jobs of 200 tenants, most of them ended; the
real API process on a loopback port, and one client on one kept connection. The requests are interleaved, so
that whatever else the machine does falls on all of them alike. The bare route is /healthz, through the same
middleware.

Bar: the 95th percentile of a job's status, sent or answered with 304, at most 3 times the bare route's. Exit
status 1: it was missed. A page of twenty jobs is measured beside; what it costs more is its rows.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from benchmarks.log import embedded_database
from service.accounts.keys import ApiKeyToken

BAR_TIMES = 3.0
BARRED = ("job", "job_304")
TENANTS = 200
MEASURED_TENANT = 7
LIST_LIMIT = 20
START_TIMEOUT_SECONDS = 60.0

_LOAD = (
    "INSERT INTO organizations (id, name, role)"
    " SELECT 'org-' || lpad(n::text, 12, '0'), 'o', 'owner' FROM generate_series(0, %(tenants)s - 1) n",
    "INSERT INTO files (id, organization_id, purpose, filename, bytes, sha256, validation)"
    " SELECT 'file-' || lpad(n::text, 12, '0'), 'org-' || lpad(n::text, 12, '0'), 'fine-tune', 'd.jsonl', 1,"
    " repeat('0', 64), '{}' FROM generate_series(0, %(tenants)s - 1) n",
    "INSERT INTO jobs (id, organization_id, status, base_model, seed, training_file_id, hyperparameters,"
    " method, metadata, progress, created_at, started_at, finished_at)"
    " SELECT 'ftjob-' || lpad(n::text, 16, '0'), 'org-' || lpad((n %% %(tenants)s)::text, 12, '0'),"
    " CASE WHEN n < %(jobs)s - 1000 THEN 'succeeded' ELSE 'cancelled' END, 'smollm2-135m-instruct', 1,"
    " 'file-' || lpad((n %% %(tenants)s)::text, 12, '0'), '{\"n_epochs\": 3, \"lora_rank\": 16}',"
    ' \'{"type": "supervised"}\', \'{}\', \'{"step": 90, "total_steps": 90, "loss": 0.5}\','
    " now() - interval '1 year' + n * interval '1 second', now(), now()"
    " FROM generate_series(0, %(jobs)s - 1) n",
)


def main() -> int:
    """0 when the bar was met."""
    options = _options()
    token = ApiKeyToken.new()
    with embedded_database() as url:
        started = time.perf_counter()
        _load(url, options.jobs, token)
        loaded = time.perf_counter() - started
        print(f"{options.jobs} jobs loaded in {loaded:.0f} s", flush=True)
        with _api(url) as port:
            times = _measure(port, token, options.jobs, options.requests)
    bare = _percentile(times["bare"], 95)
    routes = {
        name: {
            "p50_ms": _percentile(found, 50),
            "p95_ms": _percentile(found, 95),
            "times_bare_p95": round(_percentile(found, 95) / bare, 2),
        }
        for name, found in times.items()
    }
    ok = all(routes[name]["times_bare_p95"] <= BAR_TIMES for name in BARRED)
    record = {"jobs": options.jobs, "requests": options.requests, "routes": routes, "ok": ok}
    print(json.dumps(record, indent=2))
    if options.json:
        options.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0 if ok else 1


def _load(url: str, jobs: int, token: ApiKeyToken) -> None:
    dsn = url.replace("postgresql+psycopg", "postgresql", 1)
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in _LOAD:
            connection.execute(
                statement.replace("%(tenants)s", str(TENANTS))
                .replace("%(jobs)s", str(jobs))
                .replace("%%", "%")
            )
        connection.execute(
            "INSERT INTO api_keys (id, organization_id, role, name, secret_sha256)"
            " VALUES (%s, %s, 'owner', 'polls', %s)",
            (token.row_id, f"org-{MEASURED_TENANT:012d}", token.secret_sha256),
        )
        connection.execute("VACUUM ANALYZE")


def _measure(port: int, token: ApiKeyToken, jobs: int, requests: int) -> dict[str, list[float]]:
    """Seconds of each request, by route."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    own = list(range(MEASURED_TENANT, jobs, TENANTS))
    headers = {"authorization": f"Bearer {token.reveal()}"}
    listing = f"/v1/fine_tuning/jobs?limit={LIST_LIMIT}"

    def ask(path: str, tag: str | None = None) -> tuple[float, int, str]:
        sent = headers if tag is None else headers | {"if-none-match": tag}
        started = time.perf_counter()
        connection.request("GET", path, headers=sent)
        answer = connection.getresponse()
        answer.read()
        return time.perf_counter() - started, answer.status, answer.headers.get("etag", "")

    times: dict[str, list[float]] = {name: [] for name in ("bare", "job", "job_304", "list", "list_304")}
    for number in range(-requests // 10, requests):  # a tenth to warm up
        job = f"/v1/fine_tuning/jobs/ftjob-{secrets.choice(own):016d}"
        took: dict[str, float] = {}
        took["bare"], bare_status, _ = ask("/healthz")
        took["job"], job_status, tag = ask(job)
        took["job_304"], unchanged, _ = ask(job, tag)
        took["list"], list_status, list_tag = ask(listing)
        took["list_304"], list_unchanged, _ = ask(listing, list_tag)
        statuses = (bare_status, job_status, unchanged, list_status, list_unchanged)
        if statuses != (200, 200, 304, 200, 304):
            raise RuntimeError(f"unexpected answers: {statuses}")
        if number >= 0:
            for name, seconds in took.items():
                times[name].append(seconds)
    return times


@contextmanager
def _api(url: str) -> Iterator[int]:
    """The API process, ready; the value is its port."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for secret in ("kek", "evidence-key", "serving-token"):
            (folder / secret).write_text(base64.b64encode(os.urandom(32)).decode())
        (folder / "log-key").write_text(f"benchmark/log\n{base64.b64encode(os.urandom(32)).decode()}\n")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        environment = os.environ | {
            "DATABASE_URL": url,
            "REDIS_URL": "redis://127.0.0.1:9/0",
            "DOUBLEI_STORAGE_DIR": str(folder / "storage"),
            "DOUBLEI_KEK_FILE": str(folder / "kek"),
            "DOUBLEI_LOG_KEY_FILE": str(folder / "log-key"),
            "DOUBLEI_EVIDENCE_KEY_FILE": str(folder / "evidence-key"),
            "DOUBLEI_SERVING_URL": "http://127.0.0.1:9",
            "DOUBLEI_SERVING_TOKEN_FILE": str(folder / "serving-token"),
        }
        command = [sys.executable, "-m", "uvicorn", "service.app:create_app", "--factory"]
        with (folder / "api.log").open("wb") as log:
            process = subprocess.Popen(
                [*command, "--port", str(port), "--no-access-log"], env=environment, stdout=log, stderr=log
            )
            try:
                _wait(port, process)
                yield port
            finally:
                process.terminate()
                process.wait()


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the API did not start") from None
            time.sleep(0.1)


def _percentile(seconds: list[float], percent: int) -> float:
    """In milliseconds."""
    return round(1000 * statistics.quantiles(seconds, n=100)[percent - 1], 2)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.polls")
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--requests", type=int, default=1_000, help="of each kind")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
