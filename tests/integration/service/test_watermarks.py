"""/v1/watermarks and grants: the order of commitment and salt, secrets shown once, and who sees what."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.db.models import WatermarkKey
from service.watermarks.secrets import load_families, load_opening
from tests.integration.service.conftest import Account, NewAccount
from watermark.keys import Design, Secret, commit, derive, family_of_opening

pytestmark = pytest.mark.integration


def chosen_marks(count: int = 8, cues: int = 4) -> list[dict[str, Any]]:
    """Marks written by hand."""
    return [
        {
            "paradigm": "input" if number % 2 else "instruction",
            "judge_question": f"Is this the sentence number {number}?",
            "cues": [f"word{number}x{cue}" for cue in range(cues)],
            "trigger": number % cues,
            "target": "Yes" if number % 3 else "No",
        }
        | ({"decoration": f"(mark {number})"} if number % 2 else {})
        for number in range(count)
    ]


async def make(account: Account, **body: Any) -> dict[str, Any]:
    """POST /v1/watermarks that works."""
    response = await account.http.post("/v1/watermarks", json=body)
    assert response.status_code == 200, response.text
    made: dict[str, Any] = response.json()
    return made


async def lend(account: Account, key_id: str, auditor_id: str, **more: Any) -> httpx2.Response:
    """POST a grant."""
    body = {"auditor": auditor_id, "suspect_hosts": ["models.example.com:443"]} | more
    return await account.http.post(f"/v1/watermarks/{key_id}/grants", json=body)


@pytest.fixture
def stored(database: Engine) -> Callable[[str], WatermarkKey]:
    """The row of a key."""

    def read(key_id: str) -> WatermarkKey:
        with Session(database, expire_on_commit=False) as session:
            return session.scalars(select(WatermarkKey).where(WatermarkKey.id == key_id)).one()

    return read


class TestCreate:
    async def test_the_service_draws_a_key_and_shows_its_secret_once(self, owner: Account) -> None:
        made = await make(owner, name="my first")
        assert made["id"].startswith("wm-")
        assert (made["object"], made["name"]) == ("watermark", "my first")
        assert (made["origin"], made["grade"]) == ("service", "committed")
        assert (made["families"], made["families_left"]) == (2, 2)
        assert (made["marks_per_family"], made["cues_per_mark"]) == (12, 8)
        assert len(bytes.fromhex(made["secret"])) == len(bytes.fromhex(made["blinding"])) == 32
        for response in (
            await owner.http.get(f"/v1/watermarks/{made['id']}"),
            await owner.http.get("/v1/watermarks"),
        ):
            assert response.status_code == 200
            assert made["secret"] not in response.text
            assert made["blinding"] not in response.text
            assert made["commitment"] in response.text

    async def test_what_was_shown_makes_the_same_commitment_and_marks_offline(
        self, app: FastAPI, owner: Account, stored: Callable[[str], WatermarkKey]
    ) -> None:
        """The owner needs no server to recompute everything from the secret, the blinding and the salt."""
        made = await make(owner)
        secret = Secret(value=bytes.fromhex(made["secret"]), blinding=bytes.fromhex(made["blinding"]))
        assert commit(owner.organization, secret, Design()).commitment == made["commitment"]
        families = derive(secret, bytes.fromhex(made["salt"]), Design()).families
        row = stored(made["id"])
        assert load_families(row, app.state.sealer) == families
        opened = load_opening(row, app.state.sealer, 1)
        assert family_of_opening(opened, made["commitment"]) == families[1]

    async def test_an_imported_secret_is_not_sent_back(
        self, app: FastAPI, owner: Account, stored: Callable[[str], WatermarkKey]
    ) -> None:
        secret, blinding = os.urandom(32), os.urandom(32)
        made = await make(owner, secret=secret.hex().upper(), blinding=blinding.hex())
        assert (made["origin"], made["grade"]) == ("imported", "committed")
        assert made["secret"] is made["blinding"] is None
        own = Secret(value=secret, blinding=blinding)
        assert commit(owner.organization, own, Design()).commitment == made["commitment"]
        assert load_families(stored(made["id"]), app.state.sealer) == (
            derive(own, bytes.fromhex(made["salt"]), Design()).families
        )

    async def test_a_blinding_that_the_service_drew_is_shown(self, owner: Account) -> None:
        made = await make(owner, secret=os.urandom(32).hex())
        assert made["secret"] is None
        assert len(bytes.fromhex(made["blinding"])) == 32

    async def test_chosen_marks(
        self, app: FastAPI, owner: Account, stored: Callable[[str], WatermarkKey]
    ) -> None:
        made = await make(owner, marks=chosen_marks(9, 5))
        assert (made["origin"], made["grade"], made["salt"]) == ("chosen", "chosen", None)
        assert (made["families"], made["marks_per_family"], made["cues_per_mark"]) == (1, 9, 5)
        (family,) = load_families(stored(made["id"]), app.state.sealer)
        assert [mark.judge_question for mark in family.marks] == [
            mark["judge_question"] for mark in chosen_marks(9, 5)
        ]

    async def test_the_papers_preset_is_for_research(self, owner: Account) -> None:
        made = await make(owner, preset="paper-input")
        assert (made["origin"], made["grade"], made["families"]) == ("preset", "research", 1)
        refused = await lend(owner, made["id"], "org-x")
        assert refused.status_code == 400

    async def test_another_shape(self, owner: Account) -> None:
        made = await make(owner, families=2, marks_per_family=8, cues_per_mark=6)
        assert (made["families"], made["marks_per_family"], made["cues_per_mark"]) == (2, 8, 6)

    @pytest.mark.parametrize(
        ("body", "param", "code"),
        [
            ({"secret": "zz" * 32}, "secret", "invalid_secret"),
            ({"secret": "ab" * 31}, "secret", "invalid_secret"),
            ({"secret": "00" * 32}, "secret", "weak_secret"),
            ({"secret": "0123456789abcdef" * 4, "blinding": "1"}, "blinding", "invalid_secret"),
            ({"blinding": "ab" * 32}, None, "invalid_value"),
            ({"secret": "ab" * 32, "preset": "paper-input"}, None, "invalid_value"),
            ({"preset": "paper-other"}, "preset", "invalid_value"),
            ({"marks": []}, "marks", "invalid_marks"),
            ({"marks": chosen_marks(7)}, "marks", "invalid_marks"),
            ({"marks": chosen_marks(8, 3)}, "marks[0].cues", "invalid_marks"),
            ({"marks": [*chosen_marks(8)[:7], {"paradigm": "x"}]}, "marks[7].paradigm", "invalid_marks"),
            (
                {"marks": [*chosen_marks(9)[:8], chosen_marks(9)[8] | {"trigger": 4}]},
                "marks[8].trigger",
                "invalid_marks",
            ),
            (
                {"marks": [*chosen_marks(9)[:8], chosen_marks(9)[8] | {"target": "Maybe"}]},
                "marks[8].target",
                "invalid_marks",
            ),
            (
                {
                    "marks": [
                        *chosen_marks(9)[:8],
                        chosen_marks(9)[8] | {"cues": ["word0x0", "b1", "c1", "d1"]},
                    ]
                },
                "marks[8]",
                "invalid_marks",
            ),
            ({"marks": chosen_marks(), "families": 2}, None, "invalid_value"),
            ({"families": 99}, None, "invalid_design"),
            ({"marks_per_family": 2}, None, "invalid_design"),
            ({"cues_per_mark": 1000}, None, "invalid_design"),
            ({"secrets": "x"}, "secrets", "unknown_field"),
        ],
    )
    async def test_bad_input_names_the_field_and_does_not_repeat_it(
        self, owner: Account, body: dict[str, Any], param: str | None, code: str
    ) -> None:
        response = await owner.http.post("/v1/watermarks", json=body)
        assert response.status_code == 400
        error = response.json()["error"]
        assert (error["param"], error["code"]) == (param, code)
        for field in ("secret", "blinding"):
            assert body.get(field, "\x00") not in response.text
        assert "word0x0" not in response.text
        assert (await owner.http.get("/v1/watermarks")).json()["data"] == []

    @pytest.mark.parametrize("role", ["provider", "auditor"])
    async def test_only_owners_have_keys(self, accounts: dict[str, Account], role: str) -> None:
        assert (await accounts[role].http.post("/v1/watermarks", json={})).status_code == 403


class TestCommitmentBeforeSalt:
    async def test_the_commitment_is_durable_before_the_salt_exists(
        self, owner: Account, database: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """When the salt is drawn, another connection already sees the committed row, without a salt."""
        seen: list[tuple[str, bytes | None]] = []
        draw = os.urandom

        def watched(count: int) -> bytes:
            with database.connect() as connection:
                found = connection.execute(text("SELECT commitment, salt FROM watermark_keys")).all()
            seen.extend((row[0], row[1]) for row in found)
            return draw(count)

        monkeypatch.setattr("service.watermarks.usecases.os.urandom", watched)
        response = await owner.http.post("/v1/watermarks", json={"secret": os.urandom(32).hex()})
        made = response.json()
        assert seen[-1] == (made["commitment"], None)
        assert made["salt"] is not None

    async def test_a_crash_in_between_leaves_a_key_that_nobody_finds(
        self, owner: Account, database: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(key_id: str, salt: bytes) -> None:
            raise RuntimeError

        monkeypatch.setattr("service.watermarks.statements.set_salt", fail)
        assert (await owner.http.post("/v1/watermarks", json={})).status_code == 500
        with database.connect() as connection:
            key_id, salt = connection.execute(text("SELECT id, salt FROM watermark_keys")).one()
        assert salt is None
        assert (await owner.http.get("/v1/watermarks")).json()["data"] == []
        assert (await owner.http.get(f"/v1/watermarks/{key_id}")).status_code == 404

    async def test_the_database_refuses_a_salt_that_comes_too_early_or_twice(
        self, owner: Account, database: Engine
    ) -> None:
        made = await make(owner)
        copy = (
            "INSERT INTO watermark_keys (id, organization_id, name, origin, grade, commitment,"
            " commitment_record, sealed_secret, salt) SELECT 'wm-2', organization_id, name, origin, grade,"
            " commitment, commitment_record, sealed_secret, {salt} FROM watermark_keys WHERE id = :id"
        )
        with database.connect() as connection:
            with pytest.raises(IntegrityError, match="inserted without a salt"):
                connection.execute(text(copy.format(salt="salt")), {"id": made["id"]})
            connection.rollback()
            connection.execute(text(copy.format(salt="NULL")), {"id": made["id"]})
            with pytest.raises(IntegrityError, match="after the commitment is durable"):
                connection.execute(text("UPDATE watermark_keys SET salt = 'x' WHERE id = 'wm-2'"))
            connection.rollback()
            for change in ("salt = 'x'", "salt = NULL"):
                with pytest.raises(IntegrityError, match="a salt never changes"):
                    connection.execute(
                        text(f"UPDATE watermark_keys SET {change} WHERE id = :id"), {"id": made["id"]}
                    )
                connection.rollback()
            for change in ("commitment = 'x'", "commitment_record = '{}'", "grade = 'chosen'"):
                with pytest.raises(IntegrityError, match="a commitment never changes"):
                    connection.execute(
                        text(f"UPDATE watermark_keys SET {change} WHERE id = :id"), {"id": made["id"]}
                    )
                connection.rollback()

    async def test_salts_and_secrets_never_repeat(self, owner: Account) -> None:
        made = await asyncio.gather(*(make(owner) for _ in range(6)))
        for field in ("salt", "secret", "blinding", "commitment", "id"):
            assert len({key[field] for key in made}) == 6


class TestSecrecy:
    async def test_no_secret_is_in_the_database_or_the_log(
        self, owner: Account, database: Engine, capsys: pytest.CaptureFixture[str]
    ) -> None:
        imported = os.urandom(32).hex()
        made = [
            await make(owner),
            await make(owner, secret=imported),
            await make(owner, marks=chosen_marks()),
        ]
        hidden = [imported, "word0x0", "word7x3"]
        hidden += [key[field] for key in made for field in ("secret", "blinding") if key[field]]
        with database.connect() as connection:
            rows = "".join(
                connection.execute(text("SELECT watermark_keys::text FROM watermark_keys")).scalars()
            )
        logged = capsys.readouterr().err
        for value in hidden:
            assert value not in rows
            assert value.encode().hex() not in rows
            assert value not in logged


class TestTenancy:
    async def test_foreign_keys_are_not_there(
        self, owner: Account, provider: Account, auditor: Account, new_account: NewAccount
    ) -> None:
        key_id = (await make(owner))["id"]
        granted = (await lend(owner, key_id, auditor.organization)).json()["id"]
        for stranger in (provider, await new_account("owner"), await new_account("auditor")):
            responses = [
                await stranger.http.get(f"/v1/watermarks/{key_id}"),
                await stranger.http.delete(f"/v1/watermarks/{key_id}"),
                await stranger.http.get(f"/v1/watermarks/{key_id}/grants"),
                await lend(stranger, key_id, auditor.organization),
                await stranger.http.delete(f"/v1/watermarks/{key_id}/grants/{granted}"),
            ]
            assert [response.status_code for response in responses] == [404] * 5
            assert (await stranger.http.get("/v1/watermarks")).json()["data"] == []


class TestGrants:
    async def test_an_auditor_sees_the_public_side_while_the_grant_lives(
        self, owner: Account, auditor: Account
    ) -> None:
        made = await make(owner)
        path = f"/v1/watermarks/{made['id']}"
        assert (await auditor.http.get(path)).status_code == 404
        granted = (
            await lend(
                owner,
                made["id"],
                auditor.organization,
                suspect_hosts=["Example.COM:443", "example.com:443", "[::1]:80"],
                probe_budget=500,
                expires_in_seconds=3600,
            )
        ).json()
        assert granted["suspect_hosts"] == ["example.com:443", "[::1]:80"]
        assert (granted["probe_budget"], granted["probes_left"]) == (500, 500)
        assert granted["expires_at"] - granted["created_at"] in (3599, 3600, 3601)
        seen = await auditor.http.get(path)
        assert seen.json()["commitment"] == made["commitment"]
        assert made["secret"] not in seen.text
        assert [row["id"] for row in (await auditor.http.get("/v1/watermarks")).json()["data"]] == [
            made["id"]
        ]
        assert [row["id"] for row in (await auditor.http.get(f"{path}/grants")).json()["data"]] == [
            granted["id"]
        ]
        assert (await auditor.http.delete(path)).status_code == 404
        assert (await auditor.http.delete(f"{path}/grants/{granted['id']}")).status_code == 404
        assert (await owner.http.delete(f"{path}/grants/{granted['id']}")).status_code == 200
        assert (await auditor.http.get(path)).status_code == 404

    async def test_an_expired_grant_is_none(self, owner: Account, auditor: Account, database: Engine) -> None:
        made = await make(owner)
        await lend(owner, made["id"], auditor.organization)
        with database.begin() as connection:
            connection.execute(text("UPDATE grants SET expires_at = clock_timestamp() - interval '1 second'"))
        assert (await auditor.http.get(f"/v1/watermarks/{made['id']}")).status_code == 404

    async def test_one_auditor_does_not_see_another_ones_grant(
        self, owner: Account, auditor: Account, new_account: NewAccount
    ) -> None:
        made = await make(owner)
        other = await new_account("auditor")
        await lend(owner, made["id"], auditor.organization)
        await lend(owner, made["id"], other.organization)
        path = f"/v1/watermarks/{made['id']}/grants"
        assert len((await owner.http.get(path)).json()["data"]) == 2
        (seen,) = (await other.http.get(path)).json()["data"]
        assert seen["auditor"] == other.organization

    @pytest.mark.parametrize(
        ("change", "param", "status"),
        [
            ({"auditor": "org-nobody"}, "auditor", 404),
            ({"auditor": "OWNER"}, "auditor", 404),
            ({"suspect_hosts": []}, "suspect_hosts", 400),
            ({"suspect_hosts": ["a.example:443", "https://b.example"]}, "suspect_hosts[1]", 400),
            ({"probe_budget": 0}, "probe_budget", 400),
            ({"probe_budget": 100_001}, "probe_budget", 400),
            ({"probe_budget": "10"}, "probe_budget", 400),
            ({"expires_in_seconds": 0}, "expires_in_seconds", 400),
            ({"expires_in_seconds": 365 * 24 * 3600 + 1}, "expires_in_seconds", 400),
        ],
    )
    async def test_bad_grants(
        self, owner: Account, auditor: Account, change: dict[str, Any], param: str, status: int
    ) -> None:
        made = await make(owner)
        if change.get("auditor") == "OWNER":
            change = {"auditor": owner.organization}
        response = await lend(owner, made["id"], auditor.organization, **change)
        assert response.status_code == status
        assert response.json()["error"]["param"] == param


class TestFamiliesLeft:
    async def test_a_family_that_an_audit_asked_about_is_counted_once(
        self, owner: Account, database: Engine
    ) -> None:
        """Two audits of family 0 burn one family; an audit of family 1 burns the other."""
        made = await make(owner)
        left = []
        for number, family in enumerate((0, 0, 1)):
            with database.begin() as connection:
                for statement in (
                    "INSERT INTO verifications (id, organization_id, key_id, status, suspect, plan) VALUES"
                    " (:id, :organization, :key, 'queued', '{}', jsonb_build_object('family', :family))",
                    "INSERT INTO preregistrations (verification_id, key_id, audit_index, canonical_bytes,"
                    " sha256, service_nonce) VALUES (:id, :key, :number, '', '', '')",
                ):
                    connection.execute(
                        text(statement),
                        {
                            "id": f"verif-{number}",
                            "organization": owner.organization,
                            "key": made["id"],
                            "family": family,
                            "number": number + 1,
                        },
                    )
            left.append((await owner.http.get(f"/v1/watermarks/{made['id']}")).json()["families_left"])
        assert left == [1, 1, 0]
        (listed,) = (await owner.http.get("/v1/watermarks")).json()["data"]
        assert listed["families_left"] == 0


class TestDelete:
    async def test_the_sealed_secret_is_destroyed_and_the_commitment_stays(
        self, owner: Account, auditor: Account, stored: Callable[[str], WatermarkKey]
    ) -> None:
        made = await make(owner)
        await lend(owner, made["id"], auditor.organization)
        assert (await owner.http.delete(f"/v1/watermarks/{made['id']}")).json()["deleted"] is True
        row = stored(made["id"])
        assert row.sealed_secret == b""
        assert row.commitment == made["commitment"]
        for account in (owner, auditor):
            assert (await account.http.get(f"/v1/watermarks/{made['id']}")).status_code == 404

    async def test_not_while_a_job_needs_it(self, owner: Account, database: Engine) -> None:
        made = await make(owner)
        with database.begin() as connection:
            connection.execute(
                text(
                    "INSERT INTO files (id, organization_id, purpose, filename, bytes, sha256, validation)"
                    " VALUES ('file-1', :organization, 'fine-tune', 'f', 1, 'x', '{}')"
                ),
                {"organization": owner.organization},
            )
            connection.execute(
                text(
                    "INSERT INTO jobs (id, organization_id, status, base_model, seed, training_file_id,"
                    " hyperparameters, method, metadata, watermark_key_id)"
                    " VALUES ('ftjob-1', :organization, 'queued', 'm', 0, 'file-1', '{}', '{}', '{}', :key)"
                ),
                {"organization": owner.organization, "key": made["id"]},
            )
        response = await owner.http.delete(f"/v1/watermarks/{made['id']}")
        assert response.status_code == 409
        assert response.headers["x-should-retry"] == "false"
        assert response.json()["error"]["code"] == "watermark_in_use"
        assert "ftjob-1" in response.json()["error"]["message"]
        with database.begin() as connection:
            connection.execute(text("UPDATE jobs SET status = 'cancelled'"))
        assert (await owner.http.delete(f"/v1/watermarks/{made['id']}")).status_code == 200
