"""The bundle of a service's audit: whose it is, what log and authority say of it, and that it holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from evidence.bundle import COMMITMENT_STAMP, ENVELOPE, EVIDENCE, LOG, VERDICT_STAMP, read_bundle
from evidence.comparison import compare
from evidence.log.entry import EntryKind
from evidence.log.proof import Publication
from evidence.timestamps import TimestampInvalid
from evidence.trust import Trust, parse_trust
from service.db.models import Job, LogTimestamp, Model, WatermarkKey
from service.evidence_key import rotate
from service.log import deeds
from service.log.deeds import Marking
from service.log.usecases import append
from service.settings import Settings, TimestampAuthority
from service.stamping import sign_what_is_new, stamp
from tests.integration.service import suspects
from tests.integration.service.conftest import Account, NewAccount, dataset, upload
from tests.timestamp_authority import REFUSAL, Authority, serving
from worker.record.engine import open_workplace
from worker.tasks import verify_run

pytestmark = pytest.mark.integration

Audited = Callable[..., Coroutine[Any, Any, str]]


@pytest.fixture
async def key(owner: Account) -> dict[str, Any]:
    made: dict[str, Any] = (await owner.http.post("/v1/watermarks", json={})).json()
    return made


@pytest.fixture
async def audited(app: FastAPI, owner: Account, key: dict[str, Any]) -> AsyncIterator[Audited]:
    """A finished audit with the owner's key; returns its id."""
    with suspects.listening(suspects.always("No")) as suspect:
        settings = app.state.settings.model_copy(update={"suspect_allow": suspect.host_port})
        app.state.settings = settings

        async def run(account: Account = owner, model: str = "m") -> str:
            if account is not owner:
                grant = {
                    "auditor": account.organization,
                    "suspect_hosts": [suspect.host_port],
                    "probe_budget": 1000,
                    "expires_in_seconds": 600,
                }
                await owner.http.post(f"/v1/watermarks/{key['id']}/grants", json=grant)
            body = {
                "watermark": key["id"],
                "suspect": {"base_url": suspect.base_url, "model": model},
                "plan": {"probes_per_cue": 1, "canaries": False},
            }
            response = await account.http.post("/v1/verify", json=body)
            assert response.status_code == 200, response.text
            name: str = response.json()["id"]
            place = open_workplace(settings, shutting_down=lambda: False)
            await asyncio.to_thread(verify_run, place, name)
            return name

        yield run


async def trained(owner: Account, key: dict[str, Any], database: Engine, model: str) -> str:
    """What a worker writes of a job that was marked with this key and has published a model."""
    file = (await upload(owner, dataset(20))).json()["id"]
    body = {
        "model": "smollm2-135m-instruct",
        "training_file": file,
        "watermark": {"key": key["id"]},
    }
    response = await owner.http.post("/v1/fine_tuning/jobs", json=body)
    assert response.status_code == 200, response.text
    job_id: str = response.json()["id"]
    with Session(database) as session, session.begin():
        job, row = session.get_one(Job, job_id), session.get_one(WatermarkKey, key["id"])
        marking = Marking(
            key=row.id,
            commitment=row.commitment,
            banks="",
            families=[0],
            strength="standard",
            mixed_by="service",
        )
        started = deeds.training(
            job_id=job_id,
            epoch=1,
            attempt=1,
            dataset_sha256="0" * 64,
            base_model=job.base_model,
            base_model_digest="1" * 64,
            seed=1,
            settings={},
            marking=marking,
            software="0",
        )
        manifest = {"adapter_model.safetensors": "2" * 64}
        session.add(
            Model(
                id=model,
                organization_id=job.organization_id,
                job_id=job_id,
                base_model=job.base_model,
                adapter_path="none",
                manifest=manifest,
            )
        )
        session.flush()
        append(session, started)
        append(session, deeds.model(job_id, model, manifest))
    return job_id


async def fetched(account: Account, verification: str) -> dict[str, bytes]:
    response = await account.http.get(f"/v1/verifications/{verification}/bundle")
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/zip"
    assert response.headers["cache-control"] == "no-store"
    return read_bundle(response.content)


async def trust_of(account: Account, *more: str) -> Trust:
    keys = [(await account.http.get(path)).json()["key"] for path in ("/v1/evidence/key", "/v1/log/key")]
    return parse_trust("\n".join([*keys, *more]))


