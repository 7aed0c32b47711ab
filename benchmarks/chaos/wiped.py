"""How long until jobs go on after the broker has lost everything? Measured with nothing else going wrong.

Three ways: killed and its data deleted, the same twice in a row, and FLUSHALL. The workers may hold a message
each that they took before; the time is taken to a claim that none of those can have been.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chaos.clients import SEED
from benchmarks.chaos.deployment import WORKERS, Deployment
from benchmarks.chaos.nemesis import Nemesis
from benchmarks.chaos.run import open_shop, post_job

BAR_SECONDS = 30.0
LEASE_SECONDS = 30
"""The product's own."""
JOBS_EACH = 8
PATIENCE_SECONDS = 120.0
HELD_MESSAGES = len(WORKERS)
"""that survive in the workers themselves"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wipe:
    """One loss of everything."""

    name: str
    waiting: int
    """jobs that were queued at its moment"""
    seconds: float
    """to the first claim that needed a new message"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """All of them."""

    wipes: list[Wipe]
    jobs: int
    succeeded: int

    @property
    def ok(self) -> bool:
        """Nothing lost, and each time soon enough."""
        return self.jobs == self.succeeded and all(one.seconds <= BAR_SECONDS for one in self.wipes)


def measure(folder: Path, tiny: Path, *, seed: int, repeats: int) -> Outcome:
    """Wipe it so often in each way, with jobs waiting.

    Raises:
        RuntimeError: the deployment did not come up.
    """
    with Deployment(folder / "home", tiny_model=tiny, lease_seconds=LEASE_SECONDS, seed=seed) as deployment:
        nemesis = Nemesis(
            deployment=deployment, draw=random.Random(seed), token=deployment.owner_key, pace_seconds=1,
            over=threading.Event(),
        )  # fmt: skip

        def twice() -> None:
            nemesis.wipe_valkey()
            time.sleep(1.0)
            deployment.wait_ready("valkey")
            nemesis.wipe_valkey()

        ways: tuple[tuple[str, Callable[[], object]], ...] = (
            ("killed and its data deleted", nemesis.wipe_valkey),
            ("the same twice in a row", twice),
            ("FLUSHALL", nemesis.flush_valkey),
        )
        shop = open_shop(deployment, random.Random(seed).randbytes(32))
        wipes = []
        for name, way in ways * repeats:
            wipes.append(_wipe(deployment, shop.files["played"], name, way))
            one = wipes[-1]
            print(f"{name}: {one.waiting} jobs waited, the next taken after {one.seconds:.1f} s", flush=True)
        with deployment.connect() as connection:
            found = connection.execute(
                "SELECT count(*), count(*) FILTER (WHERE status = 'succeeded') FROM jobs"
            ).fetchone()
    assert found is not None
    return Outcome(wipes=wipes, jobs=found[0], succeeded=found[1])


def _wipe(deployment: Deployment, file: str, name: str, way: Callable[[], object]) -> Wipe:
    for _ in range(JOBS_EACH):
        post_job(deployment, {"model": "tiny-played", "training_file": file, "seed": SEED})
    waiting = _count(deployment, "SELECT count(*) FROM jobs WHERE status = 'queued'")
    moment = time.time()
    way()
    seconds = _wait(
        deployment,
        "SELECT count(*) FROM chaos_writes WHERE table_name = 'jobs' AND old_status = 'queued'"
        f" AND status = 'running' AND at > to_timestamp({moment!r})",
        lambda claims: claims > HELD_MESSAGES,
    )
    _wait(
        deployment,
        "SELECT count(*) FROM jobs WHERE status IN ('queued', 'running')",
        lambda unfinished: unfinished == 0,
    )
    return Wipe(name=name, waiting=waiting, seconds=seconds)


def _wait(deployment: Deployment, query: str, enough: Callable[[int], bool]) -> float:
    started = time.monotonic()
    while not enough(_count(deployment, query)):
        if time.monotonic() - started > PATIENCE_SECONDS:
            return PATIENCE_SECONDS
        time.sleep(0.1)
    return time.monotonic() - started


def _count(deployment: Deployment, query: str) -> int:
    with deployment.connect() as connection:
        found = connection.execute(query.encode()).fetchone()
    assert found is not None
    return int(found[0])
