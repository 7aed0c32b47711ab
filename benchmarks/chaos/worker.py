"""The product's Celery worker, ``python -m benchmarks.chaos.worker <arguments of celery>``, with three
changes made before it starts:

- its clock (`time.time`) is off by CHAOS_CLOCK_SECONDS, as after a bad NTP step;
- training processes are started through `benchmarks.chaos.trainer`;
- every transaction of a run says which run it is (the setting ``chaos.run``), for the observer in the
  database (`benchmarks.chaos.observer`), which does not have to believe the product's own fence.
"""

from __future__ import annotations

import os
import time
from typing import Any

CLOCK_VARIABLE = "CHAOS_CLOCK_SECONDS"
CATATONIC_VARIABLE = "CHAOS_CATATONIC_FILE"
"""Once this file is there the worker takes no message any more, though it lives and answers."""


def move_clock(seconds: float) -> None:
    """Before Celery is imported: kombu takes `time.time` by name."""
    true = time.time

    def wrong() -> float:
        return true() + seconds

    time.time = wrong


def label_writes() -> None:
    """Give each run an engine of its own that names the run at the start of every transaction."""
    from dataclasses import replace

    from sqlalchemy import event, text

    from service.db.engine import sync_engine, sync_sessions
    from worker.record.engine import Workplace
    from worker.record.jobs import JobRun

    claim = JobRun.claim.__func__  # type: ignore[attr-defined]

    def labelled(cls: type[JobRun], place: Workplace, job_id: str) -> JobRun | None:
        run: JobRun | None = claim(cls, place, job_id)
        if run is not None:
            engine = sync_engine(place.settings)
            label = text("SELECT set_config('chaos.run', :run, true)").bindparams(run=f"{job_id}/{run.epoch}")

            @event.listens_for(engine, "begin")
            def began(connection: Any) -> None:
                connection.execute(label)

            run.place = replace(place, sessions=sync_sessions(engine))
        return run

    JobRun.claim = classmethod(labelled)  # type: ignore[method-assign, assignment]


def become_catatonic(file: str) -> None:
    """What kombu#2492 did: once `file` is there, the callback that polls the broker is gone from the event
    loop."""
    import threading
    from pathlib import Path

    from celery.signals import worker_ready

    def watch(consumer: Any) -> None:
        while not Path(file).exists():
            time.sleep(0.05)
        consumer.hub.on_tick.clear()

    def ready(sender: Any, **_: Any) -> None:
        threading.Thread(target=watch, args=(sender,), daemon=True).start()

    worker_ready.connect(ready, weak=False)


def main() -> None:
    """Change what is to be changed, then be Celery."""
    move_clock(float(os.environ.get(CLOCK_VARIABLE, "0")))
    import worker.training

    worker.training.TRAINER = "benchmarks.chaos.trainer"
    label_writes()
    if file := os.environ.get(CATATONIC_VARIABLE):
        become_catatonic(file)
    from celery.__main__ import main as celery

    celery()


if __name__ == "__main__":
    main()
