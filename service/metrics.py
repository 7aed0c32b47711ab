"""What the API measures: its requests by route, and the queues as the database has them now."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import structlog
from prometheus_client import CollectorRegistry, GCCollector, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import Engine, Row, Select, func, select
from sqlalchemy.exc import SQLAlchemyError

from service.db.models import GarbageCollection, Job, Verification
from service.dispatch import QUEUES, TaskName
from service.leases import LeasedTable

log = structlog.get_logger(__name__)

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)

KEPT_SECONDS = 2.0
"""So long an answer of the database serves: somebody who scrapes without pause asks it no more often."""

OTHER = "other"
"""The route of a request for which there is none: a path is whatever somebody sent."""

TABLES: tuple[tuple[TaskName, LeasedTable], ...] = (
    (TaskName.finetune_run, Job),
    (TaskName.verify_run, Verification),
)


class ApiMetrics:
    """The metrics of one API process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self._requests = Histogram(
            "doublei_http_request_seconds",
            "Time from a request's arrival to the end of its answer",
            ("method", "route", "status"),
            buckets=SECONDS,
            registry=self.registry,
        )

    def request(self, *, method: str, route: str | None, status: int | None, seconds: float) -> None:
        """One request has ended. `status` is None if its client left before there was an answer."""
        known = method if route is not None else OTHER
        shown = "none" if status is None else str(status)
        self._requests.labels(known, route or OTHER, shown).observe(seconds)

    def watch(self, engine: Engine, *, lease_seconds: int) -> None:
        """Show the queues, too; the database is asked when somebody scrapes."""
        self.registry.register(RecordsCollector(engine, lease_seconds=lease_seconds))


class _Records(NamedTuple):
    """What the database said."""

    queues: dict[str, Row[Any]]
    collected: tuple[float, int] | None
    """how many seconds ago, and how many bytes that removed"""


class RecordsCollector(Collector):
    """What waits and what runs, of all tenants together, and when garbage was collected."""

    def __init__(self, engine: Engine, *, lease_seconds: int) -> None:
        self._engine = engine
        self._lease_seconds = lease_seconds
        self._lock = threading.Lock()
        self._read_at = -KEPT_SECONDS
        self._records: _Records | None = None

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Nothing: registering must not ask the database."""
        return iter(())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """A statement for each queue and one for the garbage; without a database only that it is away."""
        with self._lock:
            if time.monotonic() - self._read_at >= KEPT_SECONDS:
                self._records = self._read()
                self._read_at = time.monotonic()
            records = self._records
        up = GaugeMetricFamily("doublei_database_up", "Whether the database answers")
        up.add_metric((), 0 if records is None else 1)
        yield up
        if records is None:
            return
        for name, text in (
            ("depth", "Rows that wait for a worker"),
            ("oldest_seconds", "How long the oldest of them has existed"),
            ("running", "Rows that a worker has"),
            ("lease_age_seconds", "The longest time since one of those workers gave a sign of life"),
        ):
            gauge = GaugeMetricFamily(f"doublei_queue_{name}", text, labels=("queue",))
            for queue, row in records.queues.items():
                gauge.add_metric((queue,), float(getattr(row, name) or 0))
            yield gauge
        if records.collected is not None:
            age, removed = records.collected
            yield _gauge("doublei_gc_age_seconds", "Since garbage was last collected", age)
            yield _gauge("doublei_gc_removed_bytes", "What that removed", removed)

    def _read(self) -> _Records | None:
        try:
            with self._engine.connect() as connection:
                connection.execution_options(isolation_level="AUTOCOMMIT")
                queues = {
                    QUEUES[task]: connection.execute(_queue(table, self._lease_seconds)).one()
                    for task, table in TABLES
                }
                found = connection.execute(_COLLECTED).one_or_none()
                return _Records(queues, None if found is None else (float(found[0]), found[1]))
        except SQLAlchemyError as error:
            log.warning("metrics.database_away", error=type(error).__name__)
            return None


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(name, text)
    gauge.add_metric((), value)
    return gauge


_COLLECTED = (
    select(
        func.extract("epoch", func.clock_timestamp() - GarbageCollection.finished_at), GarbageCollection.bytes
    )
    .order_by(GarbageCollection.seq.desc())
    .limit(1)
)


def _queue(table: LeasedTable, lease_seconds: int) -> Select[int, Any, int, Any]:
    queued, running = table.status == "queued", table.status == "running"
    now = func.clock_timestamp()
    left = func.extract("epoch", table.lease_expires_at - now)
    return select(
        func.count().filter(queued).label("depth"),
        func.extract("epoch", now - func.min(table.created_at).filter(queued)).label("oldest_seconds"),
        func.count().filter(running).label("running"),
        (lease_seconds - func.min(left).filter(running)).label("lease_age_seconds"),
    ).where(table.status.in_(("queued", "running")))
