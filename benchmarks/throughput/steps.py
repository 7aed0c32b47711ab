"""One rate, offered for a while, and what the records then say of it."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg

from benchmarks.throughput import generator, processor
from benchmarks.throughput.service import Service

BEHIND_SECONDS = 1.0
"""A service that keeps up has at most so many seconds' worth of jobs unfinished when the sending ends."""

DRAIN_SECONDS = 120.0

STATISTICS_SECONDS = 1.5
"""Postgres counts a backend's transactions about a second late."""

_COUNTS = (
    "SELECT (SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()),"
    " (SELECT sessions FROM pg_stat_database WHERE datname = current_database()),"
    " clock_timestamp()"
)
_JOBS = (
    "SELECT count(*) FILTER (WHERE status = 'succeeded'),"
    " count(*) FILTER (WHERE status IN ('queued', 'running')), count(*)"
    " FROM jobs WHERE created_at >= %s"
)
_PICKUP = (
    "SELECT percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP"
    " (ORDER BY extract(epoch FROM started_at - created_at)) FROM jobs WHERE created_at >= %s"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One rate. Times of pickup are the database's, those of requests count from when they were due."""

    rate: float
    seconds: float
    accepted: int
    refused: dict[str, int]
    lost: int
    """accepted, and not succeeded in the end: must be 0"""
    unfinished: int
    """accepted and neither done nor given up when the sending ended"""
    finished_per_second: float
    """over the whole step, its draining included"""
    request_p50_ms: float
    request_p95_ms: float
    pickup_p50_ms: float
    pickup_p95_ms: float
    pickup_p99_ms: float
    processor_share: dict[str, float]
    """of all cores, 0..1: each kind of process, and `others` on this machine"""
    processor_ms_per_job: dict[str, float]
    transactions_per_job: float
    connections_per_job: float
    """to the database, newly opened"""

    @property
    def kept_up(self) -> bool:
        """Nothing refused, nothing lost, nothing piled up."""
        return not self.refused and not self.lost and self.unfinished <= max(self.rate * BEHIND_SECONDS, 3)


def offer(service: Service, *, rate: float, seconds: float, tick: Callable[[], None]) -> Step:
    """Offer that rate for so long, and wait until everything that was accepted has ended."""
    with psycopg.connect(service.dsn, autocommit=True) as connection:
        transactions, sessions, began = _one(connection, _COUNTS)
        before, started = processor.usage(service.roots), time.monotonic()
        sent = asyncio.run(
            generator.send(
                port=service.port,
                api_key=service.api_key,
                training_file=service.training_file,
                rate=rate,
                seconds=seconds,
                tick=tick,
            )
        )
        _, unfinished, _ = _one(connection, _JOBS, began)
        deadline = time.monotonic() + DRAIN_SECONDS
        while _one(connection, _JOBS, began)[1] and time.monotonic() < deadline:
            time.sleep(0.1)
        took, used = time.monotonic() - started, processor.usage(service.roots).since(before)
        time.sleep(STATISTICS_SECONDS)
        transactions_after, sessions_after, _ = _one(connection, _COUNTS)
        succeeded, _, there = _one(connection, _JOBS, began)
        pickup = _one(connection, _PICKUP, began)[0] or [float("nan")] * 3
    cores, jobs = os.cpu_count() or 1, max(succeeded, 1)
    share = {kind: round(spent / took / cores, 3) for kind, spent in used.kinds.items()}
    share["others"] = round(max(used.busy - sum(used.kinds.values()), 0) / took / cores, 3)
    return Step(
        rate=rate,
        seconds=round(took, 1),
        accepted=len(sent.seconds),
        refused=sent.refused,
        lost=max(len(sent.seconds), there) - succeeded,
        unfinished=unfinished,
        finished_per_second=round(succeeded / took, 2),
        request_p50_ms=_milliseconds(sent.seconds, 50),
        request_p95_ms=_milliseconds(sent.seconds, 95),
        pickup_p50_ms=round(1000 * pickup[0], 1),
        pickup_p95_ms=round(1000 * pickup[1], 1),
        pickup_p99_ms=round(1000 * pickup[2], 1),
        processor_share=share,
        processor_ms_per_job={kind: round(1000 * spent / jobs, 2) for kind, spent in used.kinds.items()},
        transactions_per_job=round((transactions_after - transactions) / jobs, 1),
        connections_per_job=round((sessions_after - sessions) / jobs, 2),
    )


def _one(connection: psycopg.Connection[Any], statement: str, *parameters: object) -> Any:
    return connection.execute(statement.encode(), parameters).fetchone()


def _milliseconds(seconds: list[float], percent: int) -> float:
    if len(seconds) < 2:
        return float("nan")
    return round(1000 * statistics.quantiles(seconds, n=100)[percent - 1], 1)
