"""How fast does the transparency log take, prove and give, with a million entries in it?

    python -m benchmarks.log --json log.json                          # some minutes, most of it the loading
    python -m benchmarks.log --leaves 20000 --appends 500             # a minute

An embedded Postgres of its own, durable as the product's. The first leaves are loaded in bulk, with the nodes
that appending would have made; then deeds are appended one transaction each, as the service does it. Proofs
and entries are asked of the API, in this process: what is measured is the service's work, not a network's.
The audit is `doublei log audit`'s own: every entry read, every hash made again.

Bars: 200 appends/s, an inclusion proof in 20 ms (95th percentile), an audit of a million leaves in 60 s.
Exit status 1: a bar was missed, or a root was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import logging
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import psycopg
import structlog
from pydantic import SecretStr
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from cli.stack import postgres
from cli.stack.launch import launcher
from cli.stack.privileges import postgres_privileges
from cli.stack.sockets import make_socket_dir, remove_socket_dir
from evidence.log import merkle
from evidence.log.audit import audit
from evidence.log.checkpoint import Checkpoint, opened
from evidence.log.entry import EntryKind, entry_of
from evidence.log.note import Note
from service.app import create_app
from service.bootstrap import bootstrap
from service.log.deeds import Deed
from service.log.usecases import append
from service.settings import Settings

BAR_APPENDS_PER_SECOND = 200.0
BAR_PROOF_MS = 20.0
BAR_AUDIT_SECONDS = 60.0
PAGE_ENTRIES = 10_000
WINDOW_APPENDS = 1000
START_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What was measured."""

    leaves: int
    appends: int
    clients: int
    proofs: int
    load_seconds: float
    appends_per_second: float
    slowest_thousand_per_second: float
    """the lowest rate over any thousand appends in a row: whether it is sustained"""
    append_p50_ms: float
    append_p95_ms: float
    proof_p50_ms: float
    proof_p95_ms: float
    checkpoint_ms: float
    fetch_seconds: float
    """every entry from the API"""
    audit_seconds: float
    """from entries to root and steps"""
    sound: bool
    """the stored tree, the signed root and the entries agree"""

    @property
    def ok(self) -> bool:
        """Every bar was met."""
        return (
            self.sound
            and self.appends_per_second >= BAR_APPENDS_PER_SECOND
            and self.proof_p95_ms <= BAR_PROOF_MS
            and self.fetch_seconds + self.audit_seconds <= BAR_AUDIT_SECONDS
        )


def main() -> int:
    """0 when every bar was met."""
    options = _options()
    with embedded_database() as url:
        started = time.perf_counter()
        load(url, options.leaves)
        load_seconds = time.perf_counter() - started
        print(f"{options.leaves} leaves loaded in {load_seconds:.1f} s", flush=True)
        appending = appended(url, options.appends, options.clients)
        print(f"{appending.per_second:.0f} appends/s", flush=True)
        figures = asyncio.run(_asked(url, options, load_seconds, appending))
    record = asdict(figures) | {"ok": figures.ok}
    print(json.dumps(record, indent=2))
    if options.json:
        options.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0 if figures.ok else 1


