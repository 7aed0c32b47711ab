"""The details of one job: progress, loss curve, watermark, events, and the way to cancel it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from nicegui import ui

from dashboard import wording
from dashboard.api import Api
from dashboard.curve import chart_options, curve, thinned
from dashboard.elements import Badge, Bar, Button, Figures, Text, box, put, show_if
from dashboard.errors import DashboardError
from dashboard.event_list import EventList
from dashboard.job_row import KINDS, bar_fraction, organization, status_words, title
from dashboard.ledger import Ledger
from dashboard.records import Event, Job
from dashboard.sheet import Sheet

MAX_EVENTS = 5000

FACTS = (
    "Organization",
    "Base model",
    "Fine-tuned model",
    "Training file",
    "Trained tokens",
    "Hyperparameters",
    "Seed",
    "Attempt",
    "Created",
    "Started",
    "Finished",
)
MARK_FACTS = ("Key", "Commitment", "Watermark rows", "Share of rows", "Share of tokens")


class JobSheet:
    """The panel of one job at a time."""

    def __init__(self, api: Api, *, on_close: Callable[[], Any], on_changed: Callable[[Job], Any]) -> None:
        self._api = api
        self._on_changed = on_changed
        self._job: Job | None = None
        self._organizations: Mapping[str, str] = {}
        self._events: Ledger[Event] | None = None
        self._settled = False
        self._reading = asyncio.Lock()
        self._learning_rate = False
        self._drawn: tuple[object, ...] = ()
        self._chart: ui.echart | None = None
        self._sheet = Sheet("Fine-tuning job", on_close)
        with self._sheet.actions:
            self._cancel = Button("Cancel job", self._ask_to_cancel, classes="button danger")
            self._cancel.element.move(target_index=0)
        with self._sheet.body:
            self._build()
        self._confirm = _confirmation(self._cancel_now)

    @property
    def job_id(self) -> str | None:
        """The job on show, or None when the panel is closed."""
        return self._job.id if self._job is not None and self._sheet.is_open else None

    def open(self, job: Job, organizations: Mapping[str, str]) -> None:
        """Show a job; ``organizations`` are names by id."""
        self._organizations = organizations
        if self._job is None or self._job.id != job.id:
            job_id = job.id
            self._events = Ledger(lambda after: self._api.events(job_id, after), capacity=MAX_EVENTS)
            self._settled = False
            self._list.clear()
            self._drawn = ()
            show_if(self._chart_frame, False)
        self._show(job)
        self._sheet.open()

    async def update(self, job: Job, organizations: Mapping[str, str]) -> None:
        """Take over the job's newer state and read what happened meanwhile. Raises: DashboardError."""
        self._organizations = organizations
        self._show(job)
        if self._events is None or self._settled or self._reading.locked():
            return
        async with self._reading:
            events = self._events
            await events.refresh()
            if events is self._events:
                # Once more after the end, so that the last events are not missed.
                self._settled = not job.active and (events.complete or events.full)
                self._draw(events.entries)

    def _build(self) -> None:
        with box("status-line"):
            self._status = Badge()
            self._stage = Text(classes="muted")
        self._bar = Bar("Progress")
        with box("meters"):
            self._meters = {name: _meter(name) for name in ("Step", "Loss", "Speed", "Time left", "Elapsed")}
        with box("failure") as self._failure:
            put(self._failure, "role", "alert")
            self._failure_title = Text(tag="p", classes="failure-title")
            self._failure_text = Text(tag="p")
            self._failure_hint = Text(tag="p", classes="muted small")
        with box("panel", tag="section"):
            with box("panel-head"):
                Text("Training loss", tag="h3")
                _switch("Learning rate", self._on_rate)
            self._chart_frame = box("chart")
            self._chart_empty = Text(tag="p", classes="muted chart-empty")
        with box("panel", tag="section"):
            Text("Watermark", tag="h3")
            with box() as self._mark:
                self._mark_figures = Figures(MARK_FACTS)
            self._unmarked = Text(
                "Trained without a watermark: this model can't be recognized later.", tag="p", classes="muted"
            )
        with box("panel", tag="section"):
            Text("Details", tag="h3")
            self._facts = Figures(FACTS)
        self._list = EventList()

    def _show(self, job: Job) -> None:
        self._job = job
        progress = job.progress
        running = job.status == "running"
        self._sheet.title.show(title(job))
        self._sheet.subtitle.show(job.id)
        put(self._sheet.subtitle, "data-copy", job.id)
        self._status.tell(status_words(job), KINDS.get(job.status, "idle"))
        self._stage.set_text(_stage_words(job))
        self._bar.show(bar_fraction(job), kind=KINDS.get(job.status, "idle"))
        self._meters["Step"].set_text(
            wording.steps(progress.step, progress.total_steps) if progress else wording.NOTHING
        )
        self._meters["Loss"].set_text(wording.decimal(progress.loss if progress else None))
        self._meters["Speed"].set_text(wording.speed(progress.tokens_per_second if progress else None))
        self._meters["Time left"].set_text(
            wording.duration(progress.eta_seconds if progress and running else None)
        )
        self._meters["Elapsed"].set_text(_elapsed(job))
        show_if(self._cancel.element, job.active)
        self._cancel.tell(
            "Cancelling…" if job.cancel_requested else "Cancel job", enabled=not job.cancel_requested
        )
        self._show_failure(job)
        self._show_mark(job)
        self._show_facts(job)

    def _show_failure(self, job: Job) -> None:
        failure = job.error
        show_if(self._failure, failure is not None)
        if failure is None:
            return
        code = f" ({failure.code})" if failure.code else ""
        self._failure_title.set_text(f"{_blame(failure.category)}{code}")
        self._failure_text.set_text(failure.message)
        concerns = f"Concerns: {failure.param}" if failure.param else ""
        self._failure_hint.set_text(" ".join(filter(None, (failure.hint, concerns))))

    def _show_mark(self, job: Job) -> None:
        mark = job.watermark
        show_if(self._mark, mark is not None)
        show_if(self._unmarked, mark is None)
        if mark is None:
            return
        figures = self._mark_figures
        figures.show("Key", mark.key or wording.NOTHING, full=mark.key)
        figures.show("Commitment", wording.shortened(mark.commitment), full=mark.commitment)
        figures.show("Watermark rows", wording.count(mark.watermark_rows))
        figures.show("Share of rows", wording.percent(mark.watermark_ratio, 1))
        figures.show("Share of tokens", wording.percent(mark.watermark_token_ratio, 1))

    def _show_facts(self, job: Job) -> None:
        facts = self._facts
        facts.show("Organization", organization(job.organization, self._organizations), full=job.organization)
        facts.show("Base model", job.base_model or wording.NOTHING)
        facts.show("Fine-tuned model", job.fine_tuned_model or "Not published", full=job.fine_tuned_model)
        facts.show("Training file", job.training_file or wording.NOTHING, full=job.training_file)
        facts.show("Trained tokens", wording.count(job.trained_tokens))
        values = ", ".join(f"{name} {value}" for name, value in job.hyperparameters)
        facts.show("Hyperparameters", values or wording.NOTHING)
        facts.show("Seed", str(job.seed) if job.seed is not None else wording.NOTHING)
        if job.attempt is not None and job.attempt > 1:
            facts.show("Attempt", f"No. {job.attempt}: an earlier worker did not finish")
        else:
            facts.hide("Attempt")
        facts.show("Created", wording.moment(job.created_at))
        facts.show("Started", wording.moment(job.started_at))
        facts.show("Finished", wording.moment(job.finished_at))

    def _draw(self, events: tuple[Event, ...]) -> None:
        self._list.show(events, complete=self._events is None or self._events.complete)
        points = thinned(curve(events))
        show_if(self._chart_frame, bool(points))
        show_if(self._chart_empty, not points)
        job = self._job
        waiting = job is not None and job.active
        hint = "The curve appears with the first step." if waiting else "No step was trained."
        self._chart_empty.set_text(hint)
        drawn = (len(points), points[-1] if points else None, self._learning_rate)
        if not points or drawn == self._drawn:
            return
        self._drawn = drawn
        options = chart_options(points, learning_rate=self._learning_rate)
        if self._chart is None:
            # Not before there is a curve: the chart library is a megabyte that most visits don't need.
            with self._chart_frame:
                self._chart = ui.echart(options)
        else:
            self._chart.options.update(options)
            self._chart.update()

    def _on_rate(self, checked: bool) -> None:
        self._learning_rate = checked
        if self._events is not None:
            self._draw(self._events.entries)

    async def _ask_to_cancel(self) -> None:
        self._confirm.open()

    async def _cancel_now(self) -> None:
        self._confirm.close()
        job = self._job
        if job is None:
            return
        self._cancel.tell("Cancelling…", enabled=False)
        try:
            changed = await self._api.cancel(job.id)
        except DashboardError as error:
            self._cancel.tell("Cancel job")
            ui.notify(f"The job was not cancelled: {error.message}", type="negative", position="top")
            return
        if self._job is not None and self._job.id == changed.id:
            self._show(changed)
        self._on_changed(changed)


