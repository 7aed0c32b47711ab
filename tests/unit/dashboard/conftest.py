"""A dashboard's surroundings: the API's double and a client for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx2
import pytest

from dashboard.api import TIMEOUT, Api
from tests.unit.dashboard.fake_api import PROVIDER_KEY, FakeApi


@pytest.fixture
def fake() -> Iterator[FakeApi]:
    """The API's double, served on a port of its own."""
    double = FakeApi()
    with double.serve():
        yield double


@pytest.fixture
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    """A client that no proxy of the environment stands before."""
    async with httpx2.AsyncClient(timeout=TIMEOUT, trust_env=False) as client:
        yield client


@pytest.fixture
def api(fake: FakeApi, http: httpx2.AsyncClient) -> Api:
    """The API as a provider sees it."""
    return Api(http, fake.url, PROVIDER_KEY)
