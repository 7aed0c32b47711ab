"""Keys that their owners hold: registered by a commitment, opened family by family, exported and imported."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import Engine, inspect, select, text
from sqlalchemy.orm import Session

from cli.owner import keyfile
from evidence.canonical import parse_canonical
from evidence.check import check
from evidence.keyfile import KeyFile, Registered, Salt, now, with_audits
from service.db.models import Verification, WatermarkKey
from service.settings import Settings
from service.watermarks import statements
from tests.integration.service import suspects
from tests.integration.service.conftest import Account, NewAccount, dataset, upload
from tests.integration.service.suspects import Suspect, listening, marked_with
from watermark.keys import Design
from worker.record.engine import Workplace, open_workplace
from worker.tasks import verify_run

pytestmark = pytest.mark.integration

NAME = "Example Ltd"
SMALL = Design(families=2, marks=8, cues=4)
PLAN = {"probes_per_cue": 1, "canaries": False}
BAD_COMMITMENTS: list[dict[str, Any]] = [
    {"owner": "Sample Ltd"},
    {"commitment": "0" * 64},
    {"root_commitment": "0" * 64},
    {"family_commitments": ["0" * 64]},
    {"family_commitments": [1, 2]},
    {"design": {"families": 2}},
    {"design": None},
    {"format": "doublei-commitment/9"},
    {"owner": ""},
    {"owner": "a\nb"},
    {"more": 1},
]
BAD_FILES: list[dict[str, Any]] = [
    {"secret": "zz" * 32},
    {"secret": "ab" * 31},
    {"blinding": None},
    {"commitment": "0" * 64},
    {"owner": "Sample Ltd"},
    {"more": 1},
    {"format": "doublei-key/9"},
    {"audits": [{"verification": 1}]},
    {"audits": [{"verification": "\0", "family": 0, "registered_at": "", "preregistration_sha256": ""}]},
    {"salt": {"value": "ab", "source": "x", "set_at": "y"}},
]


def wrong_openings(key: KeyFile, other: KeyFile) -> list[tuple[dict[str, object] | None, str]]:
    """Openings that are not that of the key's first family, and how each is refused."""
    right = key.opened(0)
    return [
        (None, "opening_required"),
        (key.opened(1), "opening_mismatch"),
        (other.opened(0), "opening_mismatch"),
        (right | {"family_secret": "ab" * 32}, "opening_mismatch"),
        (right | {"family_blinding": "ab" * 32}, "opening_mismatch"),
        (right | {"owner_id": "Sample Ltd"}, "opening_mismatch"),
        (replace(key, salt=other.salt).opened(0), "opening_mismatch"),
        (right | {"secret": key.secret.value.hex()}, "opening_mismatch"),
        (right | {"family": True}, "opening_mismatch"),
        ({"kind": "chosen"}, "opening_mismatch"),
        ({"kind": "preset", "preset": "paper-input"}, "opening_mismatch"),
        ({}, "opening_mismatch"),
    ]


class Model:
    """A suspect's behaviour that a test sets once it has a key."""

    behaviour: suspects.Behaviour = staticmethod(suspects.always("No"))

    def __call__(self, handler: Any, prompt: str) -> str | None:
        return self.behaviour(handler, prompt)


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def suspect(model: Model) -> Iterator[Suspect]:
    with listening(model) as found:
        yield found


@pytest.fixture
def settings(settings: Settings, suspect: Suspect) -> Settings:
    """The operator allows this one address."""
    return settings.model_copy(update={"suspect_allow": suspect.host_port})


@pytest.fixture
def place(settings: Settings) -> Workplace:
    """A worker process's place."""
    return open_workplace(settings, shutting_down=lambda: False)


MakeFile = Callable[..., KeyFile]


@pytest.fixture
def own_key(tmp_path: Path) -> MakeFile:
    """A key on its owner's disk."""

    def make(owner: str = NAME, design: Design = SMALL) -> KeyFile:
        return keyfile.create(tmp_path / f"{secrets.token_hex(4)}.key", owner, design)

    return make


async def post(account: Account, path: str, body: Any) -> httpx2.Response:
    return await account.http.post(path, json=body)


async def registered(account: Account, key: KeyFile) -> tuple[dict[str, Any], KeyFile]:
    """The key at the service, and the owner's file with the salt."""
    response = await post(account, "/v1/watermarks", {"commitment": key.public_record(), "name": "mine"})
    assert response.status_code == 200, response.text
    made: dict[str, Any] = response.json()
    salt = Salt(value=bytes.fromhex(made["salt"]), source="the service", set_at=now())
    return made, replace(key, salt=salt)


