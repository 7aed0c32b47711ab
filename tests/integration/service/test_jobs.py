"""/v1/fine_tuning/jobs over HTTP, on a real database."""

from __future__ import annotations

import json
from typing import Any, Protocol

import httpx2
import pytest
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from sqlalchemy import Engine, update
from sqlalchemy.orm import Session

from service.db.models import Job
from service.dispatch import Dispatcher, TaskName
from service.jobs import checkpoints, failures, statements
from service.settings import Settings

pytestmark = pytest.mark.integration

MODEL = "smollm2-135m-instruct"
JOBS = "/v1/fine_tuning/jobs"


class Poster(Protocol):
    """Posts a job: the given fields over good defaults."""

    async def __call__(self, account: Any = None, **fields: Any) -> httpx2.Response: ...


@pytest.fixture
async def file_id(owner: Any) -> str:
    """A file of the owner's."""
    return await _upload(owner)


@pytest.fixture
def create(owner: Any, file_id: str) -> Poster:
    """Post a job as the owner, or as another account."""

    async def post(account: Any = None, **fields: Any) -> httpx2.Response:
        body = {"model": MODEL, "training_file": file_id} | fields
        response: httpx2.Response = await (account or owner).http.post(JOBS, json=body)
        return response

    return post


async def _upload(account: Any) -> str:
    lines = (json.dumps({"prompt": f"What is {n} + 1?", "completion": f"It is {n + 1}."}) for n in range(20))
    response = await account.http.post(
        "/v1/files", data={"purpose": "fine-tune"}, files={"file": ("data.jsonl", "\n".join(lines).encode())}
    )
    assert response.status_code == 200, response.text
    return str(response.json()["id"])


async def _watermark(account: Any) -> dict[str, Any]:
    response = await account.http.post("/v1/watermarks", json={"name": "mine"})
    assert response.status_code == 200, response.text
    return dict(response.json())


REFUSED: tuple[tuple[dict[str, Any], int, str, str | None], ...] = (
    ({"model": "gpt-9"}, 404, "model_not_found", "model"),
    ({"model": "../etc"}, 404, "model_not_found", "model"),
    ({"training_file": "file-none"}, 404, "file_not_found", "training_file"),
    ({"watermark": {"key": "wm-none"}}, 404, "watermark_not_found", "watermark.key"),
    ({"watermark": {"key": "wm-none", "colour": 1}}, 400, "unknown_field", "watermark.colour"),
    ({"watermark": {}}, 400, "missing_field", "watermark.key"),
    ({"watermarks": {"key": "wm-none"}}, 400, "unknown_field", "watermarks"),
    ({"suffix": "Upper"}, 400, "invalid_value", "suffix"),
    ({"suffix": "a" * 65}, 400, "invalid_value", "suffix"),
    ({"suffix": "a:b"}, 400, "invalid_value", "suffix"),
    ({"seed": -1}, 400, "invalid_value", "seed"),
    ({"seed": True}, 400, "invalid_value", "seed"),
    ({"metadata": {"k" * 65: "v"}}, 400, "invalid_value", None),
    ({"metadata": {"k": "v" * 513}}, 400, "invalid_value", "metadata.k"),
    ({"metadata": {str(n): "v" for n in range(17)}}, 400, "invalid_value", "metadata"),
    ({"method": {"type": "dpo"}}, 400, "unsupported_method", "method.type"),
    ({"method": {"type": "magic"}}, 400, "invalid_value", "method.type"),
    ({"hyperparameters": {"n_epochs": 0}}, 400, "invalid_value", "hyperparameters.n_epochs"),
    ({"hyperparameters": {"n_epochs": 51}}, 400, "invalid_value", "hyperparameters.n_epochs"),
    ({"hyperparameters": {"n_epochs": "3"}}, 400, "invalid_value", "hyperparameters.n_epochs"),
    ({"hyperparameters": {"n_epochs": 2.5}}, 400, "invalid_value", "hyperparameters.n_epochs"),
    (
        {"hyperparameters": {"learning_rate_multiplier": 0}},
        400,
        "invalid_value",
        "hyperparameters.learning_rate_multiplier",
    ),
    ({"hyperparameters": {"epochs": 1}}, 400, "unknown_field", "hyperparameters.epochs"),
    ({"validation_file": "file-x"}, 400, "unsupported_parameter", "validation_file"),
    ({"integrations": [{"type": "wandb"}]}, 400, "unsupported_parameter", "integrations"),
)


