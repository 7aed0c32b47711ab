"""The transparency log: what is entered in whose transaction, what is proved, and who notices a rewriting."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from benchmarks.log import load
from evidence.log import merkle
from evidence.log.audit import LogReport, audit
from evidence.log.checkpoint import opened
from evidence.log.entry import Entry, EntryKind, record_digest
from evidence.log.note import Note, PublicKey
from evidence.steps import Status
from service.db.models import LogEntry, LogNode, LogRecord
from service.log.deeds import Deed
from service.log.signers import Signers
from service.log.usecases import append
from service.settings import Settings
from tests.integration.service import suspects
from tests.integration.service.conftest import Account
from worker.record.engine import open_workplace
from worker.tasks import verify_run

pytestmark = pytest.mark.integration

PLAN = {"probes_per_cue": 1}


def deed(number: int) -> Deed:
    return Deed(kind=EntryKind.verdict, subject=f"verif-{number}", record={"number": number})


def fill(database: Engine, count: int, start: int = 0) -> None:
    """So many entries, in one transaction each."""
    with Session(database) as session:
        for number in range(start, start + count):
            append(session, deed(number))
            session.commit()


def leaves(database: Engine) -> list[bytes]:
    with Session(database) as session:
        rows = session.execute(select(LogEntry.index, LogEntry.entry).order_by(LogEntry.index)).all()
    assert [row[0] for row in rows] == list(range(len(rows)))
    return [merkle.leaf_hash(row[1]) for row in rows]


def kinds(database: Engine) -> list[str]:
    with Session(database) as session:
        return list(session.scalars(select(LogEntry.kind).order_by(LogEntry.index)))


def record(database: Engine, index: int) -> dict[str, Any]:
    """The private record, after a look at whether the entry digests it."""
    with Session(database) as session:
        entry = session.get_one(LogEntry, index)
        stored = session.get_one(LogRecord, index).record
    published = Entry.from_bytes(entry.entry)
    assert published.kind == entry.kind
    assert published.record_sha256 == record_digest(entry.kind, stored.encode())
    assert merkle.leaf_hash(entry.entry) == entry.leaf_hash
    made: dict[str, Any] = json.loads(stored)
    return made


async def checkpoint(account: Account) -> str:
    response = await account.http.get("/v1/log/checkpoint")
    assert response.status_code == 200, response.text
    return response.text


async def log_key(account: Account) -> PublicKey:
    return PublicKey.from_text((await account.http.get("/v1/log/key")).json()["key"])


class TestAppending:
    def test_a_race_of_transactions_gives_gapless_indexes_and_one_root(self, database: Engine) -> None:
        """Eight connections at once; some append several, some take long to commit, some roll back."""
        start = threading.Barrier(8)
        failures: list[BaseException] = []

        def work(worker: int) -> None:
            try:
                with Session(database) as session:
                    start.wait()
                    for turn in range(12):
                        append(session, *(deed(worker * 1000 + turn * 10 + n) for n in range(1 + turn % 3)))
                        if turn % 4 == 3:
                            session.execute(text("SELECT pg_sleep(0.01)"))
                        if turn % 5 == 4:
                            session.rollback()
                        else:
                            session.commit()
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        found = leaves(database)
        assert len(found) == 8 * sum(1 + turn % 3 for turn in range(12) if turn % 5 != 4)
        assert merkle.root(len(found), stored(database)) == merkle.root_of(found)
        with Session(database) as session:
            times = list(session.scalars(select(LogEntry.logged_at).order_by(LogEntry.index)))
            assert times == sorted(times)
            assert len(session.scalars(select(LogRecord.index)).all()) == len(found)

    def test_what_is_rolled_back_is_not_in_the_log(self, database: Engine) -> None:
        fill(database, 3)
        with Session(database) as session:
            append(session, deed(99))
            session.rollback()
            append(session, deed(3))
            session.commit()
        assert len(leaves(database)) == 4
        assert record(database, 3) == {"number": 3}

    def test_a_log_loaded_in_bulk_has_the_nodes_of_an_appended_one(
        self, database: Engine, make_database: Callable[[], str]
    ) -> None:
        """What benchmarks/log.py starts from."""
        load(database.url.render_as_string(hide_password=False), 37)
        other = create_engine(make_database(), poolclass=NullPool)
        fill(other, 37)
        with Session(database) as one, Session(other) as two:
            places = select(LogNode.level, LogNode.index).order_by(LogNode.level, LogNode.index)
            assert one.execute(places).all() == two.execute(places).all()
        fill(database, 5, start=37)
        found = leaves(database)
        assert merkle.root(42, stored(database)) == merkle.root_of(found)
        assert all(record(database, index) == {"number": index} for index in range(42))

    def test_a_clock_that_was_set_back_does_not_show(self, database: Engine) -> None:
        with tampering(database) as connection:
            append(Session(connection), deed(0))
            connection.execute(text("UPDATE log_entries SET logged_at = now() + interval '1 hour'"))
        fill(database, 1, start=1)
        with Session(database) as session:
            first, second = session.scalars(select(LogEntry.logged_at).order_by(LogEntry.index))
            assert first == second
            assert Entry.from_bytes(session.get_one(LogEntry, 1).entry).logged_at.startswith(
                first.strftime("%Y-%m-%dT%H:%M")
            )

    def test_records_may_go_and_never_change(self, database: Engine) -> None:
        fill(database, 2)
        for statement in ("UPDATE log_records SET record = record", "TRUNCATE log_records"):
            with database.connect() as connection, pytest.raises(IntegrityError, match="never changed"):
                connection.execute(text(statement))
        with database.begin() as connection:
            connection.execute(text("DELETE FROM log_records WHERE index = 0"))
        assert len(leaves(database)) == 2


class TestDeeds:
    async def test_a_keys_commitment_is_entered_before_its_salt(
        self, owner: Account, database: Engine
    ) -> None:
        made = (await owner.http.post("/v1/watermarks", json={})).json()
        assert kinds(database) == ["key-commitment", "salt"]
        committed = record(database, 0)
        assert (committed["key"], committed["owner"]) == (made["id"], owner.organization)
        assert (committed["origin"], committed["grade"]) == ("service", "committed")
        assert committed["commitment"] == made["commitment"]
        assert committed["commitment_record"]["root_commitment"] == made["root_commitment"]
        assert committed["commitment_record"]["design"]["banks"] == made["banks"]
        assert record(database, 1) == {"key": made["id"], "salt": made["salt"]}
        shown = (await owner.http.get(f"/v1/watermarks/{made['id']}")).json()
        assert shown["log"] == [{"kind": "key-commitment", "index": 0}, {"kind": "salt", "index": 1}]
        assert made["secret"] not in (await owner.http.get("/v1/log/entries")).text

    async def test_a_preset_is_entered_too_and_has_no_salt(self, owner: Account, database: Engine) -> None:
        response = await owner.http.post("/v1/watermarks", json={"preset": "paper-input"})
        assert response.status_code == 200
        assert kinds(database) == ["key-commitment"]
        assert record(database, 0)["grade"] == "research"

    async def test_the_commitment_is_durable_in_the_log_before_the_salt_is_drawn(
        self, owner: Account, database: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever happens to the second transaction."""
        seen: list[list[str]] = []

        def draw(count: int) -> bytes:
            seen.append(kinds(database))
            raise RuntimeError("no entropy")

        monkeypatch.setattr("service.watermarks.usecases.os", SimpleNamespace(urandom=draw))
        body = {"secret": bytes(range(32)).hex(), "blinding": bytes(range(32, 64)).hex()}
        assert (await owner.http.post("/v1/watermarks", json=body)).status_code == 500
        assert seen == [["key-commitment"]]
        assert kinds(database) == ["key-commitment"]

    async def test_an_audit_is_entered_when_registered_and_when_decided(
        self, owner: Account, database: Engine, settings: Settings
    ) -> None:
        with suspects.listening(suspects.always("No")) as suspect:
            settings = settings.model_copy(update={"suspect_allow": suspect.host_port})
            owner.http._transport.app.state.settings = settings  # type: ignore[attr-defined]
            key = (await owner.http.post("/v1/watermarks", json={})).json()
            body = {
                "watermark": key["id"],
                "suspect": {"base_url": suspect.base_url, "model": "m"},
                "plan": PLAN,
            }
            response = await owner.http.post("/v1/verify", json=body)
            assert response.status_code == 200, response.text
            name = response.json()["id"]
            assert kinds(database)[2:] == ["preregistration"]
            assert record(database, 2) == {
                "verification": name,
                "preregistration_sha256": response.json()["preregistration"]["sha256"],
            }
            place = open_workplace(settings, shutting_down=lambda: False)
            await asyncio.to_thread(verify_run, place, name)
        shown = (await owner.http.get(f"/v1/verifications/{name}")).json()
        assert shown["status"] == "succeeded"
        assert shown["log"] == [{"kind": "preregistration", "index": 2}, {"kind": "verdict", "index": 3}]
        assert record(database, 3) == {
            "verification": name,
            "evidence_sha256": shown["evidence_sha256"],
            "verdict": shown["verdict"],
        }

    async def test_a_campaign_enters_one_preregistration_a_suspect(
        self, owner: Account, database: Engine, settings: Settings
    ) -> None:
        with suspects.listening(suspects.always("No")) as suspect:
            settings = settings.model_copy(update={"suspect_allow": suspect.host_port})
            owner.http._transport.app.state.settings = settings  # type: ignore[attr-defined]
            key = (await owner.http.post("/v1/watermarks", json={})).json()
            named = [{"base_url": suspect.base_url, "model": model} for model in ("a", "b", "c")]
            body = {"watermark": key["id"], "suspects": named, "plan": PLAN | {"probes_per_cue": 2}}
            response = await owner.http.post("/v1/campaigns", json=body)
            assert response.status_code == 200, response.text
        assert kinds(database)[2:] == ["preregistration"] * 3
        names = [member["id"] for member in response.json()["verifications"]]
        assert [record(database, index)["verification"] for index in (2, 3, 4)] == names

    async def test_what_was_refused_is_not_entered(self, owner: Account, database: Engine) -> None:
        key = (await owner.http.post("/v1/watermarks", json={})).json()
        body = {
            "watermark": key["id"],
            "suspect": {"base_url": "https://192.0.2.1/v1", "model": "m"},
            "plan": {"marks": 1},
        }
        assert (await owner.http.post("/v1/verify", json=body)).status_code == 400
        assert kinds(database) == ["key-commitment", "salt"]


