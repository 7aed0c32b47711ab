"""What a worker measures: its runs, its questions, and the memory of the devices it trains on.

Celery's pool forks, and each fork counts for itself: in the folder that PROMETHEUS_MULTIPROC_DIR names they
write what the main process adds up and shows. `share_between_forks` must come before this module is imported
by anybody, since prometheus-client decides at its own import.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

RUN_SECONDS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 12 * 3600.0)

NVIDIA_SMI = (
    "nvidia-smi",
    "--query-gpu=index,memory.used,memory.total",
    "--format=csv,noheader,nounits",
)
"""Reports MiB. Asked as a program: this process must not open the driver that its training children use."""
SMI_TIMEOUT_SECONDS = 5.0
SMI_KEPT_SECONDS = 10.0
MIB = 1024 * 1024


class WorkMetrics:
    """What the runs of one process count."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._runs = Histogram(
            "doublei_run_seconds",
            "One attempt at a job or a verification, from its claim to its end",
            ("task", "outcome"),
            buckets=RUN_SECONDS,
            registry=registry,
        )
        self._probes = Counter("doublei_probes", "Questions put to suspects", ("outcome",), registry=registry)

    def run(self, *, task: str, outcome: str, seconds: float) -> None:
        """One run has ended: with what its row then said (`queued`: handed back)."""
        self._runs.labels(task, outcome).observe(seconds)

    def probe(self, outcome: str) -> None:
        """One question was answered or has failed."""
        known = "http_error" if outcome.startswith("http_") else outcome
        self._probes.labels(known).inc()


def worker_registry(folder: Path, *, unheard_seconds: Callable[[], float]) -> CollectorRegistry:
    """What the main process shows: the sums over the forks, itself, the devices, its watchdog's finding."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]
    ProcessCollector(registry=registry)
    registry.register(DeviceCollector())
    registry.register(UnheardCollector(unheard_seconds))
    return registry


class UnheardCollector(Collector):
    """What the main process's watchdog finds. Not a Gauge: that would be every fork's."""

    def __init__(self, unheard_seconds: Callable[[], float]) -> None:
        self._unheard_seconds = unheard_seconds

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One sample."""
        unheard = GaugeMetricFamily(
            "doublei_worker_unheard_seconds",
            "For how long this worker has been idle and has not heard its own bell, while rows wait",
        )
        unheard.add_metric((), self._unheard_seconds())
        yield unheard


class DeviceCollector(Collector):
    """Memory of the GPUs, where there are any."""

    def __init__(self, command: tuple[str, ...] = NVIDIA_SMI) -> None:
        self._command = command
        self._lock = threading.Lock()
        self._read_at = -SMI_KEPT_SECONDS
        self._devices: list[tuple[str, float, float]] = []

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Nothing: registering must not start a program."""
        return iter(())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Used and total bytes of each device; no series on a machine without."""
        with self._lock:
            if time.monotonic() - self._read_at >= SMI_KEPT_SECONDS:
                self._devices = _devices(self._command)
                self._read_at = time.monotonic()
            devices = self._devices
        used = GaugeMetricFamily("doublei_device_memory_used_bytes", "Memory in use", labels=("device",))
        total = GaugeMetricFamily("doublei_device_memory_total_bytes", "Memory there is", labels=("device",))
        for index, used_mib, total_mib in devices:
            used.add_metric((index,), used_mib * MIB)
            total.add_metric((index,), total_mib * MIB)
        yield used
        yield total


def _devices(command: tuple[str, ...]) -> list[tuple[str, float, float]]:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SMI_TIMEOUT_SECONDS, check=True
        )
        lines = [line.split(",") for line in done.stdout.splitlines() if line.strip()]
        return [(index.strip(), float(used), float(total)) for index, used, total in lines]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []
