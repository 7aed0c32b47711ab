"""The log's key is followed by another: the log says so itself, and the retired key signs no more."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from evidence.log import merkle
from evidence.log.audit import LogReport, audit
from evidence.log.checkpoint import Checkpoint, opened, sign
from evidence.log.note import Note, PublicKey, Signer
from evidence.log.succession import KeyHistory, succeed
from evidence.steps import Status
from service.log import rotation, usecases
from service.log.rotation import Refused, rotate
from service.log.signers import Signers
from service.settings import Settings
from tests.integration.service.conftest import Account
from tests.integration.service.test_log import checkpoint, failed, fill, get, leaves, stored, tampering
from tests.integration.service.test_resealing import environment

pytestmark = pytest.mark.integration


class Stopped(Exception):
    """In place of a kill."""


def seeds(settings: Settings) -> list[bytes]:
    assert settings.log_key_file is not None
    name, *written = settings.log_key_file.read_text().split()
    assert name == "doublei.test/log"
    return [base64.b64decode(one) for one in written]


async def successions(owner: Account) -> list[tuple[int, str]]:
    response = await owner.http.get("/v1/log/keys")
    assert response.status_code == 200, response.text
    return [(one["index"], one["note"]) for one in response.json()["data"]]


async def audited(owner: Account, key: PublicKey, earlier: str | None, note: str | None = None) -> LogReport:
    """What `doublei log audit` does."""
    pages: list[bytes] = (await get(owner, "entries", start=0, limit=10_000)).content.splitlines()

    def entries(count: int) -> Iterable[bytes]:
        return pages[:count]

    return audit(
        key=key,
        trusted=True,
        note=note or await checkpoint(owner),
        earlier=earlier,
        entries=entries,
        successions=await successions(owner),
    )


def signed(database: Engine, size: int, signer: Signer) -> str:
    """A checkpoint as whoever holds the key can make it."""
    root = merkle.root(size, stored(database))
    return str(sign(Checkpoint(origin=signer.name, size=size, root=root), signer))


async def test_old_and_new_checkpoints_verify_under_the_old_key_and_the_new(
    owner: Account, database: Engine, settings: Settings
) -> None:
    old = settings.log_signer
    fill(database, 5)
    monday = await checkpoint(owner)
    made = rotate(settings)
    assert (made.retired, made.index) == (old.public, 5)
    fill(database, 2, start=5)
    tuesday = await checkpoint(owner)
    assert opened(Note.from_text(monday), old.public).size == 5
    assert opened(Note.from_text(tuesday), made.successor).size == 8
    assert (await owner.http.get("/v1/log/key")).json()["key"] == str(made.successor)
    for key in (old.public, made.successor):
        report = await audited(owner, key, monday)
        statuses = {one.status for one in report.steps if one.name != "witnesses"}
        assert statuses == {Status.passed}, failed(report)
        assert report.key == made.successor
    assert str(made.successor) in (await audited(owner, old.public, None)).steps[1].detail


async def test_the_old_key_is_gone_from_the_file(settings: Settings, database: Engine) -> None:
    (old,) = seeds(settings)
    rotate(settings)
    (new,) = seeds(settings)
    assert new != old
    assert settings.log_key_file is not None
    assert os.stat(settings.log_key_file).st_mode & 0o777 == 0o600
    assert old not in settings.log_key_file.read_bytes()


async def test_a_retired_key_signs_no_new_checkpoint(
    owner: Account, database: Engine, settings: Settings
) -> None:
    """Neither the service with it, nor a thief who has it."""
    old = settings.log_signer
    assert settings.log_key_file is not None
    kept = settings.log_key_file.read_text()
    fill(database, 3)
    made = rotate(settings)
    fill(database, 1, start=3)
    report = await audited(owner, made.successor, None, note=signed(database, 5, old))
    assert failed(report) == ["checkpoint"]
    assert "retired at entry 3" in report.steps[0].detail
    report = await audited(owner, old.public, signed(database, 5, old))
    assert failed(report) == ["earlier checkpoint"]
    # What it signed of the log before is good, whenever it is shown.
    report = await audited(owner, made.successor, signed(database, 3, old))
    assert failed(report) == []
    settings.log_key_file.write_text(kept)
    fill(database, 1, start=4)
    owner.http._transport.app.state.signers = Signers(settings.log_signers)  # type: ignore[attr-defined]
    response = await owner.http.get("/v1/log/checkpoint")
    assert (response.status_code, response.json()["error"]["code"]) == (500, "log_key_missing")
    with pytest.raises(Refused, match="not in the key file"):
        rotate(settings)


async def test_the_next_key_can_not_sign_what_came_before_it(
    owner: Account, database: Engine, settings: Settings
) -> None:
    """Whoever has the present key can't make an older history with it."""
    fill(database, 3)
    made = rotate(settings)
    report = await audited(owner, made.successor, signed(database, 3, settings.log_signer))
    assert failed(report) == ["earlier checkpoint"]


