"""The one page: header, tiles, two tables and the panels that open over them."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from urllib.parse import quote

from nicegui import Client, ui

from dashboard import job_row, verification_row
from dashboard.elements import COPY_SCRIPT, Text, box
from dashboard.errors import DashboardError
from dashboard.feed import Feed, Snapshot
from dashboard.job_sheet import JobSheet
from dashboard.listing import Context, Listing
from dashboard.records import Job, Verification
from dashboard.status_bar import OutageBanner, StatusBar
from dashboard.tiles import JOB_TILES, VERIFICATION_TILES, TileRow
from dashboard.verification_sheet import VerificationSheet


class Page:
    """One open page. It watches the session's feed for as long as its browser is connected."""

    def __init__(self, feed: Feed, client: Client, *, api_url: str, theme: str | None, version: str) -> None:
        self._feed = feed
        self._client = client
        self._api_url = api_url
        self._theme = theme
        self._version = version
        self._wanted_job = ""
        self._wanted_verification = ""

    def build(self, *, job_id: str, verification_id: str) -> None:
        """Build the page; the ids are of the panels to open first, as the URL asks."""
        self._wanted_job, self._wanted_verification = job_id, verification_id
        ui.add_head_html(f'<link rel="stylesheet" href="/assets/dashboard.css?v={self._version}">')
        ui.add_body_html(COPY_SCRIPT)
        self._bar = StatusBar(api_url=self._api_url, theme=self._theme)
        with box("page", tag="main"):
            self._banner = OutageBanner(self._feed.hurry)
            with box("tile-groups"):
                job_tiles = TileRow("Fine-tuning jobs", JOB_TILES, lambda keep: self._jobs.filter(keep))
                verification_tiles = TileRow(
                    "Ownership checks", VERIFICATION_TILES, lambda keep: self._verifications.filter(keep)
                )
            self._job_tiles, self._verification_tiles = job_tiles, verification_tiles
            self._build_tables()
            self._note = Text(tag="p", classes="muted small page-note")
        self._job_sheet = JobSheet(self._feed.api, on_close=self._forget_url, on_changed=self._feed.put)
        self._verification_sheet = VerificationSheet(self._feed.api, on_close=self._forget_url)
        self._show(self._feed.snapshot)
        self._client.on_connect(lambda: self._feed.watch(self, self.update))
        self._client.on_disconnect(lambda: self._feed.unwatch(self))
        self._client.on_delete(lambda: self._feed.unwatch(self))

    async def update(self, snapshot: Snapshot) -> None:
        """Show a snapshot; called by the feed."""
        if self._client.is_deleted:
            self._feed.unwatch(self)
            return
        with self._client:
            if snapshot.signed_out is not None:
                because = "signed_out" if snapshot.signed_out == "signed_out" else "ended"
                ui.navigate.to(f"/sign-in?because={because}")
                return
            self._show(snapshot)
            if snapshot.updated_at is None or snapshot.outage is not None:
                return
            await self._open_wanted(snapshot)
            await self._update_sheets(snapshot)

    def _build_tables(self) -> None:
        self._jobs: Listing[Job] = Listing(
            title="Jobs",
            columns=job_row.COLUMNS,
            make_row=job_row.JobRow,
            words=job_row.words,
            on_open=self._open_job,
            empty=("No jobs yet", "A job appears here as soon as an owner creates one over the API."),
        )
        self._verifications: Listing[Verification] = Listing(
            title="Ownership checks",
            columns=verification_row.COLUMNS,
            make_row=verification_row.VerificationRow,
            words=verification_row.words,
            on_open=self._open_verification,
            empty=("No ownership checks yet", "An owner or an auditor starts one with POST /v1/verify."),
        )

    def _show(self, snapshot: Snapshot) -> None:
        context = Context(now=datetime.now(UTC), organizations=snapshot.organizations)
        loading = snapshot.updated_at is None
        self._bar.show(snapshot)
        self._banner.show(snapshot)
        self._job_tiles.show(snapshot.jobs, loading=loading)
        self._verification_tiles.show(snapshot.verifications, loading=loading)
        self._jobs.show(snapshot.jobs, context, loading=loading)
        self._verifications.show(snapshot.verifications, context, loading=loading)
        self._note.set_text(
            "" if snapshot.history_complete else "Older entries are not shown and not counted."
        )

    async def _update_sheets(self, snapshot: Snapshot) -> None:
        job = next((item for item in snapshot.jobs if item.id == self._job_sheet.job_id), None)
        if job is not None:
            # What fails here fails for the feed too, which says so; the next snapshot tries again.
            with suppress(DashboardError):
                await self._job_sheet.update(job, snapshot.organizations)
        opened = self._verification_sheet.verification_id
        verification = next((item for item in snapshot.verifications if item.id == opened), None)
        if verification is not None:
            self._verification_sheet.update(verification, snapshot.organizations)
            with suppress(DashboardError):
                await self._verification_sheet.refresh()

    async def _open_wanted(self, snapshot: Snapshot) -> None:
        """Open what the URL asked for, once; from the API when it is older than the tables go."""
        job_id, self._wanted_job = self._wanted_job, ""
        verification_id, self._wanted_verification = self._wanted_verification, ""
        try:
            if job_id:
                known = next((item for item in snapshot.jobs if item.id == job_id), None)
                self._open_job(known or await self._feed.api.job(job_id))
            elif verification_id:
                found = next((item for item in snapshot.verifications if item.id == verification_id), None)
                self._open_verification(found or await self._feed.api.verification(verification_id))
        except DashboardError as error:
            ui.notify(error.message, type="warning", position="top")
            self._forget_url()

    def _open_job(self, job: Job) -> None:
        self._job_sheet.open(job, self._feed.snapshot.organizations)
        ui.navigate.history.replace(f"/?job={quote(job.id, safe='')}")
        self._feed.hurry()

    def _open_verification(self, item: Verification) -> None:
        self._verification_sheet.open(item, self._feed.snapshot.organizations)
        ui.navigate.history.replace(f"/?verification={quote(item.id, safe='')}")
        self._feed.hurry()

    def _forget_url(self) -> None:
        ui.navigate.history.replace("/")