async def test_the_bundle_of_a_models_audit_passes_every_step_that_can_be_checked(
    owner: Account, key: dict[str, Any], audited: Audited, database: Engine
) -> None:
    await trained(owner, key, database, "ft:ours")
    name = await audited(model="ft:ours")
    files = await fetched(owner, name)
    both = compare(files, await trust_of(owner))
    assert (both.exit_status, both.disagreements, both.own_verifier) == (0, (), True)
    left = {step["name"] for step in both.standalone["steps"] if step["status"] != "passed"}
    assert left == {"timestamps", "spoken"}
    assert files[EVIDENCE] == (await owner.http.get(f"/v1/verifications/{name}/evidence")).content
    assert files == await fetched(owner, name)
    proofs = Publication.from_bytes(files[LOG])
    assert proofs.absent == ()
    assert proofs.authority == ""


async def test_of_a_strangers_suspect_only_the_owners_first_training_is_named(
    owner: Account, key: dict[str, Any], audited: Audited, database: Engine, new_account: NewAccount
) -> None:
    """Another organization's model is asked by its name: who trained it here is not told."""
    rival = await new_account("owner")
    rivals_key = (await rival.http.post("/v1/watermarks", json={})).json()
    await trained(rival, rivals_key, database, "ft:rival")
    job = await trained(owner, key, database, "ft:ours")
    proofs = Publication.from_bytes((await fetched(owner, await audited(model="ft:rival")))[LOG])
    training = proofs.entry(EntryKind.training)
    assert training is not None
    assert training.record is not None
    assert training.record["job"] == job
    assert proofs.absent == (EntryKind.model,)
    assert b"ft:rival" not in (await fetched(owner, await audited(model="other")))[LOG]


async def test_a_training_that_came_after_the_plan_is_not_named(
    owner: Account, key: dict[str, Any], audited: Audited, database: Engine
) -> None:
    name = await audited()
    await trained(owner, key, database, "ft:ours")
    files = await fetched(owner, name)
    proofs = Publication.from_bytes(files[LOG])
    assert proofs.absent == (EntryKind.training, EntryKind.model)
    assert compare(files, await trust_of(owner)).exit_status == 0


async def test_the_key_is_nearer_to_a_checkpoint_that_was_signed_in_between(
    owner: Account, key: dict[str, Any], audited: Audited
) -> None:
    await owner.http.get("/v1/log/checkpoint")
    proofs = Publication.from_bytes((await fetched(owner, await audited()))[LOG])
    assert proofs.earlier != proofs.checkpoint
    assert proofs.earlier.split("\n")[1] == "2"


async def test_owner_and_auditor_have_it_and_nobody_else(
    owner: Account,
    auditor: Account,
    provider: Account,
    new_account: NewAccount,
    audited: Audited,
    http: httpx2.AsyncClient,
) -> None:
    name = await audited(auditor)
    assert await fetched(owner, name) == await fetched(auditor, name)
    for role in ("owner", "auditor"):
        other = await new_account(role)
        response = await other.http.get(f"/v1/verifications/{name}/bundle")
        assert (response.status_code, response.json()["error"]["code"]) == (404, "verification_not_found")
    assert (await provider.http.get(f"/v1/verifications/{name}/bundle")).status_code == 403
    for path in (f"/v1/verifications/{name}/bundle", "/v1/evidence/key"):
        assert (await http.get(path)).status_code == 401


async def test_a_log_that_was_rewritten_makes_no_bundle(
    owner: Account, audited: Audited, database: Engine
) -> None:
    name = await audited()
    await owner.http.get("/v1/log/checkpoint")
    with database.begin() as connection:
        connection.execute(text("ALTER TABLE log_entries DISABLE TRIGGER insert_only"))
        connection.execute(text("UPDATE log_entries SET leaf_hash = sha256('x'::bytea) WHERE index = 0"))
    files = await fetched(owner, name)
    assert compare(files, await trust_of(owner)).exit_status == 1


async def test_the_signing_seed_is_shown_nowhere(
    owner: Account, audited: Audited, settings: Settings, capfd: Any
) -> None:
    assert settings.evidence_key_file is not None
    seed = settings.evidence_key_file.read_text()
    response = await owner.http.get(f"/v1/verifications/{await audited()}/bundle")
    shown = str(response.content) + (await owner.http.get("/v1/evidence/key")).text
    shown += repr(settings) + str(settings.model_dump()) + "".join(capfd.readouterr())
    assert seed not in shown