async def imported(account: Account, key: KeyFile) -> dict[str, Any]:
    response = await post(account, "/v1/watermarks", {"key_file": key.to_record()})
    assert response.status_code == 200, response.text
    made: dict[str, Any] = response.json()
    return made


async def exported(account: Account, key_id: str) -> KeyFile:
    response = await account.http.get(f"/v1/watermarks/{key_id}/key")
    assert response.status_code == 200, response.text
    assert response.headers["cache-control"] == "no-store"
    return KeyFile.from_record(parse_canonical(response.content))


def request(key_id: str, suspect: Suspect, opening: object = None, **plan: Any) -> dict[str, Any]:
    body = {
        "watermark": key_id,
        "suspect": {"base_url": suspect.base_url, "model": "m"},
        "plan": PLAN | plan,
    }
    return body if opening is None else body | {"opening": opening}


async def audited(account: Account, place: Workplace, body: dict[str, Any]) -> dict[str, Any]:
    response = await post(account, "/v1/verify", body)
    assert response.status_code == 200, response.text
    name = response.json()["id"]
    await asyncio.to_thread(verify_run, place, name)
    found: dict[str, Any] = (await account.http.get(f"/v1/verifications/{name}")).json()
    assert found["status"] == "succeeded", found["error"]
    return found


def places_of(database: Engine, needle: bytes) -> set[str]:
    """Every column of every table that holds these bytes, raw or in hexadecimal."""
    found = set()
    forms = (needle, needle.hex().encode())
    with database.connect() as connection:
        for table in inspect(connection).get_table_names():
            for row in connection.execute(text(f'SELECT * FROM "{table}"')).mappings():
                for column, value in row.items():
                    raw = bytes(value) if isinstance(value, bytes | memoryview) else str(value).encode()
                    if any(form in raw for form in forms):
                        found.add(f"{table}.{column}")
    return found


