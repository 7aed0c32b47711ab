"""The official client against the real API process, killed between its commit and its answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from sqlalchemy import func, select

from service.accounts.keys import ApiKeyToken
from service.db.models import ApiKey, File, Job
from tests.integration.api_process import free_port, running_api
from tests.integration.conftest import TINY, Deployment, dataset

pytestmark = pytest.mark.integration

DYING = "tests.integration.dying_api:create_dying_app"


@pytest.fixture
def api_key(deployment: Deployment) -> str:
    """An owner's."""
    token, organization = ApiKeyToken.new(), deployment.organization()
    with deployment.sessions.begin() as session:
        session.add(
            ApiKey(
                id=token.row_id,
                organization_id=organization,
                role="owner",
                name="test",
                secret_sha256=token.secret_sha256,
            )
        )
    return token.reveal()


@contextmanager
def api_that_comes_back(deployment: Deployment, order: Path) -> Iterator[str]:
    """Its address. Whenever the process is killed, another one takes its place."""
    port, over, up = free_port(), threading.Event(), threading.Event()
    deployment.environment["DIE_ONCE"] = str(order)

    def keep_running() -> None:
        while not over.is_set():
            with running_api(deployment, app=DYING, port=port) as (_, process):
                up.set()
                while process.poll() is None and not over.is_set():
                    over.wait(0.05)

    thread = threading.Thread(target=keep_running)
    thread.start()
    try:
        assert up.wait(60)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        over.set()
        thread.join()


def count(deployment: Deployment, table: Any) -> int:
    """Rows of a table."""
    with deployment.sessions() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


@pytest.mark.parametrize("with_key", [False, True], ids=["as it is", "with an Idempotency-Key"])
def test_a_creation_whose_answer_was_lost(
    deployment: Deployment, api_key: str, tmp_path: Path, with_key: bool
) -> None:
    """The client tries again by itself and gets the job that is there. There is no second one."""
    order = tmp_path / "die-once"
    headers = {"Idempotency-Key": "order-66"} if with_key else {}
    with api_that_comes_back(deployment, order) as url:
        client = openai.OpenAI(base_url=url, api_key=api_key, max_retries=8)
        order.touch()
        file = client.files.create(file=("d.jsonl", dataset(12)), purpose="fine-tune", extra_headers=headers)
        assert not order.exists(), "the API was killed"
        assert count(deployment, File) == 1

        headers = {name: value + "-job" for name, value in headers.items()}
        order.touch()
        raw = client.fine_tuning.jobs.with_raw_response.create(
            model=TINY, training_file=file.id, extra_headers=headers
        )
        assert not order.exists(), "the API was killed"
        assert raw.retries_taken > 0
        assert raw.headers["idempotent-replayed"] == "true"
        job = raw.parse()
        assert count(deployment, Job) == 1
        assert deployment.read(job.id).status == "queued"

        if not with_key:
            again = client.fine_tuning.jobs.create(model=TINY, training_file=file.id)
            assert again.id != job.id
            assert count(deployment, Job) == 2


def test_another_body_costs_the_client_one_request(deployment: Deployment, api_key: str) -> None:
    """It would try a 409 twice more if it were not told."""
    headers = {"Idempotency-Key": "k"}
    with running_api(deployment) as (url, _):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=api_key)
        file = client.files.create(file=("d.jsonl", dataset(12)), purpose="fine-tune")
        client.fine_tuning.jobs.create(model=TINY, training_file=file.id, extra_headers=headers)
        with pytest.raises(openai.ConflictError) as caught:
            client.fine_tuning.jobs.create(model=TINY, training_file=file.id, seed=2, extra_headers=headers)
        assert caught.value.code == "idempotency_key_reused"
        assert caught.value.response.request.headers["x-stainless-retry-count"] == "0"
