"""What the API says is parsed once, forgivingly, and hostile strings lose their tricks."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboard.errors import Unreachable
from dashboard.fields import plain
from dashboard.parsing import parse_campaign, parse_event, parse_health, parse_job, parse_verification
from dashboard.records import share
from tests.unit.dashboard import fake_api

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def test_a_running_job_keeps_its_figures() -> None:
    """Status, stage, progress and watermark figures of the wire's job arrive in the record."""
    progress = {"stage": "training", "step": 30, "total_steps": 120, "loss": 1.5, "tokens_per_second": 900.0}
    mark = {"key": "wm-1", "commitment": "ab", "watermark_rows": 160, "watermark_ratio": 0.1}
    job = parse_job(fake_api.job(1, "running", progress=progress, watermark=mark))
    assert (job.status, job.stage, job.active) == ("running", "training", True)
    assert job.progress is not None
    assert job.progress.fraction == 0.25
    assert job.watermark is not None
    assert (job.watermark.watermark_rows, job.watermark.watermark_ratio) == (160, 0.1)
    assert dict(job.hyperparameters)["n_epochs"] == "3"


def test_an_unknown_status_is_kept_as_it_came() -> None:
    """A newer API may have more statuses than this page."""
    assert parse_job(fake_api.job(1, "paused")).status == "paused"


@pytest.mark.parametrize("value", [None, [], "job", {}, {"id": ""}, {"id": 5}, {"id": "a\u202eb"}])
def test_what_has_no_id_is_not_the_api(value: object) -> None:
    """Something else answers at the API's address: said so, not shown as an empty row."""
    with pytest.raises(Unreachable):
        parse_job(value)


@given(st.dictionaries(st.sampled_from(sorted(fake_api.job(1))), JSON))
def test_any_job_with_an_id_parses(fields: dict[str, Any]) -> None:
    """A field of a strange type becomes None; it never takes the page down."""
    assert parse_job({**fields, "id": "ftjob-1"}).id == "ftjob-1"


@given(st.dictionaries(st.sampled_from([*fake_api.verification(1), "error", "result"]), JSON))
def test_any_verification_with_an_id_parses(fields: dict[str, Any]) -> None:
    """As for jobs."""
    assert parse_verification({**fields, "id": "verif-1"}).id == "verif-1"


def test_metrics_events_carry_the_step() -> None:
    """Loss and learning rate come from the event's data."""
    event = parse_event(fake_api.step_event(1, step=12, loss=2.5))
    assert (event.step, event.train_loss) == (12, 2.5)


def test_a_suspect_is_shown_by_host_only() -> None:
    """A path, a user name or a query of the suspect's URL may hold a credential."""
    url = "https://user:hunter2@suspect.example:8443/v1/hunter2?key=hunter2"
    item = parse_verification(fake_api.verification(1, suspect={"base_url": url, "model": "m"}))
    assert item.suspect_host == "suspect.example:8443"
    assert "hunter2" not in repr(item)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1/4294967296", Fraction(1, 2**32)),
        ("0.05", Fraction(1, 20)),
        ("1e-6", Fraction(1, 10**6)),
        (f"1/{7**1000}", Fraction(1, 7**1000)),
        ("1/0", None),
        ("1e999999999", None),
        ("nan", None),
        (True, None),
    ],
)
def test_probabilities_are_exact_or_absent(text: object, expected: Fraction | None) -> None:
    """Never a rounded 0, never a hang on an absurd exponent."""
    assert parse_verification(fake_api.verification(1, p_value=text)).p_value == expected


def test_a_decimal_p_value_stands_in() -> None:
    """When only the decimal form is given, it is used."""
    item = parse_verification(fake_api.verification(1, p_value=None, p_value_decimal="2.5e-12"))
    assert item.p_value == Fraction("2.5e-12")


def test_figures_may_lie_in_a_result() -> None:
    """Counts are found beside the verdict or in a nested result."""
    item = parse_verification(fake_api.verification(1, result={"trigger_hits": 9, "trigger_total": 10}))
    assert (item.trigger_hits, item.trigger_total) == (9, 10)


@pytest.mark.parametrize("trick", ["\u202e", "\u2066", "\u200b", "\x00", "\x1b", "\ud800"])
def test_characters_that_disguise_are_replaced(trick: str) -> None:
    """Direction overrides, zero-width and control characters can't reach the page."""
    assert trick not in plain(f"model{trick}name")


def test_lengths_are_bounded() -> None:
    """A name of a megabyte is cut."""
    assert len(plain("x" * 1_000_000)) == 2000


def test_not_ready_names_the_missing_part() -> None:
    """The 503's envelope carries the checks inside its error."""
    health = parse_health({"error": {"checks": {"database": "ok", "serving": "missing"}}}, ready=False)
    assert health.parts == (("database", True), ("serving", False))


@pytest.mark.parametrize(
    ("done", "total", "expected"), [(None, 3, None), (1, 0, None), (1, None, None), (5, 4, 1.0), (1, 4, 0.25)]
)
def test_share(done: int | None, total: int | None, expected: float | None) -> None:
    """A share is in 0..1, or not known."""
    assert share(done, total) == expected


def test_a_sequential_audit_has_its_looks_in_order() -> None:
    """A product beyond what floats hold keeps its height."""
    found = parse_verification(fake_api.sequential(1, None, "11.4", "1.30e+400", "7.00e-500"))
    assert found.sequential
    assert [look.mark for look in found.looks] == [0, 3, 6]
    assert [round(look.height, 2) for look in found.looks] == [1.06, 400.11, -499.15]


@pytest.mark.parametrize(
    "looks", [None, 7, "x", [None, {}, {"product": "0"}, {"product": "NaN"}], [{"product": "1e99999"}]]
)
def test_looks_that_make_no_sense_are_not_shown(looks: object) -> None:
    """And the audit is."""
    found = parse_verification(fake_api.verification(1, mode="sequential", looks=looks))
    assert found.looks == ()


@pytest.mark.parametrize("status", ["awaiting_nonce", "paused"])
def test_waiting_audits_still_change(status: str) -> None:
    assert parse_verification(fake_api.verification(1, None, status=status)).active


def test_a_campaign_joins_its_audits_with_holms_steps() -> None:
    members = [fake_api.verification(1), fake_api.verification(2, "not_detected")]
    holm = [
        {"verification": members[1]["id"], "p_value": "0.5", "threshold": "5.00e-07", "detected": False},
        {"verification": members[0]["id"], "p_value": "1.00e-09", "threshold": "2.50e-07", "detected": True},
    ]
    found = parse_campaign(fake_api.campaign(1, members, holm=holm))
    assert found.decided
    assert not found.active
    assert [member.detected for member in found.members] == [True, False]
    assert [member.verification.id for member in found.members] == [item["id"] for item in members]
    assert found.members[0].verification.campaign is not None
    assert found.members[0].verification.campaign.size == 2


def test_a_campaign_without_figures_is_shown_without_them() -> None:
    """As a provider gets it."""
    found = parse_campaign(fake_api.campaign(1, [fake_api.verification(1, None)]))
    assert (found.decided, found.active) == (False, True)
    assert found.members[0].p_value is None