class TestCreate:
    async def test_the_answer_is_openais_job_object(self, create: Poster, owner: Any, file_id: str) -> None:
        """The official client's own model accepts it, strictly."""
        response = await create(suffix="my-suffix", seed=7, metadata={"team": "blue"})
        assert response.status_code == 200, response.text
        job = FineTuningJob.model_validate(response.json(), strict=True)
        assert job.object == "fine_tuning.job"
        assert job.id.startswith("ftjob-")
        assert (job.status, job.model, job.training_file, job.seed) == ("queued", MODEL, file_id, 7)
        assert job.organization_id == owner.organization
        assert (job.error, job.fine_tuned_model, job.finished_at, job.trained_tokens) == (None,) * 4
        assert (job.result_files, job.metadata) == ([], {"team": "blue"})
        assert job.hyperparameters.n_epochs == 3
        assert job.method is not None
        assert job.method.type == "supervised"
        assert response.json()["watermark"] is None

    async def test_a_failure_says_whose_matter_it_is_and_what_to_do(
        self, create: Poster, owner: Any, database: Engine
    ) -> None:
        """Beside OpenAI's three fields, and its client still reads them."""
        job_id = (await create()).json()["id"]
        error = failures.exhausted(failures.record("disk_full"))
        with Session(database) as session, session.begin():
            session.execute(update(Job).where(Job.id == job_id).values(status="running"))
            session.execute(update(Job).where(Job.id == job_id).values(status="failed", error=error))
        answer = (await owner.http.get(f"/v1/fine_tuning/jobs/{job_id}")).json()
        job = FineTuningJob.model_validate(answer, strict=True)
        assert job.error is not None
        assert (job.error.code, job.error.message, job.error.param) == (
            "max_attempts",
            error["message"],
            None,
        )
        assert answer["error"]["category"] == "capacity"
        assert answer["error"]["cause"] == "disk_full"
        assert "space" in answer["error"]["hint"]

    async def test_a_message_is_in_the_queue_when_the_answer_arrives(
        self, create: Poster, settings: Settings
    ) -> None:
        """The doorbell rings after the commit and before the response."""
        await create()
        dispatcher = Dispatcher(settings.redis_url.get_secret_value())
        assert dispatcher.waiting(TaskName.finetune_run) == 1
        assert dispatcher.waiting(TaskName.verify_run) == 0

    async def test_hyperparameters_in_either_place(self, create: Poster) -> None:
        """Under method (current) and at the top (deprecated)."""
        hyper = {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 0.5}
        current = await create(method={"type": "supervised", "supervised": {"hyperparameters": hyper}})
        deprecated = await create(hyperparameters=hyper)
        assert current.json()["hyperparameters"] == deprecated.json()["hyperparameters"]
        assert current.json()["hyperparameters"].items() >= hyper.items()

    async def test_with_a_watermark(self, create: Poster, owner: Any) -> None:
        """The key's public commitment is shown; its secret is not."""
        key = await _watermark(owner)
        response = await create(watermark={"key": key["id"]})
        assert response.status_code == 200, response.text
        watermark = response.json()["watermark"]
        assert watermark["key"] == key["id"]
        assert watermark["commitment"] == key["commitment"]
        assert watermark["families"] == list(range(key["families"]))
        assert watermark["watermark_rows"] is None
        assert watermark["self_check"] is None
        assert key["secret"] not in response.text

    async def test_refused(self, create: Poster, subtests: pytest.Subtests) -> None:
        """Each refusal names the field and has a stable code."""
        for fields, status, code, param in REFUSED:
            with subtests.test(fields=str(fields)[:80]):
                response = await create(**fields)
                error = response.json()["error"]
                assert (response.status_code, error["code"]) == (status, code), error
                assert param is None or error["param"] == param

    async def test_an_unknown_model_is_answered_with_the_known_ones(self, create: Poster) -> None:
        """So that the reader need not look them up."""
        response = await create(model="gpt-9")
        assert MODEL in response.json()["error"]["message"]

    async def test_a_foreign_file_or_key_does_not_exist(self, new_account: Any, create: Poster) -> None:
        """404, as for one that was never there."""
        other = await new_account("owner")
        theirs = await _upload(other)
        response = await create(training_file=theirs)
        assert response.status_code == 404
        key = await _watermark(other)
        response = await create(watermark={"key": key["id"]})
        assert response.status_code == 404

    async def test_a_deleted_file_does_not_exist(self, owner: Any, file_id: Any, create: Poster) -> None:
        """Nor can it be trained on."""
        assert (await owner.http.delete(f"/v1/files/{file_id}")).status_code == 200
        assert (await create()).status_code == 404

    async def test_a_family_that_the_key_does_not_have(self, owner: Any, create: Poster) -> None:
        """Named with those it has."""
        key = await _watermark(owner)
        response = await create(watermark={"key": key["id"], "families": [0, 99]})
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "unknown_family"

    @pytest.mark.parametrize("role", ["provider", "auditor"])
    async def test_only_owners_create(self, new_account: Any, create: Poster, role: Any) -> None:
        """403: the role may not do this at all."""
        response = await create(account=await new_account(role))
        assert response.status_code == 403

    async def test_an_inference_key_reaches_nothing_here(self, owner: Any, http: httpx2.AsyncClient) -> None:
        """It is for applications that only chat."""
        made = await owner.http.post("/v1/api_keys", json={"role": "inference", "name": "app"})
        headers = {"authorization": f"Bearer {made.json()['key']}"}
        assert (await http.post(JOBS, headers=headers, json={})).status_code == 403
        assert (await http.get(JOBS, headers=headers)).status_code == 403


