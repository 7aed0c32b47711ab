"""The details of one verification: what was decided, by which figures; never a transcript."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nicegui import ui
from nicegui.element import Element

from dashboard import wording
from dashboard.api import Api
from dashboard.campaign_panel import CampaignPanel
from dashboard.elements import Badge, Bar, Figures, Text, box, put, show_if
from dashboard.job_row import organization
from dashboard.product_curve import product_options
from dashboard.records import Verification, share
from dashboard.sheet import Sheet
from dashboard.verification_row import AUDIT_KINDS, VERDICT_KINDS, status_words, title

FIGURES = (
    "p-value",
    "Significance level",
    "Trigger questions",
    "Reference questions",
    "Neither yes nor no",
    "Not answered",
)
FACTS = (
    "Requested by",
    "Host",
    "Interface",
    "Decided",
    "Watermark key",
    "Audit of this key",
    "Pre-registration",
    "Created",
    "Started",
    "Finished",
)


class VerificationSheet:
    """The panel of one verification at a time."""

    def __init__(self, api: Api, *, on_close: Callable[[], Any]) -> None:
        self._api = api
        self._item: Verification | None = None
        self._chart: ui.echart | None = None
        self._drawn: tuple[object, ...] = ()
        self._sheet = Sheet("Ownership check", on_close)
        with self._sheet.body:
            self._build()

    @property
    def verification_id(self) -> str | None:
        """The verification on show, or None when the panel is closed."""
        return self._item.id if self._item is not None and self._sheet.is_open else None

    def open(self, item: Verification, organizations: Mapping[str, str]) -> None:
        """Show a verification; ``organizations`` are names by id."""
        self.update(item, organizations)
        self._sheet.open()

    def update(self, item: Verification, organizations: Mapping[str, str]) -> None:
        """Take over its newer state."""
        self._item = item
        self._sheet.title.show(title(item))
        self._sheet.subtitle.show(item.id)
        put(self._sheet.subtitle, "data-copy", item.id)
        self._show_verdict(item)
        self._show_evidence(item)
        self._campaign.open(item.campaign)
        self._show_facts(item, organizations)

    async def refresh(self) -> None:
        """Read what is not part of the audit itself: its campaign. Raises: DashboardError."""
        if self._sheet.is_open:
            await self._campaign.refresh()

    def _build(self) -> None:
        with box("verdict-card") as self._card:
            self._verdict = Badge("badge verdict large")
            self._meaning = Text(tag="p")
            self._reasons = box("reasons", tag="ul")
        self._reason_lines: list[tuple[Element, Text]] = []
        with box("status-line"):
            self._status = Badge()
            self._asked = Text(classes="muted")
        self._bar = Bar("Questions asked")
        self._waiting = Text(tag="p", classes="muted waiting")
        with box("failure") as self._failure:
            put(self._failure, "role", "alert")
            self._failure_title = Text(tag="p", classes="failure-title")
            self._failure_text = Text(tag="p")
        with box("panel", tag="section") as self._evidence:
            with box("panel-head"):
                Text("Evidence, mark by mark", tag="h3")
                self._product = Text(classes="muted")
            self._chart_frame = box("chart low")
            self._chart_empty = Text(tag="p", classes="muted chart-empty")
        with box("panel", tag="section"):
            Text("Figures", tag="h3")
            self._figures = Figures(FIGURES)
        self._campaign = CampaignPanel(self._api)
        with box("panel", tag="section"):
            Text("Details", tag="h3")
            self._facts = Figures(FACTS)
        Text(
            "Questions, answers and evidence are for the owner and the auditor, not the provider.",
            tag="p",
            classes="muted small footnote",
        )

    def _show_verdict(self, item: Verification) -> None:
        kind = VERDICT_KINDS.get(item.verdict or "", "idle")
        put(self._card, "data-kind", kind)
        show_if(self._card, item.verdict is not None)
        if item.verdict is not None:
            self._verdict.tell(wording.verdict(item.verdict), kind)
            self._meaning.set_text(wording.VERDICT_MEANINGS.get(item.verdict, ""))
        while len(self._reason_lines) < len(item.reasons):
            with self._reasons, box(tag="li") as line:
                self._reason_lines.append((line, Text()))
        for place, (line, text) in enumerate(self._reason_lines):
            show_if(line, place < len(item.reasons))
            if place < len(item.reasons):
                text.set_text(wording.reason(item.reasons[place]))
        self._status.tell(status_words(item), AUDIT_KINDS.get(item.status, "idle"))
        self._asked.set_text(f"{wording.steps(item.asked, item.total)} questions" if item.total else "")
        done = share(item.asked, item.total)
        self._bar.show(1.0 if item.status == "succeeded" else done, kind=AUDIT_KINDS.get(item.status, "idle"))
        self._bar.set_visible(item.active)
        told = "" if item.cancel_requested else wording.WAITING.get(item.status, "")
        self._waiting.set_text(told)
        show_if(self._waiting, bool(told))
        show_if(self._failure, item.error is not None)
        if item.error is not None:
            code = f" ({item.error.code})" if item.error.code else ""
            self._failure_title.set_text(f"The check could not be carried out{code}")
            self._failure_text.set_text(item.error.message)

    def _show_evidence(self, item: Verification) -> None:
        """The product of a sequential audit against its line: how far the audit is, not what was asked."""
        show_if(self._evidence, item.sequential)
        if not item.sequential:
            return
        line = 1 / item.alpha if item.alpha else None
        product = item.looks[-1].product if item.looks else None
        goal = f" of {wording.evidence(line)}" if line else ""
        self._product.set_text(f"{wording.evidence(product)}{goal}" if product is not None else "")
        drawable = bool(item.looks) and line is not None
        show_if(self._chart_frame, drawable)
        show_if(self._chart_empty, not drawable)
        hint = "The curve appears with the first completed mark."
        self._chart_empty.set_text(hint if item.active else "No mark was completed.")
        drawn = (item.id, len(item.looks), item.alpha)
        if line is None or not drawable or drawn == self._drawn:
            return
        self._drawn = drawn
        options = product_options(item.looks, line=line)
        if self._chart is None:
            # not before there is something to draw: the chart library is a megabyte
            with self._chart_frame:
                self._chart = ui.echart(options)
        else:
            self._chart.options.update(options)
            self._chart.update()

    def _show_facts(self, item: Verification, organizations: Mapping[str, str]) -> None:
        figures = {
            "p-value": wording.probability(item.p_value),
            "Significance level": wording.probability(item.alpha),
            "Trigger questions": _hits(item.trigger_hits, item.trigger_total),
            "Reference questions": _hits(item.reference_hits, item.reference_total),
            "Neither yes nor no": wording.count(item.other),
            "Not answered": wording.count(item.missing),
        }
        for name, value in figures.items():
            if value == wording.NOTHING:
                self._figures.hide(name)
            else:
                self._figures.show(name, value)
        if item.p_value is not None:
            self._figures.show("p-value", figures["p-value"], full=str(item.p_value))
        facts = self._facts
        facts.show("Requested by", organization(item.organization, organizations), full=item.organization)
        facts.show("Host", item.suspect_host or wording.NOTHING)
        facts.show("Interface", item.suspect_api or wording.NOTHING)
        facts.show("Decided", "after every mark" if item.sequential else "once, after all questions")
        facts.show("Watermark key", item.watermark or wording.NOTHING, full=item.watermark)
        facts.show("Audit of this key", f"No. {item.audit_index}" if item.audit_index else wording.NOTHING)
        facts.show(
            "Pre-registration",
            wording.shortened(item.preregistration_digest),
            full=item.preregistration_digest,
        )
        facts.show("Created", wording.moment(item.created_at))
        facts.show("Started", wording.moment(item.started_at))
        facts.show("Finished", wording.moment(item.finished_at))


def _hits(hits: int | None, total: int | None) -> str:
    """How many answers were the marks' own, of how many questions of a kind."""
    if hits is None or not total:
        return wording.NOTHING
    ratio = wording.percent(hits / total)
    return f"{wording.count(hits)} of {wording.count(total)} answered with the key's word ({ratio})"
