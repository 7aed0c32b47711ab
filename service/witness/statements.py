"""SQL of the witness."""

from __future__ import annotations

from sqlalchemy import Select, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.dml import ReturningInsert

from evidence.log.checkpoint import Checkpoint
from service.db.models import WitnessedLog


def known(origin: str) -> Select[int, bytes]:
    """(size, root) of the newest checkpoint of a log that was cosigned."""
    return select(WitnessedLog.size, WitnessedLog.root).where(WitnessedLog.origin == origin)


def remember(checkpoint: Checkpoint, note: str, *, before: Checkpoint) -> ReturningInsert[int]:
    """Put a checkpoint into the place of the one that it was checked against; no row comes back if another
    took that place meanwhile."""
    fresh = insert(WitnessedLog).values(
        origin=checkpoint.origin, size=checkpoint.size, root=checkpoint.root, note=note
    )
    return fresh.on_conflict_do_update(
        index_elements=[WitnessedLog.origin],
        set_={
            "size": fresh.excluded.size,
            "root": fresh.excluded.root,
            "note": fresh.excluded.note,
            "updated_at": func.clock_timestamp(),
        },
        where=(WitnessedLog.size == before.size) & (WitnessedLog.root == before.root),
    ).returning(WitnessedLog.size)
