"""The HTTP API as the dashboard uses it: a few reads and one cancel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx2

from dashboard.errors import KeyRefused, RequestRefused, Unreachable, WrongRole
from dashboard.fields import plain
from dashboard.parsing import (
    parse_campaign,
    parse_event,
    parse_health,
    parse_job,
    parse_organization,
    parse_verification,
)
from dashboard.records import Campaign, Event, Health, Job, Organization, Verification

PAGE_LIMIT = 100
"""Entries asked for at once; the largest page that OpenAI's clients ask for."""

TIMEOUT = httpx2.Timeout(10.0, connect=3.0)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """One page of a listing, newest first."""

    items: tuple[T, ...]
    has_more: bool


class Api:
    """The API as seen with one key. The key is sent in a header and appears nowhere else."""

    __slots__ = ("_headers", "_http", "_root")

    def __init__(self, http: httpx2.AsyncClient, root: str, key: str) -> None:
        self._http = http
        self._root = root
        self._headers = {"Authorization": f"Bearer {key}"}

    async def check_provider(self) -> None:
        """Whether the key is a provider's.

        Raises:
            KeyRefused: unknown or revoked.
            WrongRole: somebody else's.
            Unreachable: no usable answer.
        """
        await self.organizations()

    async def organizations(self, after: str | None = None) -> Page[Organization]:
        """All tenants; only a provider may read them. Raises: any DashboardError."""
        return await self._listing("/v1/organizations", parse_organization, after)

    async def jobs(self, after: str | None = None) -> Page[Job]:
        """Jobs of all organizations. Raises: any DashboardError."""
        return await self._listing("/v1/fine_tuning/jobs", parse_job, after)

    async def job(self, job_id: str) -> Job:
        """One job. Raises: any DashboardError."""
        return parse_job(await self._call("GET", f"/v1/fine_tuning/jobs/{quote(job_id, safe='')}"))

    async def events(self, job_id: str, after: str | None = None) -> Page[Event]:
        """A job's events. Raises: any DashboardError."""
        return await self._listing(
            f"/v1/fine_tuning/jobs/{quote(job_id, safe='')}/events", parse_event, after
        )

    async def cancel(self, job_id: str) -> Job:
        """Ask for a job to be cancelled; the answer is the job as it is now. Raises: any DashboardError."""
        return parse_job(await self._call("POST", f"/v1/fine_tuning/jobs/{quote(job_id, safe='')}/cancel"))

    async def verifications(self, after: str | None = None) -> Page[Verification]:
        """Verifications of all organizations. Raises: any DashboardError."""
        return await self._listing("/v1/verifications", parse_verification, after)

    async def verification(self, verification_id: str) -> Verification:
        """One verification. Raises: any DashboardError."""
        return parse_verification(
            await self._call("GET", f"/v1/verifications/{quote(verification_id, safe='')}")
        )

    async def campaign(self, campaign_id: str) -> Campaign:
        """One campaign with its audits. Raises: any DashboardError."""
        return parse_campaign(await self._call("GET", f"/v1/campaigns/{quote(campaign_id, safe='')}"))

    async def health(self) -> Health:
        """What /readyz says; a 503 is an answer, not a failure. Raises: Unreachable."""
        response = await self._send("GET", "/readyz", {})
        if response.status_code not in (200, 503):
            raise Unreachable(f"The API answered /readyz with HTTP {response.status_code}.")
        try:
            body = response.json()
        except ValueError:
            body = None
        return parse_health(body, ready=response.status_code == 200)

    async def _listing(self, path: str, parse: Callable[[object], T], after: str | None) -> Page[T]:
        params: dict[str, str | int] = {"limit": PAGE_LIMIT}
        if after is not None:
            params["after"] = after
        body = await self._call("GET", path, params)
        items = body.get("data")
        if not isinstance(items, list):
            raise Unreachable("The answer is not a list. Is this the Double-I API?")
        return Page(items=tuple(parse(item) for item in items), has_more=body.get("has_more") is True)

    async def _call(
        self, method: str, path: str, params: Mapping[str, str | int] | None = None
    ) -> Mapping[str, Any]:
        response = await self._send(method, path, self._headers, params)
        if response.status_code >= 400:
            raise _refusal(response)
        try:
            body = response.json()
        except ValueError:
            raise Unreachable("The answer is not JSON. Is this the Double-I API?") from None
        if not isinstance(body, Mapping):
            raise Unreachable("The answer is not a JSON object. Is this the Double-I API?")
        return body

    async def _send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        params: Mapping[str, str | int] | None = None,
    ) -> httpx2.Response:
        try:
            return await self._http.request(method, self._root + path, headers=headers, params=params)
        except httpx2.TimeoutException:
            raise Unreachable("The API did not answer in time.") from None
        except httpx2.ConnectError:
            raise Unreachable("Nothing answers at the API's address.") from None
        except httpx2.HTTPError as error:
            raise Unreachable(f"The connection to the API failed ({type(error).__name__}).") from None


def _refusal(response: httpx2.Response) -> Exception:
    """The typed error of an OpenAI error envelope (or of any other 4xx or 5xx)."""
    try:
        body = response.json()
    except ValueError:
        body = None
    envelope = body.get("error") if isinstance(body, Mapping) else None
    message = envelope.get("message") if isinstance(envelope, Mapping) else None
    told = plain(message) if isinstance(message, str) and message else f"HTTP {response.status_code}"
    if response.status_code == 401:
        return KeyRefused(told)
    if response.status_code == 403:
        return WrongRole(told)
    if response.status_code >= 500 or response.status_code in (408, 429):
        return Unreachable(f"The API is in trouble: {told}")
    return RequestRefused(told)
