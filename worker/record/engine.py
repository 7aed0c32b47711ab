"""What a worker process needs to reach the records. Made after the fork, never at import."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session, sessionmaker

from catalogue import Catalogue, load_catalogue
from service.db.engine import sync_engine, sync_sessions
from service.sealing import Sealer
from service.settings import Settings
from service.storage import Storage

if TYPE_CHECKING:
    from worker.metrics import WorkMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """One worker process: its connections and the name it claims rows under."""

    settings: Settings
    sessions: sessionmaker[Session] = field(repr=False)
    storage: Storage
    sealer: Sealer = field(repr=False)
    catalogue: Catalogue
    metrics: WorkMetrics = field(repr=False)
    owner: str
    """Fresh for each process, so that a restarted worker never passes for its predecessor."""
    shutting_down: Callable[[], bool]
    """True once the worker was asked to stop: running work is handed back."""


def open_workplace(settings: Settings, *, shutting_down: Callable[[], bool]) -> Workplace:
    """Connects lazily: a database that is away is noticed at the first statement."""
    from worker.metrics import WorkMetrics  # late: see there

    return Workplace(
        settings=settings,
        sessions=sync_sessions(sync_engine(settings, bursts=True)),
        storage=Storage(settings.storage_dir),
        sealer=Sealer.from_settings(settings),
        catalogue=load_catalogue(settings.catalogue_file),
        metrics=WorkMetrics(),
        owner=f"worker-{uuid.uuid4()}",
        shutting_down=shutting_down,
    )
