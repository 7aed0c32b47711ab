"""Where a job's base model lies on this machine; fetched in a child process if it is not there yet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from catalogue import CatalogueError
from worker.child import Child
from worker.errors import RunFailed
from worker.lease import LeaseKeeper
from worker.record.jobs import Event, JobRun
from worker.weights import ModelFiles, WeightsError, resolve

FETCHER = "worker.weights"


class Stoppable(Protocol):
    """Who wants to know of a child, so as to stop it."""

    @property
    def begin(self) -> Callable[[Child], None]: ...


def base_model_files(run: JobRun, folder: Path, keeper: LeaseKeeper, work: Stoppable) -> ModelFiles:
    """The base model's weights.

    Raises:
        RunFailed: no source gives the model.
        Stopped: while it was being fetched.
    """
    # Damaged files may be why the last run failed: they are read as a whole, and fetched anew if they are.
    cached = _resolve(run, deep=run.attempt > 1)
    if cached is not None:
        return cached
    run.write(Event(message=f"Downloading the base model {run.base_model}"), stage="downloading")
    child = Child(FETCHER, ["fetch", run.base_model, "--json"], stderr_path=folder / "stderr-weights")
    try:
        work.begin(child)
        reports = [report for report in child.lines() if report.get("stage") == "error"]
        child.wait()
    finally:
        child.close()
    keeper.check()
    cached = _resolve(run)
    if cached is None:
        if any(report.get("code") == "disk_full" for report in reports):
            raise RunFailed("disk_full", "the base model could not be stored")
        raise RunFailed("base_model_unavailable", run.base_model)
    return cached


def _resolve(run: JobRun, *, deep: bool = False) -> ModelFiles | None:
    cache, catalogue = run.place.settings.model_cache, run.place.catalogue
    try:
        return resolve(run.base_model, cache_dir=cache, catalogue=catalogue, deep=deep)
    except WeightsError:
        return None
    except CatalogueError:
        raise RunFailed("model_not_found", run.base_model) from None