class TestWire:
    async def test_proofs_verify(self, owner: Account, database: Engine) -> None:
        fill(database, 37)
        note = Note.from_text(await checkpoint(owner))
        now = opened(note, await log_key(owner))
        found = leaves(database)
        assert (now.size, now.root) == (37, merkle.root_of(found))
        for index in (0, 1, 31, 32, 36):
            for size in (index + 1, 37):
                made = (await get(owner, "inclusion", index=index, size=size)).json()
                assert made["root"] == merkle.root_of(found[:size]).hex()
                proof = [bytes.fromhex(one) for one in made["hashes"]]
                leaf, root = bytes.fromhex(made["leaf_hash"]), bytes.fromhex(made["root"])
                assert leaf == found[index]
                merkle.verify_inclusion(leaf, index, size, proof, root)
        for first in (0, 1, 16, 29, 37):
            made = (await get(owner, "consistency", first=first, second=37)).json()
            proof = [bytes.fromhex(one) for one in made["hashes"]]
            merkle.verify_consistency(first, 37, merkle.root_of(found[:first]), now.root, proof)

    async def test_entries_come_as_they_were_hashed(self, owner: Account, database: Engine) -> None:
        fill(database, 12)
        page = await get(owner, "entries", start=3, limit=4)
        assert page.headers["content-type"].startswith("application/jsonl")
        lines = page.content.splitlines()
        assert [merkle.leaf_hash(line) for line in lines] == leaves(database)[3:7]
        assert len((await get(owner, "entries", start=10, limit=100)).content.splitlines()) == 2
        assert (await get(owner, "entries", start=12)).content == b""

    async def test_an_empty_log_has_a_checkpoint(self, owner: Account) -> None:
        now = opened(Note.from_text(await checkpoint(owner)), await log_key(owner))
        assert (now.size, now.root) == (0, merkle.EMPTY_ROOT)

    async def test_a_size_is_signed_once_and_kept(self, owner: Account, database: Engine) -> None:
        fill(database, 5)
        notes = await asyncio.gather(*(checkpoint(owner) for _ in range(6)))
        assert len(set(notes)) == 1
        fill(database, 1, start=5)
        assert await checkpoint(owner) != notes[0]
        with database.connect() as connection:
            kept = connection.execute(text("SELECT size, note FROM log_checkpoints ORDER BY size")).all()
        assert [row[0] for row in kept] == [5, 6]
        assert kept[0][1] == notes[0]

    @pytest.mark.parametrize(
        ("path", "query", "param"),
        [
            ("inclusion", {"index": 3, "size": 3}, "index"),
            ("inclusion", {"index": 0, "size": 4}, "size"),
            ("inclusion", {"index": -1, "size": 1}, "index"),
            ("inclusion", {"index": 0}, "size"),
            ("consistency", {"first": 0, "second": 4}, "second"),
            ("consistency", {"first": 3, "second": 2}, "first"),
            ("entries", {"limit": 10_001}, "limit"),
            ("entries", {"start": 2**53}, "start"),
        ],
    )
    async def test_what_can_not_be_proved_is_refused(
        self, owner: Account, database: Engine, path: str, query: dict[str, int], param: str
    ) -> None:
        fill(database, 3)
        response = await owner.http.get(f"/v1/log/{path}", params=query)
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)

    @pytest.mark.parametrize("path", ["checkpoint", "key", "entries", "inclusion?index=0&size=1"])
    async def test_every_role_reads_and_nobody_else(
        self, accounts: dict[str, Account], http: Any, database: Engine, path: str
    ) -> None:
        fill(database, 1)
        for account in accounts.values():
            assert (await account.http.get(f"/v1/log/{path}")).status_code == 200
        assert (await http.get(f"/v1/log/{path}")).status_code == 401

    async def test_the_seed_is_shown_nowhere(self, owner: Account, settings: Settings, capfd: Any) -> None:
        assert settings.log_key_file is not None
        seed = base64.b64decode(settings.log_key_file.read_text().split()[1])
        shown = await checkpoint(owner) + (await owner.http.get("/v1/log/key")).text
        shown += repr(settings) + repr(settings.log_signer) + str(settings.model_dump())
        shown += "".join(capfd.readouterr())
        for spelled in (seed.hex(), base64.b64encode(seed).decode(), repr(seed)):
            assert spelled not in shown


