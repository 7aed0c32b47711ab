"""The doorbell: the only file of the service that knows Celery.

The row is the record. A message carries a task's name and a row's id, nothing else, and may get lost: the
reaper (`service.reaper`) rings again for every row that is still waiting.
"""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

BROKER_TIMEOUT_SECONDS = 0.4
"""For each socket operation of a ring; a broker that hangs may not hold a request for a second."""

BROKER_PAUSE_SECONDS = 2.0
"""After a failed ring the next ones fail at once for so long, so that requests don't queue up behind it."""

VISIBILITY_TIMEOUT_SECONDS = 24 * 3600
"""Longer than the longest job. The shortest value among all apps on one broker wins (celery#5935), so the
workers take theirs from `broker_transport_options` too; a lost job is found by its lease, never by this."""


_BROKER_ERRORS = (OperationalError, RedisError, OSError)


class TaskName(StrEnum):
    """What a message may ask for. The worker registers exactly these."""

    finetune_run = "finetune.run"
    verify_run = "verify.run"


QUEUES: dict[TaskName, str] = {TaskName.finetune_run: "train", TaskName.verify_run: "probe"}
"""Training has a queue of its own, so that an audit never waits behind it."""

TASK_ROUTES: dict[str, dict[str, str]] = {name.value: {"queue": queue} for name, queue in QUEUES.items()}


class DispatchError(Exception):
    """The broker did not take the message. The row stays queued and the reaper rings again."""


def broker_transport_options() -> dict[str, Any]:
    """The options of the Redis transport that every app on the broker must share."""
    return {
        "visibility_timeout": VISIBILITY_TIMEOUT_SECONDS,
        # sweep for abandoned messages every 10 s instead of about every 100 s
        "unacked_restore_interval": 10,
        "unacked_restore_throttle": 1,
    }


class Dispatcher:
    """Sends doorbell messages. Safe to use from several threads."""

    def __init__(self, redis_url: str) -> None:
        self._app = Celery("doublei-dispatch", broker=redis_url, set_as_current=False)
        self._app.conf.update(
            task_serializer="json",
            accept_content=["json"],
            task_routes=TASK_ROUTES,
            task_ignore_result=True,
            broker_connection_retry=False,
            broker_connection_max_retries=0,
            broker_transport_options=broker_transport_options()
            | {
                "socket_timeout": BROKER_TIMEOUT_SECONDS,
                "socket_connect_timeout": BROKER_TIMEOUT_SECONDS,
                "max_retries": 0,
            },
        )
        self._paused_until = 0.0

    def ring(self, task: TaskName, row_id: str) -> None:
        """Ask a worker to look at a row. Blocks for about a second at most.

        Raises:
            DispatchError: the broker is away, hanging or full.
        """
        self._refuse_while_paused()
        try:
            self._app.send_task(task.value, args=[row_id], retry=False, ignore_result=True)
        except _BROKER_ERRORS as error:
            self._pause()
            raise DispatchError(f"the broker did not take {task.value}: {type(error).__name__}") from error

    def waiting(self, task: TaskName) -> int:
        """How many messages lie in the task's queue, not counting those a worker holds.

        Raises:
            DispatchError: the broker is away or hanging.
        """
        self._refuse_while_paused()
        try:
            with self._app.connection_for_write() as connection:
                try:
                    declared = connection.default_channel.queue_declare(QUEUES[task], passive=True)
                except connection.channel_errors:
                    return 0  # nothing was ever sent to it
                return int(declared.message_count)
        except _BROKER_ERRORS as error:
            self._pause()
            raise DispatchError(f"the broker did not answer: {type(error).__name__}") from error

    def close(self) -> None:
        """Give back the broker's connections."""
        self._app.close()

    def _refuse_while_paused(self) -> None:
        if time.monotonic() < self._paused_until:
            raise DispatchError("the broker failed a moment ago")

    def _pause(self) -> None:
        self._paused_until = time.monotonic() + BROKER_PAUSE_SECONDS
