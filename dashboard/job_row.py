"""A job as a row of the table."""

from __future__ import annotations

from collections.abc import Mapping

from dashboard import wording
from dashboard.elements import Badge, Bar, Text, box, cell, frame
from dashboard.listing import Context
from dashboard.records import Job

COLUMNS = (
    "Job",
    "Organization",
    "Base model",
    "Status",
    "Progress",
    "Speed",
    "Time left",
    "Watermark",
    "Created",
)

KINDS = {"succeeded": "good", "failed": "bad", "running": "busy", "cancelled": "off"}
"""Colours of statuses; the others wait and are ``idle``."""


def title(job: Job) -> str:
    """What an owner would call the job: its suffix, or else its base model."""
    return job.suffix or job.base_model or job.id


def words(job: Job, context: Context) -> str:
    """What a search looks at."""
    name = context.organizations.get(job.organization or "")
    found = (
        job.id,
        job.suffix,
        job.base_model,
        name,
        job.organization,
        job.status,
        job.stage,
        job.fine_tuned_model,
    )
    return " ".join(filter(None, found))


def organization(identifier: str | None, names: Mapping[str, str]) -> str:
    """An organization's name, or its id while the name is not known."""
    return wording.NOTHING if identifier is None else names.get(identifier, identifier)


def status_words(job: Job) -> str:
    """The status, or that a cancel is on its way."""
    return "Cancelling" if job.cancel_requested and job.active else wording.status(job.status)


class JobRow:
    """The cells of one job."""

    def __init__(self) -> None:
        with box("cell-main", tag="td"):
            self._title = Text(tag="button", classes="row-open")
            self._id = Text(classes="mono muted small clip")
        self._organization = cell("Organization", "clip")
        self._base_model = cell("Base model", "clip")
        with frame("Status"):
            self._status = Badge()
            self._stage = Text(classes="muted small stage")
        with frame("Progress", "cell-progress"):
            self._bar = Bar("Progress")
            self._steps = Text(classes="muted small")
        self._speed = cell("Speed", "number")
        self._left = cell("Time left", "number")
        with frame("Watermark"):
            self._watermark = Badge("mark")
        self._created = cell("Created", "number muted")

    def fill(self, item: Job, context: Context) -> None:
        """Show a job."""
        job = item
        progress = job.progress
        running = job.status == "running"
        self._title.show(title(job), title=title(job))
        self._id.show(job.id, title=job.id)
        self._base_model.show(job.base_model or wording.NOTHING, title=job.base_model)
        self._organization.show(organization(job.organization, context.organizations), title=job.organization)
        self._status.tell(status_words(job), KINDS.get(job.status, "idle"))
        self._stage.set_text(job.stage if running and job.stage else "")
        self._bar.show(bar_fraction(job), kind=KINDS.get(job.status, "idle"))
        known = progress is not None and progress.total_steps is not None
        self._steps.set_text(
            wording.steps(progress.step, progress.total_steps) if progress is not None and known else ""
        )
        self._speed.show(wording.speed(progress.tokens_per_second if progress and running else None))
        self._left.show(wording.duration(progress.eta_seconds if progress and running else None))
        if job.watermark is not None:
            self._watermark.tell("Watermarked", "good", title=job.watermark.key)
        else:
            self._watermark.tell("None", "off")
        self._created.show(wording.ago(job.created_at, context.now), title=wording.moment(job.created_at))


def bar_fraction(job: Job) -> float | None:
    """How full the bar is: full when it succeeded, empty before it runs, unknown while it loads."""
    if job.status == "succeeded":
        return 1.0
    known = job.progress.fraction if job.progress else None
    if job.status == "running":
        return known
    return known or 0.0