async def get(account: Account, path: str, **query: int) -> Any:
    response = await account.http.get(f"/v1/log/{path}", params=query)
    assert response.status_code == 200, response.text
    return response


class TestASuperuser:
    """Who owns the database can do anything to it. What was signed before and kept elsewhere shows it."""

    async def test_an_edited_entry(self, owner: Account, database: Engine) -> None:
        earlier = await self.history(owner, database)
        with tampering(database) as connection:
            forge(connection, 4, lambda entry: replaced(entry, record_sha256="0" * 64))
        report = await self.audited(owner, earlier)
        assert failed(report) == ["root", "history"]

    async def test_an_edited_entry_with_every_hash_made_again(self, owner: Account, database: Engine) -> None:
        earlier = await self.history(owner, database)
        with tampering(database) as connection:
            forge(connection, 4, lambda entry: replaced(entry, record_sha256="0" * 64))
            rebuild(connection)
        report = await self.audited(owner, earlier)
        assert failed(report) == ["history"]
        unaware = await self.audited(owner, None)
        assert (unaware.consistent, failed(unaware)) == (True, [])

    async def test_a_deleted_entry(self, owner: Account, database: Engine) -> None:
        earlier = await self.history(owner, database)
        with tampering(database) as connection:
            connection.execute(text("DELETE FROM log_records WHERE index = 4"))
            connection.execute(text("DELETE FROM log_entries WHERE index = 4"))
        report = await self.audited(owner, earlier)
        assert failed(report)[0] == "entries"

    async def test_a_deleted_entry_with_the_rest_renumbered(self, owner: Account, database: Engine) -> None:
        earlier = await self.history(owner, database)
        with tampering(database) as connection:
            connection.execute(text("DELETE FROM log_records"))
            connection.execute(text("DELETE FROM log_entries WHERE index = 4"))
            connection.execute(text("UPDATE log_entries SET index = index - 1 WHERE index > 4"))
            rebuild(connection)
        fill(database, 3, start=50)
        report = await self.audited(owner, earlier)
        assert failed(report) == ["history"]

    async def test_a_back_dated_entry(self, owner: Account, database: Engine) -> None:
        earlier = await self.history(owner, database)
        with tampering(database) as connection:
            forge(connection, 7, lambda entry: replaced(entry, logged_at="2020-01-01T00:00:00.000000Z"))
            rebuild(connection)
        report = await self.audited(owner, earlier)
        assert failed(report) == ["times", "history"]

    async def test_an_old_backup_put_back(self, owner: Account, database: Engine) -> None:
        """With the checkpoints of its time: the service itself can't know."""
        fill(database, 6)
        await checkpoint(owner)
        with tampering(database) as connection:
            dump = dumped(connection)
        earlier = await self.history(owner, database, start=6)
        with tampering(database) as connection:
            restored(connection, dump)
        report = await self.audited(owner, earlier)
        assert failed(report) == ["growth"]
        assert step(report, "history").status is Status.not_checked

    async def test_an_old_backup_put_back_and_grown_again(self, owner: Account, database: Engine) -> None:
        fill(database, 6)
        with tampering(database) as connection:
            dump = dumped(connection)
        earlier = await self.history(owner, database, start=6)
        with tampering(database) as connection:
            restored(connection, dump)
        fill(database, 20, start=100)
        report = await self.audited(owner, earlier)
        assert failed(report) == ["history"]

    async def test_a_fork(self, owner: Account, database: Engine) -> None:
        """One size, two roots, both signed."""
        fill(database, 6)
        with tampering(database) as connection:
            dump = dumped(connection)
        fill(database, 2, start=6)
        earlier = await checkpoint(owner)
        with tampering(database) as connection:
            restored(connection, dump)
        fill(database, 2, start=60)
        report = await self.audited(owner, earlier)
        assert failed(report) == ["one root", "history"]

    async def test_the_service_signs_nothing_smaller_than_it_signed(
        self, owner: Account, database: Engine
    ) -> None:
        earlier = await self.history(owner, database)
        with tampering(database) as connection:
            connection.execute(text("DELETE FROM log_records WHERE index > 6"))
            connection.execute(text("DELETE FROM log_entries WHERE index > 6"))
        response = await owner.http.get("/v1/log/checkpoint")
        assert (response.status_code, response.json()["error"]["code"]) == (500, "log_inconsistent")
        report = await self.audited(owner, earlier)
        assert failed(report) == ["checkpoint", "entries"]

    @pytest.mark.parametrize("more", [0, 3])
    async def test_the_service_signs_nothing_that_does_not_continue_what_it_signed(
        self, owner: Account, database: Engine, more: int
    ) -> None:
        """Also where the log has grown past it since."""
        await self.history(owner, database)
        signed = await checkpoint(owner)
        with tampering(database) as connection:
            forge(connection, 4, lambda entry: replaced(entry, record_sha256="0" * 64))
            rebuild(connection, keep_checkpoints=True)
        fill(database, more, start=200)
        for _ in range(2):
            response = await owner.http.get("/v1/log/checkpoint")
            assert (response.status_code, response.json()["error"]["code"]) == (500, "log_inconsistent")
        with database.connect() as connection:
            last = "SELECT note FROM log_checkpoints ORDER BY size DESC LIMIT 1"
            assert connection.execute(text(last)).scalar_one() == signed

    async def test_another_key_continues_nothing(
        self, owner: Account, database: Engine, settings: Settings
    ) -> None:
        await self.history(owner, database)
        other = replace(settings.log_signer, seed=os.urandom(32))
        owner.http._transport.app.state.signers = Signers(lambda: (other,))  # type: ignore[attr-defined]
        response = await owner.http.get("/v1/log/checkpoint")
        assert (response.status_code, response.json()["error"]["code"]) == (500, "log_inconsistent")

    async def test_an_honest_log_passes_every_step(self, owner: Account, database: Engine) -> None:
        earlier = await self.history(owner, database)
        report = await self.audited(owner, earlier)
        assert {one.status for one in report.steps if one.name != "witnesses"} == {Status.passed}

    async def history(self, owner: Account, database: Engine, start: int = 0) -> str:
        """Ten entries, a checkpoint that somebody keeps, three more."""
        fill(database, 10, start=start)
        kept = await checkpoint(owner)
        fill(database, 3, start=start + 10)
        return kept

    async def audited(self, owner: Account, earlier: str | None) -> LogReport:
        """What `doublei log audit` does."""
        response = await owner.http.get("/v1/log/checkpoint")
        pages: list[bytes] = (await get(owner, "entries", start=0, limit=10_000)).content.splitlines()

        def entries(count: int) -> Iterable[bytes]:
            return pages[:count]

        signed = response.status_code == 200
        return audit(
            key=await log_key(owner),
            trusted=True,
            note=response.text if signed else None,
            refusal="" if signed else response.json()["error"]["code"],
            earlier=earlier,
            entries=entries,
        )