def load(url: str, leaves: int) -> None:
    """Entries, records and nodes as `append` would have made them, without its transactions."""
    moment = datetime.now(UTC) - timedelta(days=365)
    nodes: dict[merkle.Node, bytes] = {}

    def read(wanted: Sequence[merkle.Node]) -> dict[merkle.Node, bytes]:
        # a node below is needed once only: forgetting it keeps the memory small
        return {node: nodes.pop(node) for node in wanted}

    # Three connections, since a COPY holds one; records point at entries, so they come after these.
    with _connection(url) as entries, _connection(url) as inner:
        with (
            entries.cursor().copy(
                "COPY log_entries (index, kind, subject, entry, leaf_hash, logged_at) FROM STDIN"
            ) as entry_rows,
            inner.cursor().copy("COPY log_nodes (level, index, hash) FROM STDIN") as node_rows,
        ):
            for index in range(leaves):
                logged_at = moment + timedelta(milliseconds=index)
                entry = bytes(entry_of(EntryKind.verdict, {"number": index}, logged_at))
                leaf = merkle.leaf_hash(entry)
                entry_rows.write_row((index, "verdict", f"verif-{index}", entry, leaf, logged_at))
                for (level, place), made in merkle.grow(index, leaf, read):
                    nodes[level, place] = made
                    if level:
                        node_rows.write_row((level, place, made))
        entries.commit()
        inner.commit()
    with (
        _connection(url) as connection,
        connection.cursor().copy("COPY log_records (index, record) FROM STDIN") as rows,
    ):
        for index in range(leaves):
            rows.write_row((index, f'{{"number":{index}}}'))
    with _connection(url) as connection:
        connection.execute("ANALYZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Appending:
    """How long appends took, in seconds, commits included."""

    each: Sequence[float]
    ends: Sequence[float]
    """when each was committed, since the first began"""

    @property
    def per_second(self) -> float:
        """Over all of them."""
        return len(self.ends) / self.ends[-1]

    @property
    def slowest_per_second(self) -> float:
        """Over the slowest `WINDOW_APPENDS` in a row, or over all where there are fewer."""
        window = min(WINDOW_APPENDS, len(self.ends))
        starts = [0.0, *self.ends]
        return window / max(self.ends[end - 1] - starts[end - window] for end in range(window, len(starts)))


def appended(url: str, count: int, clients: int) -> Appending:
    """Append, one transaction each."""
    engine = create_engine(url, pool_size=clients)
    each: list[float] = []
    ends: list[float] = []

    def work(client: int) -> None:
        with Session(engine) as session:
            for number in range(client, count, clients):
                started = time.perf_counter()
                record = {"number": number, "note": "x" * 200}
                append(session, Deed(kind=EntryKind.verdict, subject=f"verif-a{number}", record=record))
                session.commit()
                committed = time.perf_counter()
                each.append(committed - started)
                ends.append(committed - begun)

    threads = [threading.Thread(target=work, args=(client,)) for client in range(clients)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine.dispose()
    assert len(ends) == count, "an appending client failed"
    return Appending(each=each, ends=sorted(ends))


async def _asked(url: str, options: argparse.Namespace, load_seconds: float, appending: Appending) -> Figures:
    size = options.leaves + options.appends
    with tempfile.TemporaryDirectory() as folder:
        settings = _settings(url, Path(folder))
        bootstrap(settings, Path(folder) / "credentials.json")
        key = json.loads((Path(folder) / "credentials.json").read_text())["auditor"]["api_key"]
        app = create_app(settings)
        # A line for each of a thousand requests would be most of what is printed.
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(
                transport=httpx2.ASGITransport(app=app),
                base_url="http://log",
                headers={"authorization": f"Bearer {key}"},
            ) as http,
        ):
            await http.get("/v1/log/key")
            started = time.perf_counter()
            note = (await http.get("/v1/log/checkpoint")).raise_for_status().text
            checkpoint_ms = 1000 * (time.perf_counter() - started)
            signed = opened(Note.from_text(note), settings.log_signer.public)
            proofs = await _proofs(http, signed, options.proofs)
            started = time.perf_counter()
            entries: list[bytes] = []
            for start in range(0, size, PAGE_ENTRIES):
                page = await http.get("/v1/log/entries", params={"start": start, "limit": PAGE_ENTRIES})
                entries.extend(page.raise_for_status().content.splitlines())
            fetch_seconds = time.perf_counter() - started
        started = time.perf_counter()
        report = audit(
            key=settings.log_signer.public,
            trusted=True,
            note=note,
            earlier=None,
            entries=lambda count: _first(entries, count),
        )
        audit_seconds = time.perf_counter() - started
    return Figures(
        leaves=options.leaves,
        appends=options.appends,
        clients=options.clients,
        proofs=options.proofs,
        load_seconds=round(load_seconds, 2),
        appends_per_second=round(appending.per_second, 1),
        slowest_thousand_per_second=round(appending.slowest_per_second, 1),
        append_p50_ms=_percentile(appending.each, 50),
        append_p95_ms=_percentile(appending.each, 95),
        proof_p50_ms=_percentile(proofs, 50),
        proof_p95_ms=_percentile(proofs, 95),
        checkpoint_ms=round(checkpoint_ms, 2),
        fetch_seconds=round(fetch_seconds, 2),
        audit_seconds=round(audit_seconds, 2),
        sound=report.consistent and signed.size == size,
    )


async def _proofs(http: httpx2.AsyncClient, signed: Checkpoint, count: int) -> list[float]:
    """Seconds of each proof of a random entry.

    Raises:
        ProofInvalid: one does not lead to the signed root.
    """
    drawn, times, size = random.Random(1), [], signed.size
    await http.get("/v1/log/inclusion", params={"index": 0, "size": size})
    for _ in range(count):
        index = drawn.randrange(size)
        started = time.perf_counter()
        answer = await http.get("/v1/log/inclusion", params={"index": index, "size": size})
        times.append(time.perf_counter() - started)
        made = answer.raise_for_status().json()
        proof = [bytes.fromhex(one) for one in made["hashes"]]
        merkle.verify_inclusion(bytes.fromhex(made["leaf_hash"]), index, size, proof, signed.root)
    return times


def _first(entries: Sequence[bytes], count: int) -> Iterable[bytes]:
    return entries[:count]


def _percentile(seconds: Sequence[float], percent: int) -> float:
    """In milliseconds."""
    return round(1000 * statistics.quantiles(seconds, n=100)[percent - 1], 2)


def _settings(url: str, folder: Path) -> Settings:
    for name in ("kek", "serving-token", "evidence-key"):
        (folder / name).write_text(base64.b64encode(os.urandom(32)).decode())
    (folder / "log-key").write_text(f"benchmark/log\n{base64.b64encode(os.urandom(32)).decode()}\n")
    return Settings(
        DATABASE_URL=SecretStr(url),
        # Nothing is rung: no row waits for a worker.
        REDIS_URL=SecretStr("redis://127.0.0.1:9/0"),
        DOUBLEI_STORAGE_DIR=folder / "storage",
        DOUBLEI_KEK_FILE=folder / "kek",
        DOUBLEI_LOG_KEY_FILE=folder / "log-key",
        DOUBLEI_EVIDENCE_KEY_FILE=folder / "evidence-key",
        DOUBLEI_SERVING_URL="http://127.0.0.1:9",
        DOUBLEI_SERVING_TOKEN_FILE=folder / "serving-token",
    )


def _connection(url: str) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(url.replace("postgresql+psycopg", "postgresql", 1))


@contextmanager
def embedded_database() -> Iterator[str]:
    """A migrated database of this run's own, on this machine's disk; the value is its URL."""
    folder = make_socket_dir()
    data = folder / "pg"
    privileges = postgres_privileges(binary=postgres.binary("postgres"), data_parent=folder)
    privileges.give(folder)
    postgres.initialise(data, privileges)
    start = (*privileges.prefix, *launcher(signal.SIGQUIT))
    with (folder / "postgres.log").open("ab") as output:
        server = subprocess.Popen(
            postgres.server_command(data, folder, launcher=start), stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not postgres.answers(folder):
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((folder / "postgres.log").read_text()[-2000:])
            time.sleep(0.05)
        url = postgres.url(folder)
        environment = os.environ | {"DATABASE_URL": url}
        subprocess.run([sys.executable, "-m", "migrations", "upgrade"], env=environment, check=True)
        yield url
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()
        remove_socket_dir(folder)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.log")
    parser.add_argument("--leaves", type=int, default=1_000_000)
    parser.add_argument("--appends", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=1, help="who append at the same time")
    parser.add_argument("--proofs", type=int, default=500)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
