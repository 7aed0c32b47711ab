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
    cached = _resolve(run)
    if cached is not None:
        return cached
    run.write(Event(message=f"Downloading the base model {run.base_model}"), stage="downloading")
    child = Child(FETCHER, ["fetch", run.base_model, "--json"], stderr_path=folder / "stderr-weights")
    try:
        work.begin(child)
        for _ in child.lines():
            pass
        child.wait()
    finally:
        child.close()
    keeper.check()
    cached = _resolve(run)
    if cached is None:
        raise RunFailed(
            "base_model_unavailable", f"The weights of {run.base_model} could not be fetched.", param="model"
        )
    return cached


def _resolve(run: JobRun) -> ModelFiles | None:
    settings = run.place.settings
    try:
        return resolve(run.base_model, cache_dir=settings.model_cache, catalogue=run.place.catalogue)
    except WeightsError:
        return None
    except CatalogueError:
        raise RunFailed(
            "model_not_found", f"The base model {run.base_model} is no longer offered.", param="model"
        ) from None
