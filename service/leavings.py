"""What the runs of an ended job left in storage goes soon after its end, whoever ended it.

A worker clears up behind the job that it ends. Nobody would behind a job that was cancelled while it was
paused or waited for its next attempt, nor behind one whose worker was lost and that the reaper ended. What
a failed job could have gone on from stays, until `doublei gc`, for whoever looks into the failure.
"""

from __future__ import annotations

import asyncio
import shutil
from contextlib import suppress

import structlog
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from service.jobs import checkpoints
from service.jobs.checkpoints import LiveRun
from service.jobs.lifecycle import TERMINAL, JobStatus
from service.storage import RUNS_FOLDER, Storage, entries

log = structlog.get_logger(__name__)

PASS_SECONDS = 3.0

CHUNK = 500
"""So many jobs at a time."""


async def clear_forever(sessions: async_sessionmaker[AsyncSession], storage: Storage) -> None:
    """Until cancelled. Survives a database that is away."""
    while True:
        try:
            await clear(sessions, storage)
        except Exception as error:
            log.warning("leavings.failed", error=type(error).__name__)
        await asyncio.sleep(PASS_SECONDS)


async def clear(sessions: async_sessionmaker[AsyncSession], storage: Storage) -> None:
    """One pass. Only folders of unfinished and of failed jobs are looked at, so it costs little."""
    ids = sorted(await asyncio.to_thread(_jobs_with_leavings, storage))
    for start in range(0, len(ids), CHUNK):
        async with sessions() as session, session.begin():
            found = [
                LiveRun(*row) for row in await session.execute(checkpoints.runs(ids[start : start + CHUNK]))
            ]
            ended = [run.job_id for run in found if run.status in TERMINAL]
            over = [run.job_id for run in found if run.status in TERMINAL - {JobStatus.failed}]
            if not ended:
                continue
            await session.execute(checkpoints.forget_unpublished(ended))
            await session.execute(checkpoints.forget_states(over))
            named = set((await session.scalars(checkpoints.named_paths(ended))).all())
        # Committed, and no run of an ended job can name anything more.
        await asyncio.to_thread(_remove, storage, set(ended), set(over), named)


def _jobs_with_leavings(storage: Storage) -> set[str]:
    """Ids by the names of folders that nobody keeps for long; of adapters there are as many as models."""
    return {
        *(path.name for path in entries(storage.checkpoints_dir)),
        *(path.name.rpartition(".")[0] for path in entries(storage.root / RUNS_FOLDER)),
    }


def _remove(storage: Storage, ended: set[str], over: set[str], named: set[str]) -> None:
    for job_id in over:
        shutil.rmtree(storage.checkpoints_dir / job_id, ignore_errors=True)
    for job_id in ended:
        storage.remove_working_folders(job_id)
        adapters = storage.adapters_dir / job_id
        for path in entries(adapters):
            if str(path.relative_to(storage.root)) not in named:
                shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):
            adapters.rmdir()