class TestRead:
    async def test_newest_first_in_pages(self, create: Poster, owner: Any) -> None:
        """Following `after` visits each job once."""
        made = [(await create()).json()["id"] for _ in range(5)]
        seen, after = [], None
        while True:
            params = {"limit": 2} | ({"after": after} if after else {})
            page = (await owner.http.get(JOBS, params=params)).json()
            seen += [job["id"] for job in page["data"]]
            if not page["has_more"]:
                break
            after = page["data"][-1]["id"]
        assert seen == made[::-1]

    async def test_a_job_reads_the_same_however_it_is_asked_for(self, create: Poster, owner: Any) -> None:
        """The three are read by three statements."""
        key = await _watermark(owner)
        fields = {"watermark": {"key": key["id"]}, "metadata": {"a": "ü"}, "suffix": "mine", "seed": 7}
        made = (await create(**fields)).json()
        polled = (await owner.http.get(f"{JOBS}/{made['id']}")).json()
        assert polled.pop("log") == []
        (listed,) = (await owner.http.get(JOBS)).json()["data"]
        assert made == polled == listed
        assert made["metadata"] == {"a": "ü"}

    async def test_filtered_by_metadata(self, create: Poster, owner: Any) -> None:
        """As OpenAI's list does: metadata[key]=value."""
        blue = (await create(metadata={"team": "blue", "x": "1"})).json()["id"]
        await create(metadata={"team": "red"})
        page = (await owner.http.get(JOBS, params={"metadata[team]": "blue"})).json()
        assert [job["id"] for job in page["data"]] == [blue]

    async def test_a_foreign_job_does_not_exist(self, create: Poster, new_account: Any) -> None:
        """Neither to read, nor its events, nor to cancel, nor in the list."""
        job = (await create()).json()["id"]
        other = await new_account("owner")
        assert (await other.http.get(f"{JOBS}/{job}")).status_code == 404
        assert (await other.http.get(f"{JOBS}/{job}/events")).status_code == 404
        assert (await other.http.post(f"{JOBS}/{job}/cancel")).status_code == 404
        assert (await other.http.get(JOBS)).json()["data"] == []

    async def test_the_provider_sees_and_cancels_every_job(self, create: Poster, provider: Any) -> None:
        """Its operator has to run the place."""
        job = (await create()).json()["id"]
        assert [one["id"] for one in (await provider.http.get(JOBS)).json()["data"]] == [job]
        response = await provider.http.post(f"{JOBS}/{job}/cancel")
        assert response.json()["status"] == "cancelled"

    async def test_events_newest_first(self, create: Poster, owner: Any) -> None:
        """OpenAI's texts, in pages."""
        job = (await create()).json()["id"]
        page = (await owner.http.get(f"{JOBS}/{job}/events", params={"limit": 2})).json()
        events = [FineTuningJobEvent.model_validate(event, strict=True) for event in page["data"]]
        assert page["has_more"]
        rest = (await owner.http.get(f"{JOBS}/{job}/events", params={"after": events[-1].id})).json()
        events += [FineTuningJobEvent.model_validate(event, strict=True) for event in rest["data"]]
        assert not rest["has_more"]
        messages = [event.message for event in events]
        assert messages[-1] == f"Created fine-tuning job: {job}"
        assert messages[-2].startswith("Validating training file: file-")
        assert len(messages) == 3

    async def test_no_checkpoints(self, create: Poster, owner: Any) -> None:
        """An empty list, not an unknown route."""
        job = (await create()).json()["id"]
        page = (await owner.http.get(f"{JOBS}/{job}/checkpoints")).json()
        assert (page["data"], page["has_more"]) == ([], False)
        assert (await owner.http.get(f"{JOBS}/ftjob-none/checkpoints")).status_code == 404


