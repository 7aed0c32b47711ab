"""What one signed-in operator's pages show, polled once for all of them, and only while one is open."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from dashboard.api import Api
from dashboard.errors import DashboardError, KeyRefused, WrongRole
from dashboard.ledger import Ledger
from dashboard.records import Health, Job, Verification

logger = logging.getLogger(__name__)

HEALTH_SECONDS = 6.0
"""/readyz asks the database, the broker and serving: rarer than the listings."""

MAX_BACK_OFF_SECONDS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """The API does not answer."""

    message: str
    since: datetime
    retry_seconds: float
    """How long the feed waits before it tries again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All that the page shows. During an outage the figures are those of ``updated_at``."""

    jobs: tuple[Job, ...] = ()
    verifications: tuple[Verification, ...] = ()
    organizations: Mapping[str, str] = field(default_factory=dict)
    """Names by id."""
    history_complete: bool = True
    health: Health | None = None
    updated_at: datetime | None = None
    """None until the first answer."""
    outage: Outage | None = None
    signed_out: str | None = None
    """Why the key is no longer accepted; final."""


Watcher = Callable[[Snapshot], Awaitable[None]]


class Feed:
    """Polls with one key and calls its watchers with each snapshot."""

    def __init__(self, api: Api, *, poll_seconds: float) -> None:
        self.api = api
        self.snapshot = Snapshot()
        self._poll_seconds = poll_seconds
        self._jobs = Ledger(api.jobs, api.job)
        self._verifications = Ledger(api.verifications, api.verification)
        self._organizations = Ledger(api.organizations)
        self._unnamed: set[str] = set()
        self._watchers: dict[object, Watcher] = {}
        self._task: asyncio.Task[None] | None = None
        self._soon = asyncio.Event()
        self._failures = 0
        self._health_at = float("-inf")

    def watch(self, owner: object, watcher: Watcher) -> None:
        """Call ``watcher`` with every snapshot from now on; starts polling when it is the first."""
        self._watchers[owner] = watcher
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._poll(), name="dashboard feed")
        else:
            self._soon.set()

    def unwatch(self, owner: object) -> None:
        """Forget a watcher; polling stops with the last one."""
        self._watchers.pop(owner, None)
        if not self._watchers and self._task is not None:
            self._task.cancel()
            self._task = None

    @property
    def polling(self) -> bool:
        """Whether requests are being sent at all."""
        return self._task is not None and not self._task.done()

    def hurry(self) -> None:
        """Poll now instead of at the end of the present wait."""
        self._soon.set()

    def put(self, job: Job) -> None:
        """Show a job's newer state (an answer to a cancel) without waiting for the next poll."""
        self._jobs.put(job)
        self.snapshot = replace(self.snapshot, jobs=self._jobs.entries)
        self.hurry()

    async def end(self, reason: str) -> None:
        """The key is no longer good: tell the watchers once and stop."""
        self.snapshot = replace(self.snapshot, signed_out=reason)
        await self._tell()
        for owner in list(self._watchers):
            self.unwatch(owner)

    async def _poll(self) -> None:
        while self.snapshot.signed_out is None:
            self._soon.clear()
            wait = await self._refresh()
            await self._tell()
            if self.snapshot.signed_out is not None:
                return
            try:
                await asyncio.wait_for(self._soon.wait(), timeout=wait)
            except TimeoutError:
                continue

    async def _refresh(self) -> float:
        """One round of requests; returns the seconds to wait before the next."""
        try:
            health = await self._read_health()
            await self._jobs.refresh()
            await self._verifications.refresh()
            organizations = await self._read_organizations()
        except (KeyRefused, WrongRole) as error:
            self.snapshot = replace(self.snapshot, signed_out=error.message)
            return 0.0
        except DashboardError as error:
            return self._outage(error.message)
        except Exception:
            logger.exception("polling failed")
            return self._outage("The dashboard could not make sense of the API's answer; its log says why.")
        self._failures = 0
        self.snapshot = Snapshot(
            jobs=self._jobs.entries,
            verifications=self._verifications.entries,
            organizations=organizations,
            history_complete=self._jobs.complete and self._verifications.complete,
            health=health,
            updated_at=datetime.now(UTC),
        )
        loading = not self.snapshot.history_complete and not (self._jobs.full or self._verifications.full)
        return 0.2 if loading else self._poll_seconds

    async def _read_health(self) -> Health | None:
        now = asyncio.get_running_loop().time()
        if self.snapshot.health is not None and now - self._health_at < HEALTH_SECONDS:
            return self.snapshot.health
        health = await self.api.health()
        self._health_at = now
        return health

    async def _read_organizations(self) -> Mapping[str, str]:
        """Names by id, read again when an id appears that has none."""
        names = {item.id: item.name for item in self._organizations.entries}
        owners = {job.organization for job in self._jobs.entries}
        owners |= {verification.organization for verification in self._verifications.entries}
        unnamed = {owner for owner in owners if owner is not None} - names.keys()
        if names and unnamed <= self._unnamed:
            return self.snapshot.organizations
        await self._organizations.refresh()
        names = {item.id: item.name for item in self._organizations.entries}
        # Once is enough for an id that stays nameless, unless there are older pages to look at.
        self._unnamed = unnamed - names.keys() if self._organizations.complete else set()
        return names

    def _outage(self, message: str) -> float:
        self._failures += 1
        self._health_at = float("-inf")
        wait = min(self._poll_seconds * 2.0 ** min(self._failures, 10), MAX_BACK_OFF_SECONDS)
        # Jitter, so that many open dashboards do not greet a restarted API at the same moment.
        wait *= random.uniform(0.8, 1.0)
        before = self.snapshot.outage
        self.snapshot = replace(
            self.snapshot,
            health=None,
            outage=Outage(
                message=message,
                since=before.since if before else datetime.now(UTC),
                retry_seconds=wait,
            ),
        )
        return wait

    async def _tell(self) -> None:
        watchers = list(self._watchers.values())
        for result in await asyncio.gather(*(w(self.snapshot) for w in watchers), return_exceptions=True):
            if isinstance(result, Exception):
                logger.error("a page could not be updated", exc_info=result)
