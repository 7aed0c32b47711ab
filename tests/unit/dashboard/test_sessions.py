"""Sessions: a signed random id in the browser, the key in memory only."""

from __future__ import annotations

import httpx2
import pytest

from dashboard.api import Api
from dashboard.feed import Feed
from dashboard.sessions import LIFETIME_SECONDS, MAX_SESSIONS, Sessions

SECRET = b"s" * 32


class Clock:
    """A clock that the test turns."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now


@pytest.fixture
def feed(http: httpx2.AsyncClient) -> Feed:
    """A feed nobody watches."""
    return Feed(Api(http, "http://127.0.0.1:9", "di_very_secret"), poll_seconds=1)


async def test_the_cookie_finds_its_session_and_holds_no_key(feed: Feed) -> None:
    """The value is random and signed."""
    sessions = Sessions(SECRET)
    cookie = await sessions.open(feed)
    session = sessions.find(cookie)
    assert session is not None
    assert session.feed is feed
    assert "di_very_secret" not in cookie
    assert "di_very_secret" not in repr(session)


@pytest.mark.parametrize("cookie", [None, "", ".", "a.b", "\N{SNOWMAN}.\N{SNOWMAN}"])
async def test_a_made_up_cookie_finds_nothing(feed: Feed, cookie: str | None) -> None:
    """Nor does it raise."""
    sessions = Sessions(SECRET)
    await sessions.open(feed)
    assert sessions.find(cookie) is None


async def test_a_changed_signature_finds_nothing(feed: Feed) -> None:
    """Every character counts."""
    sessions = Sessions(SECRET)
    cookie = await sessions.open(feed)
    for place in range(len(cookie)):
        changed = cookie[:place] + ("A" if cookie[place] != "A" else "B") + cookie[place + 1 :]
        assert sessions.find(changed) is None


async def test_another_secret_signs_nobody_in(feed: Feed) -> None:
    """A cookie of another dashboard is worth nothing here."""
    assert Sessions(b"t" * 32).find(await Sessions(SECRET).open(feed)) is None


async def test_sessions_expire(feed: Feed) -> None:
    """After the lifetime the key is forgotten."""
    clock = Clock()
    sessions = Sessions(SECRET, clock=clock)
    cookie = await sessions.open(feed)
    clock.now = LIFETIME_SECONDS - 1
    assert sessions.find(cookie) is not None
    clock.now = LIFETIME_SECONDS
    assert sessions.find(cookie) is None


async def test_closing_ends_the_feed(feed: Feed) -> None:
    """Pages that are still open learn of it."""
    sessions = Sessions(SECRET)
    cookie = await sessions.open(feed)
    session = sessions.find(cookie)
    assert session is not None
    await sessions.close(session, "signed_out")
    assert sessions.find(cookie) is None
    assert feed.snapshot.signed_out == "signed_out"


async def test_memory_is_bounded(http: httpx2.AsyncClient) -> None:
    """The oldest session makes room."""
    sessions = Sessions(SECRET)
    api = Api(http, "http://127.0.0.1:9", "di_x")
    cookies = [await sessions.open(Feed(api, poll_seconds=1)) for _ in range(MAX_SESSIONS + 1)]
    assert sessions.find(cookies[0]) is None
    assert all(sessions.find(cookie) is not None for cookie in cookies[1:])
