"""The dashboard's client against the real API: the names it reads are the names that are sent."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import httpx2
import pytest
from sqlalchemy import Engine, update
from sqlalchemy.orm import Session

from dashboard.api import Api
from dashboard.curve import curve
from dashboard.errors import KeyRefused, RequestRefused, WrongRole
from dashboard.feed import Feed
from service.db.models import Job, JobEvent, Verification

pytestmark = pytest.mark.integration

PROGRESS = {"step": 30, "total_steps": 120, "loss": 1.5, "tokens_per_second": 900.0, "eta_seconds": 12.5}


@pytest.fixture
def settings(settings: Any) -> Any:
    """The operator allows one private address as a suspect."""
    return settings.model_copy(update={"suspect_allow": "127.0.0.1:9"})


@pytest.fixture
def api(http: httpx2.AsyncClient, provider: Any) -> Api:
    """The client as the provider is signed in."""
    return Api(http, str(http.base_url).rstrip("/"), provider.api_key)


@pytest.fixture
async def mark(owner: Any) -> dict[str, Any]:
    """A key of the owner's."""
    response = await owner.http.post("/v1/watermarks", json={"name": "mine"})
    assert response.status_code == 200, response.text
    return dict(response.json())


@pytest.fixture
async def job_id(owner: Any, mark: dict[str, Any]) -> str:
    """A watermarked job of the owner's."""
    rows = (json.dumps({"prompt": f"What is {n} + 1?", "completion": f"It is {n + 1}."}) for n in range(20))
    files = {"file": ("data.jsonl", "\n".join(rows).encode())}
    stored = await owner.http.post("/v1/files", data={"purpose": "fine-tune"}, files=files)
    body = {
        "model": "smollm2-135m-instruct",
        "training_file": stored.json()["id"],
        "suffix": "menu",
        "watermark": {"key": mark["id"]},
    }
    response = await owner.http.post("/v1/fine_tuning/jobs", json=body)
    assert response.status_code == 200, response.text
    return str(response.json()["id"])


async def test_only_a_provider_may_sign_in(http: httpx2.AsyncClient, api: Api, owner: Any) -> None:
    """The API itself tells who the key belongs to."""
    root = str(http.base_url).rstrip("/")
    await api.check_provider()
    with pytest.raises(WrongRole):
        await Api(http, root, owner.api_key).check_provider()
    with pytest.raises(KeyRefused):
        await Api(http, root, owner.api_key[:-1]).check_provider()


async def test_health_names_what_is_missing(api: Api) -> None:
    """Nothing serves models here, and the page can say so."""
    health = await api.health()
    assert health.ready
    assert dict(health.parts) == {"database": True, "migrations": True, "broker": True, "serving": False}


async def test_a_job_and_its_curve(
    api: Api, owner: Any, mark: dict[str, Any], job_id: str, database: Engine
) -> None:
    """Every field that the page shows arrives."""
    report = {"watermark_rows": 16, "watermark_ratio": 0.44, "watermark_token_ratio": 0.3}
    with Session(database) as session, session.begin():
        values = {"status": "running", "stage": "training", "progress": PROGRESS, "watermark_report": report}
        session.execute(update(Job).where(Job.id == job_id).values(**values))
        for step in (1, 2, 3):
            data = {"step": step, "total_steps": 120, "train_loss": 3.0 / step, "learning_rate": 1e-3}
            session.add(
                JobEvent(
                    id=f"ftevent-{step}",
                    job_id=job_id,
                    level="info",
                    type="metrics",
                    message="Step",
                    data=data,
                )
            )
    (job,) = (await api.jobs()).items
    assert job == await api.job(job_id)
    assert (job.suffix, job.base_model, job.status, job.stage) == (
        "menu",
        "smollm2-135m-instruct",
        "running",
        "training",
    )
    assert job.organization == owner.organization
    assert job.progress is not None
    assert (job.progress.fraction, job.progress.loss, job.progress.eta_seconds) == (0.25, 1.5, 12.5)
    assert job.progress.tokens_per_second == 900.0
    assert job.watermark is not None
    assert (job.watermark.key, job.watermark.commitment) == (mark["id"], mark["commitment"])
    assert (job.watermark.watermark_rows, job.watermark.watermark_ratio) == (16, 0.44)
    assert job.hyperparameters
    assert job.created_at is not None
    points = curve((await api.events(job_id)).items)
    assert [(point.step, point.train_loss) for point in points] == [(1, 3.0), (2, 1.5), (3, 1.0)]


async def test_a_failure_arrives(api: Api, job_id: str, database: Engine) -> None:
    """Code and message of a failed job, and what the API makes of the code."""
    error = {"code": "out_of_memory", "message": "Lower batch_tokens.", "param": None}
    with Session(database) as session, session.begin():
        session.execute(update(Job).where(Job.id == job_id).values(status="failed", error=error))
    job = await api.job(job_id)
    assert job.error is not None
    assert (job.error.code, job.error.message) == ("out_of_memory", "Lower batch_tokens.")
    assert job.error.category == "capacity"
    assert "batch_tokens" in (job.error.hint or "")


async def test_cancel(api: Api, job_id: str) -> None:
    """A queued job is cancelled at once; one that is unknown is refused."""
    assert (await api.cancel(job_id)).status == "cancelled"
    with pytest.raises(RequestRefused):
        await api.cancel("ftjob-none")


async def test_a_verification(api: Api, owner: Any, mark: dict[str, Any], database: Engine) -> None:
    """Suspect, plan, verdict and reasons."""
    body = {"watermark": mark["id"], "suspect": {"base_url": "http://127.0.0.1:9/v1", "model": "stolen?"}}
    made = await owner.http.post("/v1/verify", json=body)
    assert made.status_code == 200, made.text
    (item,) = (await api.verifications()).items
    assert (item.suspect_model, item.suspect_host, item.suspect_api) == ("stolen?", "127.0.0.1:9", "chat")
    assert (item.status, item.verdict, item.watermark, item.audit_index) == ("queued", None, mark["id"], 1)
    assert item.asked == 0
    assert item.total
    assert item.alpha is not None
    assert Fraction(0) < item.alpha < Fraction(1, 10**6)
    assert item.preregistration_digest is not None
    assert item.organization == owner.organization
    with Session(database) as session, session.begin():
        session.execute(update(Verification).values(status="running"))
        values = {"status": "succeeded", "verdict": "inconclusive", "reasons": ["missing_answers"]}
        session.execute(update(Verification).values(**values))
    item = await api.verification(item.id)
    assert (item.status, item.verdict, item.reasons) == ("succeeded", "inconclusive", ("missing_answers",))


async def test_a_whole_snapshot(api: Api, owner: Any, job_id: str) -> None:
    """One round of the feed's requests, names of organizations among them."""
    feed = Feed(api, poll_seconds=1.0)
    await feed._refresh()
    assert feed.snapshot.outage is None
    assert [job.id for job in feed.snapshot.jobs] == [job_id]
    assert feed.snapshot.organizations[owner.organization] == "owner"
