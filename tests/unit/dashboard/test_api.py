"""The client: who may sign in, and how every way of failing is told."""

from __future__ import annotations

import socket

import httpx2
import pytest

from dashboard.api import Api
from dashboard.errors import DashboardError, KeyRefused, RequestRefused, Unreachable, WrongRole
from tests.unit.dashboard import fake_api
from tests.unit.dashboard.fake_api import OWNER_KEY, FakeApi


async def test_a_provider_key_is_accepted(api: Api) -> None:
    """The check passes without a word."""
    await api.check_provider()


async def test_an_unknown_key_is_refused(fake: FakeApi, http: httpx2.AsyncClient) -> None:
    """401."""
    with pytest.raises(KeyRefused):
        await Api(http, fake.url, "di_nobody_xxx").check_provider()


async def test_an_owner_key_is_of_the_wrong_role(fake: FakeApi, http: httpx2.AsyncClient) -> None:
    """403: the page shows all organizations, so an owner's key is not for it."""
    with pytest.raises(WrongRole):
        await Api(http, fake.url, OWNER_KEY).check_provider()


async def test_listings_are_paged(fake: FakeApi, api: Api) -> None:
    """The cursor of the last entry gives the rest."""
    fake.jobs = [fake_api.job(number) for number in range(130, 0, -1)]
    first = await api.jobs()
    rest = await api.jobs(first.items[-1].id)
    assert (len(first.items), first.has_more, len(rest.items), rest.has_more) == (100, True, 30, False)


async def test_cancel_answers_with_the_job(fake: FakeApi, api: Api) -> None:
    """The new state is known at once."""
    fake.jobs = [fake_api.job(1, "running")]
    assert (await api.cancel(fake.jobs[0]["id"])).cancel_requested


async def test_a_refusal_tells_the_apis_own_words(fake: FakeApi, api: Api) -> None:
    """A 4xx of the API reaches the operator as it was written."""
    fake.jobs = [fake_api.job(1, "succeeded")]
    with pytest.raises(RequestRefused, match="already succeeded"):
        await api.cancel(fake.jobs[0]["id"])


async def test_an_id_can_not_leave_its_place_in_the_path(fake: FakeApi, api: Api) -> None:
    """An id out of a browser's URL is one path segment, whatever is in it."""
    with pytest.raises(DashboardError):
        await api.job("../../organizations?x=")
    assert all(path.startswith("/v1/fine_tuning/jobs/") for _, path in fake.requests)


async def test_a_503_of_readyz_is_an_answer(fake: FakeApi, api: Api) -> None:
    """It names the part that is missing."""
    fake.checks["serving"] = "missing"
    health = await api.health()
    assert not health.ready
    assert ("serving", False) in health.parts


async def test_trouble_is_unreachable(fake: FakeApi, api: Api) -> None:
    """A 500 is worth a retry."""
    fake.broken = True
    with pytest.raises(Unreachable, match="in trouble"):
        await api.jobs()


async def test_nobody_there_is_unreachable(http: httpx2.AsyncClient) -> None:
    """A refused connection is told in words, without the key."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        api = Api(http, f"http://127.0.0.1:{unused.getsockname()[1]}", "di_secret_key")
        with pytest.raises(Unreachable) as caught:
            await api.jobs()
    assert "di_secret_key" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert "di_secret_key" not in repr(api)