async def test_another_key_signs_from_now_on_and_old_bundles_stay_good(
    owner: Account, key: dict[str, Any], audited: Audited, settings: Settings
) -> None:
    """Without a restart, and only for who trusts it: the old line alone does not do for a new bundle."""
    name = await audited()
    old, before = await fetched(owner, name), await trust_of(owner)
    made = rotate(settings)
    new, after = await fetched(owner, name), await trust_of(owner)
    assert (made.retired != made.successor, old[ENVELOPE] != new[ENVELOPE]) == (True, True)
    assert compare(old, before).exit_status == compare(new, after).exit_status == 0
    assert compare(new, before).exit_status == compare(old, after).exit_status == 1
    both = await trust_of(owner, made.retired)
    assert compare(old, both).exit_status == compare(new, both).exit_status == 0


class TestStamps:
    """An authority on loopback that gives real RFC 3161 replies."""

    async def stamped(self, app: FastAPI, authority: TimestampAuthority) -> bool:
        """One pass of the background task."""
        sessions, signers = app.state.sessionmaker, app.state.signers
        waiting = await sign_what_is_new(sessions, signers, stamps=True)
        if waiting is None:
            return False
        await stamp(sessions, authority, app.state.http, waiting)
        return True

    async def test_commitment_and_verdict_are_stamped_and_the_bundle_carries_it(
        self,
        app: FastAPI,
        owner: Account,
        key: dict[str, Any],
        audited: Audited,
        database: Engine,
    ) -> None:
        with serving(Authority()) as served:
            authority = TimestampAuthority(url=served.url, roots=(served.authority.root,))
            assert await self.stamped(app, authority)
            assert not await self.stamped(app, authority)
            await asyncio.sleep(1.1)  # a stamp has whole seconds, and must be older than the training
            await trained(owner, key, database, "ft:ours")
            name = await audited(model="ft:ours")
            assert await self.stamped(app, authority)
        files = await fetched(owner, name)
        both = compare(files, await trust_of(owner, served.authority.pem))
        assert {step.status.value for step in both.published} == {"passed"}
        assert both.exit_status == 0
        assert Publication.from_bytes(files[LOG]).authority == served.url
        with Session(database) as session:
            assert len(session.scalars(select(LogTimestamp)).all()) == 2

    async def test_a_stamp_that_came_too_late_is_left_out_and_said_to_be(
        self, app: FastAPI, owner: Account, key: dict[str, Any], audited: Audited
    ) -> None:
        name = await audited()
        with serving(Authority()) as served:
            await self.stamped(app, TimestampAuthority(url=served.url, roots=(served.authority.root,)))
        files = await fetched(owner, name)
        assert (files[COMMITMENT_STAMP], bool(files[VERDICT_STAMP])) == (b"", True)
        both = compare(files, await trust_of(owner, served.authority.pem))
        statuses = {step.name: step.status.value for step in both.published}
        assert (statuses["commitment stamp"], statuses["verdict stamp"]) == ("not_checked", "passed")
        assert both.exit_status == 0

    @pytest.mark.parametrize("answer", [b"", b"no", REFUSAL])
    async def test_what_is_no_stamp_is_not_kept(
        self, app: FastAPI, key: dict[str, Any], database: Engine, answer: bytes
    ) -> None:
        with serving(Authority()) as served:
            served.answer = answer
            authority = TimestampAuthority(url=served.url, roots=(served.authority.root,))
            with pytest.raises(TimestampInvalid):
                await self.stamped(app, authority)
        with Session(database) as session:
            assert session.scalars(select(LogTimestamp)).all() == []

    async def test_a_strangers_or_a_replayed_stamp_is_not_kept(
        self, app: FastAPI, key: dict[str, Any], database: Engine
    ) -> None:
        with serving(Authority()) as served:
            stranger = TimestampAuthority(url=served.url, roots=(Authority().root,))
            with pytest.raises(TimestampInvalid, match="authority that you trust"):
                await self.stamped(app, stranger)
            authority = TimestampAuthority(url=served.url, roots=(served.authority.root,))
            waiting = await sign_what_is_new(app.state.sessionmaker, app.state.signers, stamps=True)
            assert waiting is not None
            served.answer = served.authority.stamp(waiting.text, datetime.now(UTC))
            with pytest.raises(TimestampInvalid):
                await self.stamped(app, authority)
        with Session(database) as session:
            assert session.scalars(select(LogTimestamp)).all() == []

    async def test_without_an_authority_checkpoints_are_signed_and_nobody_is_asked(
        self, app: FastAPI, key: dict[str, Any], database: Engine
    ) -> None:
        sessions, signers = app.state.sessionmaker, app.state.signers
        assert await sign_what_is_new(sessions, signers, stamps=False) is None
        with database.connect() as connection:
            sizes = connection.execute(text("SELECT size FROM log_checkpoints")).scalars().all()
        assert sizes == [2]
