"""A local copy of a listing that grows at the newest end, kept fresh with few requests.

The newest page is read at every refresh; older pages are read once, one a refresh, until the whole
listing or the capacity is reached; an older entry that is still active is read on its own. So a
refresh costs one request when nothing else is going on, however long the history is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from dashboard.api import Page
from dashboard.errors import RequestRefused

MAX_CATCH_UP_PAGES = 10
MAX_SINGLE_READS = 10


class Entry(Protocol):
    """What a listing holds."""

    @property
    def id(self) -> str:
        """Unique in the listing."""

    @property
    def active(self) -> bool:
        """Whether it may still change."""


E = TypeVar("E", bound=Entry)


class Ledger(Generic[E]):
    """The listing as known so far, newest first."""

    def __init__(
        self,
        fetch_page: Callable[[str | None], Awaitable[Page[E]]],
        fetch_one: Callable[[str], Awaitable[E]] | None = None,
        *,
        capacity: int = 1000,
    ) -> None:
        self._fetch_page = fetch_page
        self._fetch_one = fetch_one
        self._capacity = capacity
        self._entries: dict[str, E] = {}
        self._order: list[str] = []
        self._has_older = False

    @property
    def entries(self) -> tuple[E, ...]:
        """All known entries, newest first."""
        return tuple(self._entries[entry_id] for entry_id in self._order)

    @property
    def complete(self) -> bool:
        """Whether nothing older is left unread on the server."""
        return not self._has_older

    @property
    def full(self) -> bool:
        """Whether older entries are left unread for want of capacity."""
        return self._has_older and len(self._order) >= self._capacity

    async def refresh(self) -> None:
        """Bring the copy up to date. Raises: any DashboardError; what was known stays."""
        seen = await self._read_newest()
        if self._has_older and len(self._order) < self._capacity:
            page = await self._fetch_page(self._order[-1])
            self._append(page)
            seen.update(entry.id for entry in page.items)
        await self._read_active(seen)

    def put(self, entry: E) -> None:
        """Take over a newer state of a known entry."""
        if entry.id in self._entries:
            self._entries[entry.id] = entry

    async def _read_newest(self) -> set[str]:
        fresh: list[str] = []
        seen: set[str] = set()
        after: str | None = None
        for _ in range(MAX_CATCH_UP_PAGES):
            page = await self._fetch_page(after)
            for entry in page.items:
                if entry.id not in self._entries:
                    fresh.append(entry.id)
                self._entries[entry.id] = entry
                seen.add(entry.id)
            overlaps = len(seen) > len(fresh)
            if not self._order:
                self._has_older = page.has_more
            if overlaps or not self._order or not page.has_more or not page.items:
                break
            after = page.items[-1].id
        else:
            # Too much is new to close the gap: what was known before is stale, so start again from here.
            for entry_id in self._order:
                self._entries.pop(entry_id, None)
            self._order = []
            self._has_older = True
        self._order = fresh + self._order
        return seen

    def _append(self, page: Page[E]) -> None:
        for entry in page.items:
            if entry.id not in self._entries:
                self._order.append(entry.id)
            self._entries[entry.id] = entry
        self._has_older = page.has_more and bool(page.items)

    async def _read_active(self, seen: set[str]) -> None:
        if self._fetch_one is None:
            return
        stale = [key for key in self._order if key not in seen and self._entries[key].active]
        for entry_id in stale[:MAX_SINGLE_READS]:
            try:
                self._entries[entry_id] = await self._fetch_one(entry_id)
            except RequestRefused:
                # Deleted meanwhile, with its owner: drop it.
                self._order.remove(entry_id)
                del self._entries[entry_id]
