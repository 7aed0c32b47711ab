"""Polling: only while somebody watches, once for all watchers, slower while the API is down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from dashboard.api import Api
from dashboard.feed import Feed, Snapshot
from tests.unit.dashboard import fake_api
from tests.unit.dashboard.fake_api import FakeApi


class Watcher:
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.seen: list[Snapshot] = []

    async def __call__(self, snapshot: Snapshot) -> None:
        """Take a snapshot."""
        self.seen.append(snapshot)

    async def until(self, condition: Callable[[Snapshot], bool]) -> Snapshot:
        """The next snapshot, from now on, that meets a condition."""
        place = len(self.seen)
        async with asyncio.timeout(10):
            while True:
                while place < len(self.seen):
                    if condition(self.seen[place]):
                        return self.seen[place]
                    place += 1
                await asyncio.sleep(0.01)


@pytest.fixture
async def feed(api: Api) -> AsyncIterator[Feed]:
    """A feed that polls fast."""
    made = Feed(api, poll_seconds=0.03)
    yield made
    for owner in list(made._watchers):
        made.unwatch(owner)


async def test_everything_arrives(fake: FakeApi, feed: Feed) -> None:
    """Jobs, verifications, health and names of organizations."""
    fake.jobs = [fake_api.job(1, "running")]
    fake.verifications = [fake_api.verification(1)]
    fake.organizations = [{"id": fake.jobs[0]["organization_id"], "name": "Harbour Bakery", "role": "owner"}]
    watcher = Watcher()
    feed.watch(self_ := object(), watcher)
    snapshot = await watcher.until(lambda seen: seen.updated_at is not None)
    feed.unwatch(self_)
    assert [job.status for job in snapshot.jobs] == ["running"]
    assert [item.verdict for item in snapshot.verifications] == ["detected"]
    assert snapshot.health is not None
    assert snapshot.health.ready
    assert snapshot.organizations[fake.jobs[0]["organization_id"]] == "Harbour Bakery"


async def test_no_watcher_no_request(fake: FakeApi, feed: Feed) -> None:
    """An idle dashboard leaves the API alone."""
    watcher = Watcher()
    feed.watch("page", watcher)
    await watcher.until(lambda seen: True)
    feed.unwatch("page")
    await asyncio.sleep(0.1)
    before = len(fake.requests)
    await asyncio.sleep(0.2)
    assert len(fake.requests) == before
    assert not feed.polling


async def test_two_pages_share_one_poll(fake: FakeApi, feed: Feed) -> None:
    """Both are told the same snapshot."""
    first, second = Watcher(), Watcher()
    feed.watch("first", first)
    feed.watch("second", second)
    seen = await second.until(lambda _: True)
    assert any(seen is other for other in first.seen)


async def test_an_outage_is_told_and_ends(fake: FakeApi, feed: Feed) -> None:
    """The last figures stay, with a message; when the API is back, so is everything."""
    fake.jobs = [fake_api.job(1)]
    watcher = Watcher()
    feed.watch("page", watcher)
    await watcher.until(lambda seen: bool(seen.jobs))
    fake.broken = True
    down = await watcher.until(lambda seen: seen.outage is not None)
    assert down.outage is not None
    assert "in trouble" in down.outage.message
    assert down.jobs, "the last figures are still there"
    fake.broken = False
    up = await watcher.until(lambda seen: seen.outage is None)
    assert up.jobs


async def test_it_backs_off_while_the_api_is_down(fake: FakeApi, feed: Feed) -> None:
    """Each wait is longer than the one before, up to a limit."""
    fake.broken = True
    watcher = Watcher()
    feed.watch("page", watcher)
    await watcher.until(lambda seen: seen.outage is not None and seen.outage.retry_seconds > 0.3)
    waits = [seen.outage.retry_seconds for seen in watcher.seen if seen.outage is not None]
    assert waits == sorted(waits)


async def test_hurry_ends_a_wait(fake: FakeApi, api: Api) -> None:
    """Try now means now."""
    feed = Feed(api, poll_seconds=60.0)
    watcher = Watcher()
    feed.watch("page", watcher)
    await watcher.until(lambda _: True)
    fake.jobs = [fake_api.job(1)]
    feed.hurry()
    assert (await watcher.until(lambda seen: bool(seen.jobs))).jobs
    feed.unwatch("page")


async def test_a_revoked_key_ends_it(fake: FakeApi, feed: Feed) -> None:
    """The pages are told once, and nothing is asked any more."""
    watcher = Watcher()
    feed.watch("page", watcher)
    await watcher.until(lambda seen: seen.updated_at is not None)
    fake.keys.clear()
    ended = await watcher.until(lambda seen: seen.signed_out is not None)
    assert ended.signed_out
    await asyncio.sleep(0.1)
    assert not feed.polling


async def test_a_page_that_fails_does_not_stop_the_others(
    fake: FakeApi, feed: Feed, caplog: pytest.LogCaptureFixture
) -> None:
    """Its error is logged; the others go on."""

    async def broken(_: Snapshot) -> None:
        raise ValueError("a bug in a page")

    watcher = Watcher()
    feed.watch("broken", broken)
    feed.watch("page", watcher)
    await watcher.until(lambda _: True)
    await watcher.until(lambda _: True)
    assert "a page could not be updated" in caplog.text
