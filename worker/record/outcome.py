"""How a run ended, as its row says."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from service.leases import LeasedTable
from worker.record.engine import Workplace


def status_of(place: Workplace, table: LeasedTable, row_id: str) -> str:
    """The row's status now; `unknown` while the database is away. For counting, not for deciding."""
    try:
        with place.sessions() as session:
            status: str | None = session.scalar(select(table.status).where(table.id == row_id))
    except SQLAlchemyError:
        return "unknown"
    return status or "unknown"