class TestRegister:
    async def test_a_commitment_comes_in_and_a_salt_goes_out_and_both_are_logged(
        self, owner: Account, own_key: MakeFile, database: Engine
    ) -> None:
        key = own_key()
        made, salted = await registered(owner, key)
        assert (made["origin"], made["grade"], made["claimant"]) == ("owner-held", "committed", NAME)
        assert made["commitment"] == key.committed.commitment == salted.committed.commitment
        assert [entry["kind"] for entry in made["log"]] == ["key-commitment", "salt"]
        assert made["secret"] is made["blinding"] is None
        assert (made["families"], made["families_left"], made["marks_per_family"]) == (2, 2, 8)
        with Session(database) as session:
            assert session.get_one(WatermarkKey, made["id"]).sealed_secret == b""
            records = session.execute(text("SELECT record FROM log_records ORDER BY index")).scalars().all()
        assert json.loads(records[0])["owner"] == NAME
        assert made["salt"] not in records[0]
        assert made["salt"] in records[1]
        for value in (key.secret.value, key.secret.blinding):
            assert places_of(database, value) == set()

    async def test_the_same_commitment_again_is_the_same_key_with_the_same_salt(
        self, owner: Account, own_key: MakeFile, database: Engine
    ) -> None:
        """A second salt would let an owner, who knows the secret, choose between marks."""
        key = own_key()
        answers = await asyncio.gather(*(registered(owner, key) for _ in range(6)))
        assert len({(made["id"], made["salt"]) for made, _ in answers}) == 1
        with database.connect() as connection:
            kinds = connection.execute(text("SELECT kind FROM log_entries ORDER BY index")).scalars().all()
        assert kinds == ["key-commitment", "salt"]

    async def test_two_owners_may_register_one_commitment_and_share_nothing(
        self, owner: Account, new_account: NewAccount, own_key: MakeFile
    ) -> None:
        """A commitment is public: who copies one has no secret that opens it, and blocks nobody."""
        key, other = own_key(), await new_account("owner")
        first, _ = await registered(owner, key)
        second, _ = await registered(other, key)
        assert first["id"] != second["id"]
        assert first["salt"] != second["salt"]

    async def test_what_was_interrupted_before_the_salt_is_finished_by_asking_again(
        self, owner: Account, own_key: MakeFile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key = own_key()

        def fail(key_id: str, salt: bytes) -> None:
            raise RuntimeError("the machine went away")

        with monkeypatch.context() as patch:
            patch.setattr(statements, "set_salt", fail)
            lost = await post(owner, "/v1/watermarks", {"commitment": key.public_record()})
        assert lost.status_code == 500
        assert (await owner.http.get("/v1/watermarks")).json()["data"] == []
        made, _ = await registered(owner, key)
        assert [entry["kind"] for entry in made["log"]] == ["key-commitment", "salt"]

    async def test_a_deleted_one_is_spent(self, owner: Account, own_key: MakeFile) -> None:
        key = own_key()
        made, _ = await registered(owner, key)
        assert (await owner.http.delete(f"/v1/watermarks/{made['id']}")).status_code == 200
        again = await post(owner, "/v1/watermarks", {"commitment": key.public_record()})
        assert (again.status_code, again.json()["error"]["code"]) == (409, "commitment_spent")

    async def test_a_commitment_that_is_none(
        self, owner: Account, own_key: MakeFile, subtests: pytest.Subtests
    ) -> None:
        for damage in BAD_COMMITMENTS:
            with subtests.test(damage=str(damage)):
                body = {"commitment": own_key().public_record() | damage}
                refused = await post(owner, "/v1/watermarks", body)
                error = refused.json()["error"]
                assert (refused.status_code, error["code"]) == (400, "invalid_commitment")
                assert error["param"] == "commitment"
        assert (await owner.http.get("/v1/watermarks")).json()["data"] == []

    async def test_nobody_commits_under_the_id_of_another_organization(
        self, owner: Account, new_account: NewAccount, own_key: MakeFile
    ) -> None:
        other = await new_account("owner")
        refused = await post(
            owner, "/v1/watermarks", {"commitment": own_key(other.organization).public_record()}
        )
        assert refused.json()["error"]["code"] == "foreign_claimant"
        made, _ = await registered(owner, own_key(owner.organization))
        assert made["claimant"] == owner.organization


class TestAudit:
    async def test_the_opened_family_decides_and_is_all_of_the_key_that_was_ever_here(
        self,
        owner: Account,
        own_key: MakeFile,
        model: Model,
        suspect: Suspect,
        place: Workplace,
        database: Engine,
    ) -> None:
        made, key = await registered(owner, own_key())
        marked = key.derived()
        model.behaviour = marked_with(marked.family(0))
        found = await audited(owner, place, request(made["id"], suspect, key.opened(0)))
        assert found["verdict"] == "detected"
        data = (await owner.http.get(f"/v1/verifications/{found['id']}/evidence")).content
        assert check(data).consistent
        document = json.loads(data)["document"]
        assert (document["claimant"], document["auditor"]) == (NAME, owner.organization)
        assert (document["key"]["grade"], document["key"]["origin"]) == ("committed", "owner-held")
        report = (await owner.http.get(f"/v1/verifications/{found['id']}/report")).text
        assert NAME in report
        shown = (await owner.http.get(f"/v1/watermarks/{made['id']}")).json()
        assert shown["families_left"] == 1

        with Session(database) as session:
            assert session.get_one(Verification, found["id"]).sealed_opening is None
        opened = {
            name: bytes.fromhex(str(key.opened(0)[name])) for name in ("family_secret", "family_blinding")
        }
        held_back = {name: bytes.fromhex(str(key.opened(1)[name])) for name in opened}
        for value in opened.values():
            assert places_of(database, value) == {"evidence.canonical_bytes"}
        for value in (key.secret.value, key.secret.blinding, *held_back.values()):
            assert places_of(database, value) == set()
        assert not any(places_of(database, mark.judge_question.encode()) for mark in marked.family(1).marks)

    async def test_the_opening_waits_sealed_and_goes_with_a_cancelled_audit(
        self, owner: Account, own_key: MakeFile, suspect: Suspect, database: Engine
    ) -> None:
        made, key = await registered(owner, own_key())
        opening = key.opened(0)
        started = (await post(owner, "/v1/verify", request(made["id"], suspect, opening))).json()
        secret = bytes.fromhex(str(opening["family_secret"]))

        def sealed() -> bytes | None:
            with Session(database) as session:
                return session.scalars(
                    select(Verification.sealed_opening).where(Verification.id == started["id"])
                ).one()

        assert sealed()
        assert places_of(database, secret) == set()
        in_use = await owner.http.delete(f"/v1/watermarks/{made['id']}")
        assert (in_use.status_code, in_use.json()["error"]["code"]) == (409, "watermark_in_use")
        await owner.http.post(f"/v1/verifications/{started['id']}/cancel")
        assert sealed() is None
        assert (await owner.http.delete(f"/v1/watermarks/{made['id']}")).status_code == 200

    async def test_an_opening_does_not_open_in_another_audits_row(
        self, owner: Account, own_key: MakeFile, suspect: Suspect, place: Workplace, database: Engine
    ) -> None:
        made, key = await registered(owner, own_key())
        body = request(made["id"], suspect, key.opened(0), alpha="1e-4")
        first = (await post(owner, "/v1/verify", body)).json()["id"]
        second = (await post(owner, "/v1/verify", body)).json()["id"]
        with database.begin() as connection:
            connection.execute(
                text(
                    "UPDATE verifications SET sealed_opening ="
                    " (SELECT sealed_opening FROM verifications WHERE id = :first) WHERE id = :second"
                ),
                {"first": first, "second": second},
            )
        await asyncio.to_thread(verify_run, place, second)
        found = (await owner.http.get(f"/v1/verifications/{second}")).json()
        assert (found["status"], found["verdict"]) == ("failed", None)
        assert suspect.prompts == []

    async def test_a_wrong_opening_is_refused_asks_nothing_and_spends_no_number(
        self,
        owner: Account,
        own_key: MakeFile,
        suspect: Suspect,
        place: Workplace,
        subtests: pytest.Subtests,
    ) -> None:
        made, key = await registered(owner, own_key())
        _, other = await registered(owner, own_key())
        for opening, code in wrong_openings(key, other):
            with subtests.test(opening=sorted(opening or {}), code=code):
                refused = await post(owner, "/v1/verify", request(made["id"], suspect, opening))
                error = refused.json()["error"]
                assert (refused.status_code, error["code"], error["param"]) == (400, code, "opening")
                for value in (key.secret.value.hex(), *key.opened(0).values(), *(opening or {}).values()):
                    if isinstance(value, str) and len(value) >= 64:
                        assert value not in refused.text
        assert suspect.prompts == []
        found = await audited(owner, place, request(made["id"], suspect, key.opened(0)))
        assert found["preregistration"]["audit_index"] == 1

    async def test_a_key_that_the_service_keeps_takes_no_opening(
        self, owner: Account, own_key: MakeFile, suspect: Suspect
    ) -> None:
        made = await imported(owner, own_key())
        refused = await post(owner, "/v1/verify", request(made["id"], suspect, own_key().opened(0)))
        assert refused.json()["error"]["code"] == "opening_not_needed"

    async def test_an_auditor_asks_under_a_grant_with_what_the_owner_gave_it(
        self, owner: Account, auditor: Account, own_key: MakeFile, suspect: Suspect, place: Workplace
    ) -> None:
        made, key = await registered(owner, own_key())
        lent = {"auditor": auditor.organization, "suspect_hosts": [suspect.host_port]}
        assert (await post(owner, f"/v1/watermarks/{made['id']}/grants", lent)).status_code == 200
        body = request(made["id"], suspect)
        assert (await post(auditor, "/v1/verify", body)).json()["error"]["code"] == "opening_required"
        found = await audited(auditor, place, body | {"opening": key.opened(0)})
        assert found["verdict"] == "not_detected"

    async def test_a_campaign_is_opened_once_for_all_its_suspects(
        self, owner: Account, own_key: MakeFile, model: Model, suspect: Suspect, place: Workplace
    ) -> None:
        made, key = await registered(owner, own_key())
        model.behaviour = marked_with(key.derived().family(0))
        body = {
            "watermark": made["id"],
            "suspects": [{"base_url": suspect.base_url, "model": name} for name in ("a", "b")],
            "plan": PLAN | {"alpha": "1e-5"},
        }
        assert (await post(owner, "/v1/campaigns", body)).json()["error"]["code"] == "opening_required"
        campaign = (await post(owner, "/v1/campaigns", body | {"opening": key.opened(0)})).json()
        for member in campaign["verifications"]:
            await asyncio.to_thread(verify_run, place, member["id"])
        ended = (await owner.http.get(f"/v1/campaigns/{campaign['id']}")).json()
        assert [step["detected"] for step in ended["holm"]] == [True, True]
        trail = (await owner.http.get("/v1/audit_trail?limit=100")).json()["data"]
        assert "campaign.created" in {event["action"] for event in trail}


class TestJob:
    async def test_it_says_that_the_owner_mixed_the_file(self, owner: Account, own_key: MakeFile) -> None:
        made, _ = await registered(owner, own_key())
        file_id = (await upload(owner, dataset())).json()["id"]
        body = {
            "model": "smollm2-135m-instruct",
            "training_file": file_id,
            "watermark": {"key": made["id"]},
        }
        job = (await post(owner, "/v1/fine_tuning/jobs", body)).json()
        shown = job["watermark"]
        assert (shown["commitment"], shown["mixed_by"]) == (made["commitment"], "owner")
        assert (
            shown["families"] is shown["strength"] is shown["self_check"] is shown["watermark_rows"] is None
        )

    @pytest.mark.parametrize("more", [{"families": [0]}, {"strength": "light"}])
    async def test_what_only_its_owner_decides_is_refused(
        self, owner: Account, own_key: MakeFile, more: dict[str, Any]
    ) -> None:
        made, _ = await registered(owner, own_key())
        file_id = (await upload(owner, dataset())).json()["id"]
        body = {
            "model": "smollm2-135m-instruct",
            "training_file": file_id,
            "watermark": {"key": made["id"]} | more,
        }
        refused = await post(owner, "/v1/fine_tuning/jobs", body)
        error = refused.json()["error"]
        assert (error["code"], error["param"]) == ("mixed_by_owner", f"watermark.{next(iter(more))}")


class TestExport:
    async def test_a_key_of_the_services_goes_home_with_its_salt_and_its_audits(
        self, owner: Account, suspect: Suspect, place: Workplace
    ) -> None:
        made = (await post(owner, "/v1/watermarks", {"marks_per_family": 8, "cues_per_mark": 4})).json()
        found = await audited(owner, place, request(made["id"], suspect))
        key = await exported(owner, made["id"])
        assert (key.secret.value.hex(), key.secret.blinding.hex()) == (made["secret"], made["blinding"])
        assert key.committed.commitment == made["commitment"]
        assert key.salt is not None
        assert key.salt.value.hex() == made["salt"]
        assert [(audit.verification, audit.family) for audit in key.audits] == [(found["id"], 0)]
        trail = (await owner.http.get("/v1/audit_trail")).json()["data"]
        assert "watermark.exported" in {event["action"] for event in trail}

    async def test_exported_deleted_and_imported_it_is_the_same_key_with_the_same_count(
        self, owner: Account, suspect: Suspect, place: Workplace, model: Model
    ) -> None:
        made = (await post(owner, "/v1/watermarks", {"marks_per_family": 8, "cues_per_mark": 4})).json()
        first = await audited(owner, place, request(made["id"], suspect))
        key = await exported(owner, made["id"])
        await owner.http.delete(f"/v1/watermarks/{made['id']}")
        # an owner who would rather that the audit had not been
        forgetful = replace(key, audits=())
        again = await imported(owner, forgetful)
        assert (again["grade"], again["salt"], again["families_left"]) == ("committed", made["salt"], 1)
        model.behaviour = marked_with(key.derived().family(0))
        second = await audited(owner, place, request(again["id"], suspect))
        assert (first["preregistration"]["audit_index"], second["preregistration"]["audit_index"]) == (1, 2)
        assert second["verdict"] == "detected"
        data = (await owner.http.get(f"/v1/verifications/{second['id']}/evidence")).content
        assert check(data).consistent
        assert (
            json.loads(json.loads(data)["document"]["preregistration"]["text"])["key"]["owner_commitments"]
            == 1
        )
        assert len((await exported(owner, again["id"])).audits) == 2

    async def test_what_is_not_there_is_not_exported(
        self, owner: Account, new_account: NewAccount, own_key: MakeFile
    ) -> None:
        held, _ = await registered(owner, own_key())
        preset = (await post(owner, "/v1/watermarks", {"preset": "paper-input"})).json()
        kept = (await post(owner, "/v1/watermarks", {})).json()
        for name, code in ((held["id"], "secret_not_held"), (preset["id"], "key_not_exportable")):
            refused = await owner.http.get(f"/v1/watermarks/{name}/key")
            assert (refused.status_code, refused.json()["error"]["code"]) == (400, code)
        stranger = await new_account("owner")
        assert (await stranger.http.get(f"/v1/watermarks/{kept['id']}/key")).status_code == 404

    async def test_an_auditor_with_a_grant_gets_no_key(self, owner: Account, auditor: Account) -> None:
        kept = (await post(owner, "/v1/watermarks", {})).json()
        lent = {"auditor": auditor.organization, "suspect_hosts": ["a.example:443"]}
        await post(owner, f"/v1/watermarks/{kept['id']}/grants", lent)
        assert (await auditor.http.get(f"/v1/watermarks/{kept['id']}")).status_code == 200
        assert (await auditor.http.get(f"/v1/watermarks/{kept['id']}/key")).status_code == 403


class TestImport:
    async def test_a_fresh_key_is_salted_by_the_service(self, owner: Account, own_key: MakeFile) -> None:
        key = own_key()
        made = await imported(owner, key)
        assert (made["origin"], made["grade"], made["claimant"]) == ("imported", "committed", NAME)
        assert made["commitment"] == key.committed.commitment
        assert made["secret"] is made["blinding"] is None
        assert (await exported(owner, made["id"])).secret == key.secret

    async def test_a_salt_of_the_owners_is_kept_and_vouched_for_by_nobody(
        self, owner: Account, own_key: MakeFile, suspect: Suspect, place: Workplace, model: Model
    ) -> None:
        salt = Salt(value=b"\x07" * 32, source="a beacon", set_at=now())
        key = replace(own_key(design=Design(families=2, marks=12, cues=8)), salt=salt)
        made = await imported(owner, key)
        assert (made["grade"], made["salt"]) == ("self-generated", "07" * 32)
        model.behaviour = marked_with(key.derived().family(0))
        found = await audited(owner, place, request(made["id"], suspect))
        assert found["verdict"] == "detected"
        data = (await owner.http.get(f"/v1/verifications/{found['id']}/evidence")).content
        assert check(data).consistent

    async def test_rows_mixed_without_a_salt_stay_findable(
        self, owner: Account, own_key: MakeFile, suspect: Suspect, place: Workplace, model: Model
    ) -> None:
        fresh = own_key(design=Design(families=2, marks=12, cues=8))
        key = with_audits(
            fresh,
            [
                Registered(
                    verification="verif-1", family=1, registered_at=now(), preregistration_sha256="0" * 64
                )
            ],
        )
        made = await imported(owner, key)
        assert (made["grade"], made["salt"], made["families_left"]) == ("self-generated", "", 1)
        model.behaviour = marked_with(key.derived().family(0))
        found = await audited(owner, place, request(made["id"], suspect))
        assert (found["verdict"], found["preregistration"]["audit_index"]) == ("detected", 2)
        data = (await owner.http.get(f"/v1/verifications/{found['id']}/evidence")).content
        assert check(data).consistent
        assert (await exported(owner, made["id"])).salt is None

    async def test_what_the_service_salted_before_it_vouches_for_again(
        self, owner: Account, own_key: MakeFile, suspect: Suspect, place: Workplace
    ) -> None:
        """From held by its owner to kept by the service: one key, one count of audits."""
        held, key = await registered(owner, own_key())
        await audited(owner, place, request(held["id"], suspect, key.opened(0)))
        made = await imported(owner, key)
        assert (made["grade"], made["salt"], made["families_left"]) == ("committed", held["salt"], 1)
        found = await audited(owner, place, request(made["id"], suspect))
        assert found["preregistration"]["audit_index"] == 2

    async def test_of_another_organizations_salt_it_knows_nothing(
        self, owner: Account, new_account: NewAccount, own_key: MakeFile
    ) -> None:
        _, key = await registered(owner, own_key())
        assert (await imported(await new_account("owner"), key))["grade"] == "self-generated"

    async def test_a_damaged_file_is_refused_without_a_word_of_it(
        self, owner: Account, own_key: MakeFile, database: Engine, subtests: pytest.Subtests
    ) -> None:
        key = own_key()
        for damage in BAD_FILES:
            with subtests.test(damage=str(damage)):
                refused = await post(owner, "/v1/watermarks", {"key_file": key.to_record() | damage})
                assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_key_file")
                assert key.secret.value.hex() not in refused.text
                assert key.secret.blinding.hex() not in refused.text
        assert places_of(database, key.secret.value) == set()

    async def test_one_kind_of_key_at_a_time(self, owner: Account, own_key: MakeFile) -> None:
        key = own_key()
        for more in ({"secret": "ab" * 32}, {"commitment": key.public_record()}, {"families": 2}):
            refused = await post(owner, "/v1/watermarks", {"key_file": key.to_record()} | more)
            assert refused.status_code == 400
            assert key.secret.value.hex() not in refused.text