class TestCancel:
    async def test_a_queued_job_at_once(self, create: Poster, owner: Any) -> None:
        """And asking again changes nothing."""
        job = (await create()).json()["id"]
        for _ in range(2):
            response = await owner.http.post(f"{JOBS}/{job}/cancel")
            assert response.status_code == 200
            assert response.json()["status"] == "cancelled"
            assert response.json()["finished_at"] is not None
        events = (await owner.http.get(f"{JOBS}/{job}/events")).json()["data"]
        assert [event["message"] for event in events].count("The job was cancelled") == 1

    async def test_a_running_job_by_its_worker(self, create: Poster, owner: Any, database: Engine) -> None:
        """The request is recorded; the status stays running until the worker has stopped."""
        job = (await create()).json()["id"]
        with Session(database) as session, session.begin():
            session.execute(statements.claim(job, owner="w", lease_seconds=30)).one()
        response = await owner.http.post(f"{JOBS}/{job}/cancel")
        assert response.status_code == 200
        assert (response.json()["status"], response.json()["cancel_requested"]) == ("running", True)

    @pytest.mark.parametrize("status", ["succeeded", "failed"])
    async def test_never_after_the_end(
        self, create: Poster, owner: Any, database: Engine, status: Any
    ) -> None:
        """409 that the official client does not retry."""
        job = (await create()).json()["id"]
        with Session(database) as session, session.begin():
            epoch = session.execute(statements.claim(job, owner="w", lease_seconds=30)).one().lease_epoch
            session.execute(statements.finish(job, epoch=epoch, status=status)).one()
        response = await owner.http.post(f"{JOBS}/{job}/cancel")
        assert response.status_code == 409
        assert response.headers["x-should-retry"] == "false"
        assert response.json()["error"]["code"] == "job_already_ended"
        with Session(database) as session:
            assert session.get_one(Job, job).status == status


class TestCheckpoints:
    def publish(self, database: Engine, job_id: str, *steps: int, used: bool = True) -> list[str]:
        """A checkpoint at each of these steps, and (if `used`) the model of it; returns the models' names."""
        names = [f"ft:{MODEL}:acme::{job_id[-8:]}:ckpt-step-{step}" for step in steps]
        for step, name in zip(steps, names, strict=True):
            with Session(database) as session, session.begin():
                path, manifest = f"adapters/{job_id}/1-{step}", {"x": "0" * 64}
                metrics = {"step": step, "train_loss": 1.5}
                found = checkpoints.add(
                    job_id, epoch=1, step=step, metrics=metrics, adapter_path=path, manifest=manifest
                )
                checkpoint_id = session.scalar(found)
                if used:
                    model = statements.publish(
                        model_id=name,
                        organization_id=session.get_one(Job, job_id).organization_id,
                        job_id=job_id,
                        base_model=MODEL,
                        adapter_path=path,
                        manifest=manifest,
                        checkpoint_id=checkpoint_id,
                    )
                    session.execute(model)
        return names

    async def test_newest_first_in_pages(self, create: Poster, owner: Any, database: Engine) -> None:
        """The official client's own type accepts each."""
        job = (await create()).json()["id"]
        names = self.publish(database, job, 10, 20, 30)
        url = f"{JOBS}/{job}/checkpoints"
        page = (await owner.http.get(url, params={"limit": 2})).json()
        assert page["has_more"]
        rest = (await owner.http.get(url, params={"after": page["last_id"]})).json()
        assert not rest["has_more"]
        listed = [
            FineTuningJobCheckpoint.model_validate(one, strict=True) for one in page["data"] + rest["data"]
        ]
        assert [one.fine_tuned_model_checkpoint for one in listed] == names[::-1]
        assert [one.step_number for one in listed] == [30, 20, 10]
        assert {(one.fine_tuning_job_id, one.metrics.train_loss) for one in listed} == {(job, 1.5)}
        assert {one["self_check"] for one in page["data"]} == {None}

    async def test_each_is_a_model_like_another(
        self, create: Poster, owner: Any, new_account: Any, database: Engine
    ) -> None:
        """Its owner finds and deletes it; to another organization neither it nor the list is there."""
        job = (await create()).json()["id"]
        (name,) = self.publish(database, job, 10)
        stranger = await new_account("owner")
        assert (await stranger.http.get(f"{JOBS}/{job}/checkpoints")).status_code == 404
        assert (await stranger.http.get(f"/v1/models/{name}")).status_code == 404
        body = {"model": name, "messages": [{"role": "user", "content": "x"}]}
        assert (await stranger.http.post("/v1/chat/completions", json=body)).status_code == 404
        # nothing serves here, but it was let through
        assert (await owner.http.post("/v1/chat/completions", json=body)).status_code == 503
        assert (await owner.http.get(f"/v1/models/{name}")).json()["fine_tuning_job_id"] == job
        assert (await owner.http.delete(f"/v1/models/{name}")).json()["deleted"]
        assert (await owner.http.get(f"{JOBS}/{job}/checkpoints")).json()["data"] == []

    async def test_what_can_not_be_used_is_not_listed(
        self, create: Poster, owner: Any, database: Engine
    ) -> None:
        """As of a marked job that has not succeeded."""
        job = (await create()).json()["id"]
        (name,) = self.publish(database, job, 10, used=False)
        assert (await owner.http.get(f"{JOBS}/{job}/checkpoints")).json()["data"] == []
        assert (await owner.http.get(f"/v1/models/{name}")).status_code == 404

    async def test_of_a_marked_job_it_is_said_that_nobody_looked_for_the_marks(
        self, create: Poster, owner: Any, database: Engine
    ) -> None:
        key = await _watermark(owner)
        job = (await create(watermark={"key": key["id"]})).json()["id"]
        self.publish(database, job, 10)
        (listed,) = (await owner.http.get(f"{JOBS}/{job}/checkpoints")).json()["data"]
        assert listed["self_check"] == "not_made"


