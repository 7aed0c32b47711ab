"""A campaign in the details of one of its audits: who else was asked, and Holm's rule over all."""

from __future__ import annotations

from nicegui.element import Element

from dashboard import wording
from dashboard.api import Api
from dashboard.elements import Badge, Text, box, cell, frame, put, show_if
from dashboard.errors import DashboardError, RequestRefused
from dashboard.records import Campaign, CampaignMember, Membership
from dashboard.verification_row import AUDIT_KINDS, VERDICT_KINDS, status_words, title

COLUMNS = ("Suspect", "Verdict", "p-value", "Held against", "Over all")


class CampaignPanel:
    """Reads its campaign until all of its audits have ended."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._wanted: Membership | None = None
        self._shown: Campaign | None = None
        self._rows: list[_Row] = []
        with box("panel", tag="section") as self._panel:
            Text("Campaign", tag="h3")
            self._about = Text(tag="p", classes="muted")
            with box("table-frame") as self._frame, box("table compact", tag="table") as table:
                put(table, "aria-label", "Audits of this campaign")
                with box(tag="thead"), box(tag="tr"):
                    for name in COLUMNS:
                        Text(name, tag="th")
                self._body = box(tag="tbody")
            self._rule = Text(tag="p", classes="muted small")

    def open(self, membership: Membership | None) -> None:
        """Show the audit's campaign, or nothing when it belongs to none."""
        show_if(self._panel, membership is not None)
        if membership is None:
            self._wanted = None
            return
        if self._wanted is None or self._wanted.id != membership.id:
            self._shown = None
            show_if(self._frame, False)
            self._rule.set_text("")
        self._wanted = membership
        place = (
            "" if membership.position is None else f"Suspect {membership.position + 1} of {membership.size}. "
        )
        self._about.set_text(f"{place}All of them share one number of the key.")

    async def refresh(self) -> None:
        """Read the campaign again, unless it can't have changed. Raises: DashboardError."""
        wanted = self._wanted
        if wanted is None or (self._shown is not None and not self._shown.active):
            return
        try:
            found = await self._api.campaign(wanted.id)
        except RequestRefused as error:
            self._rule.set_text(f"The campaign can't be shown: {error.message}")
            return
        except DashboardError:
            if self._shown is None:
                self._rule.set_text("The campaign is shown as soon as the API answers again.")
            raise
        if self._wanted is wanted:
            self._show(found)

    def _show(self, campaign: Campaign) -> None:
        self._shown = campaign
        show_if(self._frame, True)
        put(self._frame, "data-decided", "true" if campaign.decided else "false")
        with self._body:
            while len(self._rows) < len(campaign.members):
                self._rows.append(_Row())
        for place, row in enumerate(self._rows):
            show_if(row.element, place < len(campaign.members))
            if place < len(campaign.members):
                row.fill(campaign.members[place])
        self._rule.set_text(_rule(campaign))


class _Row:
    """One audit."""

    def __init__(self) -> None:
        self.element: Element = box(tag="tr")
        with self.element:
            self._name = cell("Suspect", "clip")
            with frame("Verdict"):
                self._verdict = Badge("badge verdict")
            self._p = cell("p-value", "number")
            self._threshold = cell("Held against", "number")
            self._over_all = cell("Over all")

    def fill(self, member: CampaignMember) -> None:
        item = member.verification
        self._name.show(title(item), title=item.id)
        if item.verdict is None:
            self._verdict.tell(status_words(item), AUDIT_KINDS.get(item.status, "idle"))
        else:
            self._verdict.tell(wording.verdict(item.verdict), VERDICT_KINDS.get(item.verdict, "idle"))
        self._p.show(wording.probability(member.p_value))
        self._threshold.show(wording.probability(member.threshold))
        found = {True: "detected", False: "not detected", None: wording.NOTHING}[member.detected]
        self._over_all.show(found)


def _rule(campaign: Campaign) -> str:
    if campaign.decided:
        return (
            "Holm's rule: from the smallest p-value on, each is held against the campaign's share of alpha "
            "divided by the number of suspects not yet passed; the first that fails ends it."
        )
    if campaign.active:
        return "Holm's rule is applied when all of them have ended."
    return "All have ended. The figures of Holm's rule are for the owner and the auditor."
