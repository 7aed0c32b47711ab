"""A worker that lives and answers and takes no message ends itself, for its supervisor to start another.

After a broker's restart a Celery worker has more than once been left so (celery#8030, #9054, #10205): its
process, its event loop and its connection were fine, and nothing was consumed until somebody restarted it. No
ping shows that. What shows it is a bell: an idle worker that sees rows waiting rings for the oldest itself,
on a connection of its own. If the broker takes its messages, rows go on waiting, and for a while no message
at all reaches this worker, then it is deaf.

A broker or a database that is away proves nothing, and nothing is done then. Nor while a task runs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection

import structlog
from sqlalchemy.exc import SQLAlchemyError

from service import leases
from service.db.engine import sync_engine, sync_sessions
from service.dispatch import QUEUES, Dispatcher, DispatchError, TaskName
from service.reaper import GRACE_SECONDS, TASKS
from service.settings import Settings

log = structlog.get_logger(__name__)

LOOK_SECONDS = 3.0

EXIT_STATUS = 70
"""EX_SOFTWARE of sysexits.h."""

Waiting = tuple[TaskName, str]
"""A task and the id of a row that waits for it."""


class Watchdog:
    """Judges one worker. `heard` comes from the thread that consumes, `look` from the one that watches.

    Time is counted in looks: a process that was stopped for a minute has not been deaf for a minute.
    """

    def __init__(
        self,
        *,
        patience_seconds: float,
        oldest_waiting: Callable[[], Waiting | None],
        ring: Callable[[TaskName, str], None],
        is_busy: Callable[[], bool],
    ) -> None:
        """`oldest_waiting` may raise SQLAlchemyError, `ring` DispatchError: then nothing is concluded."""
        self._patience_seconds = patience_seconds
        self._oldest_waiting = oldest_waiting
        self._ring = ring
        self._is_busy = is_busy
        self._messages = 0
        self._messages_at_ring = 0
        self._looks = 0
        """at which its own bell rang, since a message was last heard"""

    def heard(self) -> None:
        """A message has reached the worker."""
        self._messages += 1

    @property
    def unheard_seconds(self) -> float:
        """For how long its own bell has rung unheard; 0 for one that hears, works or has nothing to do."""
        return self._looks * LOOK_SECONDS

    def look(self) -> bool:
        """Whether the worker is deaf."""
        if self._is_busy() or self._messages != self._messages_at_ring:
            self._messages_at_ring, self._looks = self._messages, 0
            return False
        try:
            waiting = self._oldest_waiting()
            if waiting is None:
                self._looks = 0
            else:
                # At each look: the broker may have lost what it took at the one before.
                self._ring(*waiting)
                self._looks += 1
        except (SQLAlchemyError, DispatchError):
            self._looks = 0
        return self.unheard_seconds > self._patience_seconds

    def watch_forever(self, on_deaf: Callable[[float], None]) -> None:
        """Look again and again; calls `on_deaf` with the seconds, and returns if that returns."""
        while True:
            time.sleep(LOOK_SECONDS)
            try:
                deaf = self.look()
            except Exception as error:  # a mistake in here must not pass for a healthy worker unnoticed
                log.error("watchdog.failed", error=type(error).__name__)
                continue
            if deaf:
                log.error("worker.deaf", unheard_seconds=round(self.unheard_seconds, 1))
                on_deaf(self.unheard_seconds)
                return

    def start(self, on_deaf: Callable[[float], None]) -> None:
        """In a thread that ends with the process."""
        threading.Thread(target=self.watch_forever, args=(on_deaf,), name="watchdog", daemon=True).start()


def watchdog(settings: Settings, *, is_busy: Callable[[], bool], queues: Collection[str]) -> Watchdog:
    """One for a worker that takes messages from these queues."""
    sessions = sync_sessions(sync_engine(settings, application_name="doublei-watchdog"))
    dispatcher = Dispatcher(settings.redis_url.get_secret_value())
    tasks = [(task, table) for task, table in TASKS if QUEUES[task] in queues]

    def oldest_waiting() -> Waiting | None:
        with sessions() as session:
            for task, table in tasks:
                overdue = leases.overdue(table, older_than_seconds=GRACE_SECONDS, limit=1)
                if (row_id := session.scalar(overdue)) is not None:
                    return task, row_id
        return None

    return Watchdog(
        patience_seconds=settings.watchdog_seconds,
        oldest_waiting=oldest_waiting,
        ring=dispatcher.ring,
        is_busy=is_busy,
    )