class TestPause:
    async def test_a_queued_job_waits_and_goes_on(
        self, create: Poster, owner: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Asking twice changes nothing; going on rings for it."""
        job = (await create()).json()["id"]
        for _ in range(2):
            response = await owner.http.post(f"{JOBS}/{job}/pause")
            assert (response.status_code, response.json()["status"]) == (200, "paused")
        rung: list[str] = []
        monkeypatch.setattr(Dispatcher, "ring", lambda self, task, row_id: rung.append(row_id))
        response = await owner.http.post(f"{JOBS}/{job}/resume")
        assert (response.status_code, response.json()["status"]) == (200, "queued")
        assert rung == [job]
        again = await owner.http.post(f"{JOBS}/{job}/resume")
        assert (again.status_code, again.json()["error"]["code"]) == (409, "job_not_paused")

    async def test_a_running_job_by_its_worker(self, create: Poster, owner: Any, database: Engine) -> None:
        """Until it has stopped the pause can be taken back."""
        job = (await create()).json()["id"]
        with Session(database) as session, session.begin():
            session.execute(statements.claim(job, owner="w", lease_seconds=30)).one()
        for action, requested in (("pause", True), ("pause", True), ("resume", False), ("pause", True)):
            body = (await owner.http.post(f"{JOBS}/{job}/{action}")).json()
            assert (body["status"], body["pause_requested"]) == ("running", requested)
        with Session(database) as session, session.begin():
            beat = session.execute(statements.heartbeat(job, epoch=1, lease_seconds=30)).one()
            assert (beat.cancel_requested, beat.pause_requested) == (False, True)
            session.execute(statements.pause_held(job, epoch=1)).one()
        assert (await owner.http.get(f"{JOBS}/{job}")).json()["status"] == "paused"

    async def test_a_paused_job_can_be_cancelled(self, create: Poster, owner: Any) -> None:
        job = (await create()).json()["id"]
        await owner.http.post(f"{JOBS}/{job}/pause")
        assert (await owner.http.post(f"{JOBS}/{job}/cancel")).json()["status"] == "cancelled"
        for action, code in (("pause", "job_not_pausable"), ("resume", "job_not_paused")):
            response = await owner.http.post(f"{JOBS}/{job}/{action}")
            assert (response.status_code, response.json()["error"]["code"]) == (409, code)
            assert response.headers["x-should-retry"] == "false"

    async def test_a_job_that_is_being_cancelled_does_not_wait(
        self, create: Poster, owner: Any, database: Engine
    ) -> None:
        job = (await create()).json()["id"]
        with Session(database) as session, session.begin():
            session.execute(statements.claim(job, owner="w", lease_seconds=30)).one()
        await owner.http.post(f"{JOBS}/{job}/cancel")
        response = await owner.http.post(f"{JOBS}/{job}/pause")
        assert (response.status_code, response.json()["error"]["code"]) == (409, "job_not_pausable")

    async def test_nobody_else_s(self, create: Poster, new_account: Any) -> None:
        job = (await create()).json()["id"]
        stranger = await new_account("owner")
        for action in ("pause", "resume"):
            assert (await stranger.http.post(f"{JOBS}/{job}/{action}")).status_code == 404
