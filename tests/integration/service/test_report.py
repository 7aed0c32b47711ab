"""The report of audits that the service itself ran: page and PDF, who may read them, and when."""

from __future__ import annotations

import io
from typing import Any

import pytest
from pypdf import PdfReader

from tests.integration.service import suspects
from tests.integration.service.conftest import Account, NewAccount
from tests.integration.service.test_audit import (
    Start,
    Switch,
    family,
    key,
    place,
    read,
    run,
    settings,
    start,
    suspect,
    switch,
)
from watermark.keys import Family
from worker.record.engine import Workplace

pytestmark = pytest.mark.integration

__all__ = ["family", "key", "place", "settings", "start", "suspect", "switch"]

PATHS = ("/report", "/report.pdf")


def words(document: bytes) -> str:
    """The text of a PDF, without regard to where lines break."""
    text = "".join(page.extract_text() for page in PdfReader(io.BytesIO(document)).pages)
    return text.replace("\n", " ").replace("\u200b", "")


async def test_a_sequential_detection_is_told_on_the_page_and_in_the_pdf(
    owner: Account, start: Start, place: Workplace, switch: Switch, family: Family
) -> None:
    switch.behaviour = suspects.marked_with(family)
    verification_id = await start(mode="sequential", probes_per_cue=2, canaries=True)
    await run(place, verification_id)
    found = await read(owner, verification_id)
    page = (await read(owner, verification_id, "/report")).text
    response = await read(owner, verification_id, "/report.pdf")
    assert found["verdict"] == "detected"
    assert response.headers["content-type"] == "application/pdf"
    assert "no-store" in response.headers["cache-control"]
    for told in (page, words(response.content)):
        assert "What this does not prove" in told
        assert found["result"]["p_value_decimal"] in told
        assert found["evidence_sha256"] in told
        assert "Mark by mark" in told
    again = await read(owner, verification_id, "/report.pdf")
    assert again.content == response.content


async def test_a_preset_has_both_reports(owner: Account, place: Workplace, suspect: Any) -> None:
    """It claims nothing, has no marks and no picture."""
    made = (await owner.http.post("/v1/watermarks", json={"preset": "paper-input"})).json()
    body = {"watermark": made["id"], "suspect": {"base_url": suspect.base_url, "model": "m"}}
    verification_id = (await owner.http.post("/v1/verify", json=body)).json()["id"]
    await run(place, verification_id)
    assert "research_preset" in (await read(owner, verification_id, "/report")).text
    assert "research_preset" in words((await read(owner, verification_id, "/report.pdf")).content)


async def test_reports_are_for_the_parties_alone_and_for_finished_audits(
    owner: Account, provider: Account, new_account: NewAccount, start: Start, place: Workplace
) -> None:
    stranger = await new_account("owner")
    verification_id = await start()
    paths = [f"/v1/verifications/{verification_id}{suffix}" for suffix in PATHS]
    assert [(await owner.http.get(path)).status_code for path in paths] == [409, 409]
    await run(place, verification_id)
    assert [(await owner.http.get(path)).status_code for path in paths] == [200, 200]
    assert [(await stranger.http.get(path)).status_code for path in paths] == [404, 404]
    assert [(await provider.http.get(path)).status_code for path in paths] == [403, 403]