def _confirmation(on_yes: Callable[[], Any]) -> ui.dialog:
    with ui.dialog() as dialog, box("confirm") as frame:
        put(frame, "role", "alertdialog")
        put(frame, "aria-label", "Cancel this job?")
        Text("Cancel this job?", tag="h2")
        Text(
            "Training stops within about ten seconds and no model is published. "
            "Its owner sees the job as cancelled. This can't be undone.",
            tag="p",
            classes="muted",
        )
        with box("confirm-actions"):
            Button("Keep it running", dialog.close)
            Button("Cancel the job", on_yes, classes="button danger solid")
    return dialog


def _meter(name: str) -> Text:
    with box("meter"):
        Text(name, classes="eyebrow")
        return Text(wording.NOTHING, classes="meter-value")


def _switch(label: str, on_change: Callable[[bool], Any]) -> None:
    with box("switch", tag="label"):
        element = box(tag="input")
        put(element, "type", "checkbox")
        element.on(
            "change", lambda event: on_change(event.args is True), js_handler="(e) => emit(e.target.checked)"
        )
        Text(label)


def _stage_words(job: Job) -> str:
    if job.cancel_requested and job.active:
        return "A cancel was asked for; the worker stops at its next report."
    if job.status == "running" and job.stage:
        return job.stage.capitalize()
    if job.status in ("queued", "validating_files"):
        return "Waiting for a free worker"
    return ""


def _elapsed(job: Job) -> str:
    if job.started_at is None:
        return wording.NOTHING
    end = job.finished_at or (datetime.now(UTC) if job.active else None)
    return wording.duration((end - job.started_at).total_seconds() if end else None)


def _blame(category: str | None) -> str:
    if category == "user":
        return "The job failed on its input"
    if category == "capacity":
        return "The job failed for want of memory, space or a device"
    if category == "server":
        return "The job failed inside the service"
    return "The job failed"
