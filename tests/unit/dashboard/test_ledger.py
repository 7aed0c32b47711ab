"""The local copy of a listing equals the server's, at one request a refresh when nothing goes on."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from dashboard.api import Page
from dashboard.errors import RequestRefused
from dashboard.ledger import Ledger


@dataclass(frozen=True)
class Item:
    """An entry of the listing."""

    id: str
    active: bool = False
    version: int = 0


class Server:
    """A listing, newest first, that counts what it is asked."""

    def __init__(self, page_size: int = 10) -> None:
        self.items: list[Item] = []
        self.page_size = page_size
        self.pages = 0
        self.singles = 0

    def add(self, count: int, *, active: bool = False) -> None:
        """Newer entries."""
        for _ in range(count):
            self.items.insert(0, Item(f"item-{len(self.items):05d}", active))

    async def page(self, after: str | None) -> Page[Item]:
        """One page after a cursor."""
        self.pages += 1
        start = 0 if after is None else next(i + 1 for i, item in enumerate(self.items) if item.id == after)
        end = start + self.page_size
        return Page(items=tuple(self.items[start:end]), has_more=end < len(self.items))

    async def one(self, identifier: str) -> Item:
        """One entry."""
        self.singles += 1
        for item in self.items:
            if item.id == identifier:
                return item
        raise RequestRefused("no such item")


async def test_a_long_history_is_read_page_by_page_and_only_once() -> None:
    """After the whole was read, a refresh costs one request."""
    server = Server()
    server.add(45)
    ledger = Ledger(server.page, server.one)
    for _ in range(6):
        await ledger.refresh()
    assert ledger.complete
    assert list(ledger.entries) == server.items
    before = server.pages
    await ledger.refresh()
    assert server.pages == before + 1


async def test_new_entries_come_first() -> None:
    """Also when more are new than fit a page."""
    server = Server()
    server.add(15)
    ledger = Ledger(server.page, server.one)
    await ledger.refresh()
    server.add(27)
    await ledger.refresh()
    assert list(ledger.entries) == server.items


async def test_a_flood_of_new_entries_leaves_no_gap() -> None:
    """When the gap to what was known can't be closed, the copy starts again from the newest."""
    server = Server(page_size=2)
    server.add(4)
    ledger = Ledger(server.page, server.one)
    await ledger.refresh()
    server.add(60)
    for _ in range(40):
        await ledger.refresh()
    assert list(ledger.entries) == server.items


async def test_an_old_active_entry_is_kept_fresh() -> None:
    """A job that runs while many newer ones come is read on its own."""
    server = Server()
    server.add(1, active=True)
    server.add(30)
    ledger = Ledger(server.page, server.one)
    for _ in range(5):
        await ledger.refresh()
    server.items[-1] = Item(server.items[-1].id, active=False, version=2)
    await ledger.refresh()
    assert ledger.entries[-1].version == 2
    singles = server.singles
    await ledger.refresh()
    assert server.singles == singles, "what has ended is not asked for again"


async def test_an_active_entry_that_vanished_is_dropped() -> None:
    """Its owner deleted it."""
    server = Server()
    server.add(1, active=True)
    server.add(30)
    ledger = Ledger(server.page, server.one)
    for _ in range(5):
        await ledger.refresh()
    server.items.pop()
    await ledger.refresh()
    assert list(ledger.entries) == server.items


async def test_capacity_bounds_what_is_kept() -> None:
    """Beyond it the copy says that it is not complete, and asks no more."""
    server = Server()
    server.add(100)
    ledger = Ledger(server.page, server.one, capacity=30)
    for _ in range(10):
        await ledger.refresh()
    assert len(ledger.entries) == 30
    assert ledger.full
    assert not ledger.complete


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 25), min_size=1, max_size=8), st.integers(1, 7))
async def test_the_copy_converges(bursts: list[int], page_size: int) -> None:
    """Whatever comes in whatever bursts, some quiet refreshes later the copy equals the listing."""
    server = Server(page_size=page_size)
    ledger = Ledger(server.page, server.one)
    for burst in bursts:
        server.add(burst)
        await ledger.refresh()
    for _ in range(len(server.items) // page_size + 2):
        await ledger.refresh()
    assert list(ledger.entries) == server.items
    assert ledger.complete