def failed(report: LogReport) -> list[str]:
    return [one.name for one in report.steps if one.status is Status.failed]


def step(report: LogReport, name: str) -> Any:
    return next(one for one in report.steps if one.name == name)


def stored(database: Engine) -> merkle.Read:
    """The nodes as the tables have them."""
    with Session(database) as session:
        nodes = {(0, one.index): one.leaf_hash for one in session.scalars(select(LogEntry))}
        nodes |= {(one.level, one.index): one.hash for one in session.scalars(select(LogNode))}
    return lambda wanted: {node: nodes[node] for node in wanted}


TABLES = ("log_entries", "log_nodes", "log_checkpoints", "log_records")


@contextmanager
def tampering(database: Engine) -> Iterator[Connection]:
    """As a superuser: with the triggers switched off."""
    with database.begin() as connection:
        for table in TABLES:
            connection.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER USER"))
        yield connection
        for table in TABLES:
            trigger = "never_changed" if table == "log_records" else "insert_only"
            connection.execute(text(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}"))


def replaced(entry: Entry, **fields: str) -> Entry:
    return Entry(
        **{"kind": entry.kind, "logged_at": entry.logged_at, "record_sha256": entry.record_sha256} | fields
    )


def forge(connection: Connection, index: int, change: Callable[[Entry], Entry]) -> None:
    """Another entry in an entry's place, with its leaf hash."""
    held = connection.execute(text("SELECT entry FROM log_entries WHERE index = :i"), {"i": index})
    forged = bytes(change(Entry.from_bytes(held.scalar_one())))
    connection.execute(
        text("UPDATE log_entries SET entry = :entry, leaf_hash = :leaf WHERE index = :i"),
        {"entry": forged, "leaf": merkle.leaf_hash(forged), "i": index},
    )


def rebuild(connection: Connection, *, keep_checkpoints: bool = False) -> None:
    """Every hash made again, as the log would have made them; what was signed is forgotten."""
    connection.execute(text("DELETE FROM log_nodes"))
    if not keep_checkpoints:
        connection.execute(text("DELETE FROM log_checkpoints"))
    nodes: dict[merkle.Node, bytes] = {}

    def read(wanted: Sequence[merkle.Node]) -> dict[merkle.Node, bytes]:
        return {node: nodes[node] for node in wanted}

    for index, entry in connection.execute(text("SELECT index, entry FROM log_entries ORDER BY index")).all():
        nodes |= dict(merkle.grow(index, merkle.leaf_hash(entry), read))
    for (level, index), made in nodes.items():
        if level:
            connection.execute(
                text("INSERT INTO log_nodes (level, index, hash) VALUES (:l, :i, :h)"),
                {"l": level, "i": index, "h": made},
            )


def dumped(connection: Connection) -> dict[str, list[dict[str, Any]]]:
    return {
        table: [dict(row) for row in connection.execute(text(f"SELECT * FROM {table}")).mappings()]
        for table in TABLES
    }


def restored(connection: Connection, dump: dict[str, list[dict[str, Any]]]) -> None:
    connection.execute(text(f"TRUNCATE {', '.join(TABLES)}"))
    for table, rows in dump.items():
        for row in rows:
            names = ", ".join(row)
            values = ", ".join(f":{name}" for name in row)
            connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({values})"), row)
