"""The Celery application: ``celery -A worker.app worker -Q train -c 1``.

Celery is only the alarm clock. Its defaults are wrong for jobs of an hour (early acknowledgement, prefetch
of 4, redelivery after 3,600 s) and its own record of tasks is not kept: Postgres says what happened.
"""

from __future__ import annotations

import atexit
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from billiard.process import current_process
from celery import Celery, signals
from celery.worker import state

from service import logs
from service.dispatch import TASK_ROUTES, broker_transport_options
from service.operator_door import open_door
from service.settings import Settings, load_settings
from worker.child import die_with_parent
from worker.record.engine import Workplace, open_workplace
from worker.tasks import TASKS
from worker.watchdog import EXIT_STATUS, Watchdog, watchdog


class ShutdownFlag:
    """One byte shared by the worker's main process and its forks: Celery tells only the former that it is
    to stop, but it is the latter who have a training process to stop."""

    def __init__(self) -> None:
        self._byte = mmap.mmap(-1, 1)

    def set(self) -> None:
        """Ask every fork to hand back its work."""
        self._byte[0] = 1

    def __call__(self) -> bool:
        return self._byte[0] == 1


class Places:
    """The workplace of this process, opened after the fork."""

    def __init__(self, settings: Settings, shutting_down: ShutdownFlag) -> None:
        self._settings = settings
        self._shutting_down = shutting_down
        self._place: Workplace | None = None

    def open(self) -> None:
        """Once in each process that runs tasks."""
        self._place = open_workplace(self._settings, shutting_down=self._shutting_down)

    @property
    def here(self) -> Workplace:
        """Opened already: Celery announces a process before it gives it a task."""
        if self._place is None:
            self.open()
        assert self._place is not None
        return self._place


class Watch:
    """The watchdog of this worker's main process: begun once it takes messages."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._watchdog: Watchdog | None = None
        self.at_exit: list[Callable[[], None]] = []
        """what is to be tidied up when the process ends without Python's own ending"""

    def unheard_seconds(self) -> float:
        """See `Watchdog.unheard_seconds`."""
        return 0.0 if self._watchdog is None else self._watchdog.unheard_seconds

    def connect(self) -> None:
        """Begin with Celery's announcement."""
        if self._settings.watchdog_seconds:
            signals.worker_ready.connect(self._begin, weak=False)
            signals.task_received.connect(self._heard, weak=False)

    def _begin(self, sender: Any, **_: Any) -> None:
        def is_busy() -> bool:
            return len(state.active_requests) > 0

        self._watchdog = watchdog(
            self._settings, is_busy=is_busy, queues=set(sender.app.amqp.queues.consume_from)
        )
        self._watchdog.start(self._end)

    def _heard(self, **_: Any) -> None:
        if self._watchdog is not None:
            self._watchdog.heard()

    def _end(self, unheard_seconds: float) -> None:
        """Not by Celery's own way: nobody knows what its event loop still does. There is nothing to hand
        back, and the kernel ends the forks."""
        for tidy in self.at_exit:
            tidy()
        os._exit(EXIT_STATUS)


def create_app(settings: Settings) -> Celery:
    """An application that serves every task the service may ring."""
    app = Celery("doublei", broker=settings.redis_url.get_secret_value())
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        result_backend=None,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        task_routes=TASK_ROUTES,
        task_create_missing_queues=True,
        broker_transport_options=broker_transport_options(),
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_retry=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        worker_proc_alive_timeout=60.0,
    )
    flag = ShutdownFlag()
    watch = Watch(settings)
    _show_metrics(settings, flag, watch)
    places = Places(settings, flag)
    for name, function in TASKS.items():
        app.task(_in_place(function, places), name=name.value, ignore_result=True)
    _connect_signals(places, flag)
    watch.connect()
    if settings.ready_file is not None:
        _announce_ready(settings.ready_file, watch)
    return app


def _in_place(function: Callable[[Workplace, str], None], places: Places) -> Callable[[str], None]:
    def task(row_id: str) -> None:
        function(places.here, row_id)

    task.__name__ = function.__name__
    task.__doc__ = function.__doc__
    return task


def _connect_signals(places: Places, flag: ShutdownFlag) -> None:
    def process_started(**_: Any) -> None:
        if current_process()._name != "MainProcess":
            # A fork that outlived a killed worker would train on, unseen.
            die_with_parent()
        places.open()

    def stopping(**_: Any) -> None:
        flag.set()

    def set_up_logs(**_: Any) -> None:
        logs.configure()

    signals.worker_process_init.connect(process_started, weak=False)
    signals.worker_shutting_down.connect(stopping, weak=False)
    signals.setup_logging.connect(set_up_logs, weak=False)


def _announce_ready(file: Path, watch: Watch) -> None:
    """The file is there while messages are taken."""

    def ready(**_: Any) -> None:
        file.touch()

    def stopping(**_: Any) -> None:
        file.unlink(missing_ok=True)

    signals.worker_ready.connect(ready, weak=False)
    signals.worker_shutting_down.connect(stopping, weak=False)
    watch.at_exit.append(stopping)


def _show_metrics(settings: Settings, flag: ShutdownFlag, watch: Watch) -> None:
    """The forks count in a folder, the main process shows the sums."""
    if settings.metrics_host_port is None:
        return
    folder = Path(tempfile.mkdtemp(prefix="doublei-metrics-"))
    # prometheus-client's own variable; read when it is imported, which happens nowhere before.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    main = os.getpid()

    def ready(**_: Any) -> None:
        from worker.metrics import worker_registry
        from worker.readiness import readiness

        open_door(
            settings,
            worker_registry(folder, unheard_seconds=watch.unheard_seconds),
            readiness(settings, shutting_down=flag, unheard_seconds=watch.unheard_seconds),
        )

    def remove() -> None:
        if os.getpid() == main:
            shutil.rmtree(folder, ignore_errors=True)

    signals.worker_ready.connect(ready, weak=False)
    atexit.register(remove)
    watch.at_exit.append(remove)


app = create_app(load_settings())
