"""Writing through a short outage of the database, as when it restarts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import structlog
from sqlalchemy.exc import SQLAlchemyError

from service.db.faults import is_temporary
from worker.errors import RecordsAway

log = structlog.get_logger(__name__)

T = TypeVar("T")

PAUSE_SECONDS = 0.5


def persist(
    write: Callable[[bool], T], *, patience_seconds: float, give_up: Callable[[], bool] = lambda: False
) -> T:
    """Call `write` until it gets through; its argument says whether an earlier call may have got through
    without our hearing of it.

    Raises:
        RecordsAway: the database stayed away for so long, or until it was time to `give_up`.
    """
    deadline = time.monotonic() + patience_seconds
    repeated = False
    while True:
        try:
            return write(repeated)
        except SQLAlchemyError as error:
            if not is_temporary(error):
                raise
            if time.monotonic() > deadline or give_up():
                raise RecordsAway(type(error).__name__) from None
            log.warning("records.away", error=type(error).__name__)
        repeated = True
        time.sleep(PAUSE_SECONDS)