async def test_several_changes_are_a_chain(owner: Account, database: Engine, settings: Settings) -> None:
    keys, kept = [settings.log_signer.public], []
    for number in range(3):
        fill(database, 2, start=number * 2)
        kept.append(await checkpoint(owner))
        keys.append(rotate(settings).successor)
    history = KeyHistory.of(keys[0], await successions(owner))
    assert list(history.keys) == keys
    assert [history.at(size) for size in (0, 2, 3, 5, 6, 8, 9, 10**9)] == [
        keys[0], keys[0], keys[1], keys[1], keys[2], keys[2], keys[3], keys[3],
    ]  # fmt: skip
    for key in keys:
        for note in kept:
            assert failed(await audited(owner, key, note)) == []


@pytest.mark.parametrize("write", [0, 1])
async def test_stopped_before_the_entry_is_durable(
    owner: Account, database: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    """Before or after the new key is in the file: the old one signs on, and the next run changes the key."""
    old = settings.log_signer
    fill(database, 2)

    def stop(*_: object) -> None:
        raise Stopped

    with monkeypatch.context() as broken:
        broken.setattr(rotation, "_write", stop) if write == 0 else broken.setattr(
            usecases, "hand_over", stop
        )
        with pytest.raises(Stopped):
            rotate(settings)
    assert len(seeds(settings)) == 1 + write
    assert opened(Note.from_text(await checkpoint(owner)), old.public).size == 2
    begun = settings.log_signers()[-1]
    made = rotate(settings)
    assert write == 0 or made.successor == begun.public
    assert len(seeds(settings)) == 1
    assert opened(Note.from_text(await checkpoint(owner)), made.successor).size == 3


async def test_stopped_after_the_entry_is_durable(
    owner: Account, database: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new key signs, though the old one is in the file still; the next run only takes that out."""
    written = rotation._write

    def stop(settings: Settings, *signers: Signer) -> None:
        if len(signers) == 1:
            raise Stopped
        written(settings, *signers)

    with monkeypatch.context() as broken:
        broken.setattr(rotation, "_write", stop)
        with pytest.raises(Stopped):
            rotate(settings)
    assert len(seeds(settings)) == 2
    ((index, _),) = await successions(owner)
    assert index == 0
    new = settings.log_signers()[1].public
    assert opened(Note.from_text(await checkpoint(owner)), new).size == 1
    assert rotate(settings).successor == new
    assert (len(seeds(settings)), len(leaves(database))) == (1, 1)


async def test_an_audit_sees_a_change_that_is_not_shown(
    owner: Account, database: Engine, settings: Settings
) -> None:
    """Or another one shown in its place."""
    old = settings.log_signer
    fill(database, 2)
    made = rotate(settings)
    assert settings.log_key_file is not None
    note = await checkpoint(owner)
    shown = await successions(owner)
    pages: list[bytes] = (await get(owner, "entries", start=0, limit=100)).content.splitlines()
    thief = replace(old, seed=os.urandom(32))
    stolen = [(2, str(succeed(old, thief)))]
    for key, told, checkpointed, fails in (
        (made.successor, [], note, ["key changes"]),
        (old.public, [], note, ["checkpoint"]),
        (old.public, stolen, signed(database, 3, thief), ["key changes"]),
        (made.successor, stolen, note, ["key changes"]),
        (made.successor, [(1, shown[0][1])], note, ["key changes"]),
        (made.successor, [(2, "nonsense")], note, ["key changes"]),
    ):
        report = audit(
            key=key, trusted=True, note=checkpointed, earlier=None,
            entries=lambda count: pages[:count], successions=told,
        )  # fmt: skip
        assert failed(report) == fails, told


async def test_a_key_forged_into_the_database_is_not_signed_with(
    owner: Account, database: Engine, settings: Settings
) -> None:
    rotate(settings)
    with tampering(database) as connection:
        connection.execute(
            text("UPDATE log_records SET record = :record"),
            {"record": json.dumps({"succession": "sorry"})},
        )
    response = await owner.http.get("/v1/log/checkpoint")
    assert (response.status_code, response.json()["error"]["code"]) == (500, "log_inconsistent")


def test_as_a_program(settings: Settings, database: Engine) -> None:
    (old,) = seeds(settings)
    outcome = subprocess.run(
        [sys.executable, "-m", "service.log.rotation"],
        env=environment(settings), cwd=Path(__file__).parents[3], capture_output=True, text=True,
    )  # fmt: skip
    assert outcome.returncode == 0, outcome.stderr
    retired, followed = (PublicKey.from_text(line.split()[1]) for line in outcome.stdout.splitlines()[:2])
    (new,) = seeds(settings)
    assert replace(settings.log_signer, seed=old).public == retired
    assert settings.log_signer.public == followed
    for secret in (old, new):
        assert base64.b64encode(secret).decode() not in outcome.stdout + outcome.stderr
