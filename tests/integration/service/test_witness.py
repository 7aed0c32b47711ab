"""Witnesses: what one cosigns and refuses, and how the log asks them without ever waiting for long."""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.pool import NullPool

from evidence.log import merkle
from evidence.log.audit import cosigned_by
from evidence.log.checkpoint import Checkpoint, opened, sign, witnessed
from evidence.log.note import Kind, Note, PublicKey, Signer
from evidence.log.witness import Submission
from service.app import create_app
from service.log import cosigning
from service.log.cosigning import Cosigners
from service.settings import Settings
from tests.integration.service.conftest import Account
from tests.integration.service.test_log import TABLES, checkpoint, dumped, fill, get, restored, tampering

pytestmark = pytest.mark.integration

LOG = Signer(name="log.example/other", kind=Kind.log, seed=bytes(range(32)))
NEXT = replace(LOG, seed=bytes(range(1, 33)))
STRANGER = replace(LOG, name="log.example/stranger")
SIZE_TYPE = "text/x.tlog.size"


class Tree:
    """Another log, in memory."""

    def __init__(self, *entries: bytes) -> None:
        self.nodes: dict[merkle.Node, bytes] = {}
        self.size = 0
        for entry in entries:
            self.add(entry)

    def add(self, entry: bytes) -> None:
        self.nodes |= dict(merkle.grow(self.size, merkle.leaf_hash(entry), self.read))
        self.size += 1

    def read(self, wanted: Any) -> dict[merkle.Node, bytes]:
        return {node: self.nodes[node] for node in wanted}

    def note(self, size: int, signer: Signer = LOG) -> Note:
        root = merkle.root(size, self.read)
        return sign(Checkpoint(origin=signer.name, size=size, root=root), signer)

    def proof(self, old: int, size: int) -> tuple[bytes, ...]:
        return tuple(merkle.consistency_proof(old, size, self.read))

    def submission(self, old: int, size: int, signer: Signer = LOG) -> Submission:
        return Submission(old_size=old, proof=self.proof(old, size), note=self.note(size, signer))


TREE = Tree(*(b"entry %d" % number for number in range(20)))
FORK = Tree(*(b"entry %d" % number for number in range(5)), *(b"other %d" % number for number in range(15)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Other:
    """Another installation that is a witness."""

    app: FastAPI
    http: httpx2.AsyncClient
    key: PublicKey
    database: Engine


Install = Callable[..., Any]


@pytest.fixture
def install(settings: Settings, make_database: Callable[[], str], tmp_path: Path) -> Callable[..., Any]:
    """A function that starts one more installation, a witness of the logs whose keys are given."""

    @asynccontextmanager
    async def start(*logs: PublicKey, name: str = "witness.example/w1") -> AsyncIterator[Other]:
        folder = tmp_path / name.replace("/", "-")
        folder.mkdir()
        keys, witness_key = folder / "logs", folder / "witness-key"
        keys.write_text("# whom we witness\n" + "".join(f"{key}\n" for key in logs))
        witness_key.write_text(f"{name}\n{base64.b64encode(os.urandom(32)).decode()}\n")
        url = make_database()
        app = create_app(
            settings.model_copy(
                update={
                    "database_url": SecretStr(url),
                    "witnessed_logs_file": keys,
                    "witness_key_file": witness_key,
                }
            )
        )
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(transport=transport, base_url=f"http://{name.partition('/')[0]}") as http,
        ):
            told = (await http.get("/v1/witness/key")).json()
            yield Other(
                app=app,
                http=http,
                key=PublicKey.from_text(told["key"]),
                database=create_engine(url, poolclass=NullPool),
            )

    return start


@pytest.fixture
async def witness(install: Install) -> AsyncIterator[Other]:
    """A witness of the log above, with two keys for it."""
    async with install(LOG.public, NEXT.public) as other:
        yield other


async def submit(witness: Other, submission: Submission | bytes) -> httpx2.Response:
    content = submission if isinstance(submission, bytes) else str(submission).encode()
    return await witness.http.post("/v1/witness/add-checkpoint", content=content)


def known(witness: Other) -> int | None:
    with witness.database.connect() as connection:
        return connection.execute(text("SELECT max(size) FROM witnessed_logs")).scalar_one()  # type: ignore[no-any-return]


def cosigned(witness: Other, note: Note, response: httpx2.Response) -> Note:
    assert response.status_code == 200, response.text
    return Note.from_text(f"{note}{response.text}")


class TestCosigning:
    async def test_a_growing_log_is_cosigned_step_by_step(self, witness: Other) -> None:
        for old, size in ((0, 3), (3, 8), (8, 8), (8, 20)):
            submission = TREE.submission(old, size)
            before = int(time.time())
            note = cosigned(witness, submission.note, await submit(witness, submission))
            assert opened(note, LOG.public).size == size
            assert before <= witnessed(note, [witness.key])[witness.key] <= time.time()
            assert known(witness) == size

    async def test_the_same_checkpoint_is_cosigned_again(self, witness: Other) -> None:
        """A log that lost the answer may ask again."""
        await submit(witness, TREE.submission(0, 3))
        submission = TREE.submission(3, 3)
        assert witnessed(cosigned(witness, submission.note, await submit(witness, submission)), [witness.key])

    @pytest.mark.parametrize("old", [0, 3, 9, 11])
    async def test_another_old_size_is_a_conflict_that_names_the_known_one(
        self, witness: Other, old: int
    ) -> None:
        await submit(witness, TREE.submission(0, 10))
        response = await submit(witness, TREE.submission(old, 20))
        assert (response.status_code, response.text) == (409, "10\n")
        assert response.headers["content-type"] == SIZE_TYPE
        assert known(witness) == 10

    async def test_a_log_that_is_set_back_is_a_conflict(self, witness: Other) -> None:
        await submit(witness, TREE.submission(0, 10))
        for old in (0, 6):
            response = await submit(witness, TREE.submission(old, 6))
            assert (response.status_code, response.text) == (409, "10\n")

    async def test_two_roots_of_one_size_are_a_conflict_and_are_reported_whole(
        self, witness: Other, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """What the log has signed against itself is the proof."""
        await submit(witness, TREE.submission(0, 10))
        response = await submit(witness, FORK.submission(10, 10))
        assert (response.status_code, response.text) == (409, "10\n")
        reported = [line for line in capfd.readouterr().err.splitlines() if "witness.fork_shown" in line]
        assert len(reported) == 1
        assert base64.b64encode(merkle.root(10, FORK.read)).decode() in reported[0]

    @pytest.mark.parametrize(
        "proof",
        [
            FORK.proof(10, 15),
            (),
            TREE.proof(10, 15)[:-1],
            TREE.proof(10, 15)[1:],
            (*TREE.proof(10, 15), bytes(32)),
            (bytes(32), *TREE.proof(10, 15)),
            tuple(reversed(TREE.proof(10, 15))),
            (bytes([TREE.proof(10, 15)[0][0] ^ 1]) + TREE.proof(10, 15)[0][1:], *TREE.proof(10, 15)[1:]),
        ],
    )
    async def test_a_proof_that_does_not_hold(self, witness: Other, proof: tuple[bytes, ...]) -> None:
        await submit(witness, TREE.submission(0, 10))
        response = await submit(witness, replace(TREE.submission(10, 15), proof=proof))
        assert (response.status_code, response.json()["error"]["code"]) == (422, "not_consistent")
        assert known(witness) == 10

    async def test_a_fork_that_has_grown_past_what_is_known(self, witness: Other) -> None:
        """It is a log of its own, consistent with itself; it is not the one that was cosigned."""
        await submit(witness, TREE.submission(0, 10))
        response = await submit(witness, FORK.submission(10, 20))
        assert response.status_code == 422
        assert (await submit(witness, TREE.submission(10, 20))).status_code == 200

    async def test_a_first_checkpoint_comes_without_a_proof(self, witness: Other) -> None:
        response = await submit(witness, replace(TREE.submission(0, 3), proof=(bytes(32),)))
        assert response.status_code == 422
        assert known(witness) is None

    async def test_an_old_size_above_the_new_one(self, witness: Other) -> None:
        response = await submit(witness, Submission(old_size=9, proof=(), note=TREE.note(3)))
        assert response.status_code == 400

    async def test_a_log_that_is_not_known(self, witness: Other) -> None:
        response = await submit(witness, TREE.submission(0, 3, STRANGER))
        assert (response.status_code, response.json()["error"]["code"]) == (404, "unknown_log")

    @pytest.mark.parametrize("bend", ["another key", "another text", "a witness", "nobody"])
    async def test_what_the_log_has_not_signed(self, witness: Other, bend: str) -> None:
        note = TREE.note(3)
        stranger = replace(LOG, seed=os.urandom(32))
        bent = {
            "another key": replace(note, signatures=(stranger.sign(note.text),)),
            "another text": replace(note, signatures=TREE.note(4).signatures),
            "a witness": replace(note, signatures=(replace(LOG, kind=Kind.witness).sign(note.text, time=1),)),
            "nobody": replace(note, signatures=STRANGER_SIGNATURE),
        }[bend]
        response = await submit(witness, Submission(old_size=0, proof=(), note=bent))
        assert (response.status_code, response.json()["error"]["code"]) == (403, "unknown_log_key")

    async def test_signatures_of_others_are_passed_over(self, witness: Other) -> None:
        submission = TREE.submission(0, 3)
        note = replace(submission.note, signatures=(*STRANGER_SIGNATURE, *submission.note.signatures))
        assert (await submit(witness, replace(submission, note=note))).status_code == 200

    async def test_a_log_whose_key_was_changed_goes_on(self, witness: Other) -> None:
        """Its history is one, whichever of its keys signs."""
        await submit(witness, TREE.submission(0, 3))
        assert (await submit(witness, FORK.submission(0, 8, NEXT))).text == "3\n"
        assert (await submit(witness, TREE.submission(3, 8, NEXT))).status_code == 200

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"old 0\n\n",
            b"old\n\n" + str(TREE.note(3)).encode(),
            b"old 00\n\n" + str(TREE.note(3)).encode(),
            b"old -1\n\n" + str(TREE.note(3)).encode(),
            b"old 0\nAAAA\n\n" + str(TREE.note(3)).encode(),
            b"old 0\n" + str(TREE.note(3)).encode(),
            b"\xff\xfe",
            b"old 1\n" + b"".join(base64.b64encode(bytes(32)) + b"\n" for _ in range(64)) + b"\n"
            + str(TREE.note(3)).encode(),
        ],
    )  # fmt: skip
    async def test_what_is_no_submission(self, witness: Other, body: bytes) -> None:
        response = await submit(witness, body)
        assert response.status_code == 400
        assert response.json()["error"]["type"] == "invalid_request_error"

    async def test_a_body_without_end_is_not_read(self, witness: Other) -> None:
        assert (await submit(witness, b"old 0\n" * 50_000)).status_code == 413

    async def test_of_two_at_once_one_is_cosigned(self, witness: Other) -> None:
        """Checked against one old size, both would be believed otherwise, and one of them rolled back."""
        await submit(witness, TREE.submission(0, 3))
        answers = await asyncio.gather(
            *(submit(witness, tree.submission(3, size)) for tree in (TREE, FORK) for size in range(6, 16))
        )
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses == [200] + [409] * 19
        winner = next(answer for answer in answers if answer.status_code == 200)
        size = range(6, 16)[answers.index(winner) % 10]
        assert known(witness) == size

    async def test_what_was_witnessed_never_goes_back(self, witness: Other) -> None:
        """Kept by the database, whatever a program tries."""
        await submit(witness, TREE.submission(0, 10))
        for statement in (
            "UPDATE witnessed_logs SET size = 9",
            "UPDATE witnessed_logs SET root = decode(repeat('00', 32), 'hex')",
            "UPDATE witnessed_logs SET origin = 'log.example/second'",
            "DELETE FROM witnessed_logs",
            "TRUNCATE witnessed_logs",
        ):
            with pytest.raises(IntegrityError), witness.database.begin() as connection:
                connection.execute(text(statement))

    async def test_it_is_remembered_over_a_restart(self, witness: Other) -> None:
        await submit(witness, TREE.submission(0, 10))
        again = create_app(witness.app.state.settings)
        transport = httpx2.ASGITransport(app=again)
        async with (
            again.router.lifespan_context(again),
            httpx2.AsyncClient(transport=transport, base_url="http://again") as http,
        ):
            restarted = replace(witness, app=again, http=http)
            assert (await submit(restarted, FORK.submission(0, 12))).text == "10\n"

    async def test_a_service_that_is_no_witness(self, http: httpx2.AsyncClient) -> None:
        for response in (
            await http.get("/v1/witness/key"),
            await http.post("/v1/witness/add-checkpoint", content=str(TREE.submission(0, 3))),
        ):
            assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")


STRANGER_SIGNATURE = TREE.note(3, STRANGER).signatures


class Asked:
    """The network between the log and its witnesses, with what went over it and what is broken in it."""

    def __init__(self, *witnesses: Other) -> None:
        self.apps = {str(one.http.base_url.host): one.app for one in witnesses}
        self.requests: list[str] = []
        self.broken: dict[str, Callable[[], Any]] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        host = dict(scope["headers"])[b"host"].decode()
        self.requests.append(host)
        if host in self.broken:
            made = self.broken[host]()
            await (made(scope, receive, send) if callable(made) else made)
            return
        await self.apps[host](scope, receive, send)


def asking(account: Account, *witnesses: Other, seconds: float = 5.0) -> Asked:
    """Let the account's service ask these witnesses."""
    app = account.http._transport.app  # type: ignore[attr-defined]
    network = Asked(*witnesses)
    app.state.cosigners = Cosigners(
        app.state.sessionmaker,
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app=network)),
        [(one.key, f"http://{one.http.base_url.host}/v1/witness") for one in witnesses],
        timeout_seconds=seconds,
    )
    return network


async def log_key(account: Account) -> PublicKey:
    return PublicKey.from_text((await account.http.get("/v1/log/key")).json()["key"])


class TestAsking:
    @pytest.fixture
    async def two(self, owner: Account, install: Install) -> AsyncIterator[tuple[Other, Other]]:
        """Two witnesses of this service's log."""
        key = await log_key(owner)
        async with (
            install(key, name="one.example/w") as one,
            install(key, name="two.example/w") as second,
        ):
            yield one, second

    async def test_a_checkpoint_carries_the_cosignatures_of_all(
        self, owner: Account, database: Engine, two: tuple[Other, Other]
    ) -> None:
        network = asking(owner, *two)
        for start in (0, 3):
            fill(database, 3, start=start)
            note = Note.from_text(await checkpoint(owner))
            assert opened(note, await log_key(owner)).size == start + 3
            assert set(witnessed(note, [one.key for one in two])) == {one.key for one in two}
        asked = len(network.requests)
        assert str(note) == await checkpoint(owner)
        assert len(network.requests) == asked, "what is cosigned is not asked for again"
        told = (await owner.http.get("/v1/log/witnesses")).json()["data"]
        assert [one["key"] for one in told] == [str(one.key) for one in two]

    async def test_a_witness_that_knows_more_or_less_says_so_and_is_asked_again(
        self, owner: Account, database: Engine, two: tuple[Other, Other]
    ) -> None:
        """The log's memory of whom it asked may be lost."""
        asking(owner, *two)
        fill(database, 3)
        await checkpoint(owner)
        with database.begin() as connection:
            connection.execute(text("ALTER TABLE log_cosignatures DISABLE TRIGGER USER"))
            connection.execute(text("DELETE FROM log_cosignatures"))
        fill(database, 2, start=3)
        note = Note.from_text(await checkpoint(owner))
        assert len(witnessed(note, [one.key for one in two])) == 2

    async def test_an_empty_log_asks_nobody(self, owner: Account, two: tuple[Other, Other]) -> None:
        network = asking(owner, *two)
        await checkpoint(owner)
        assert network.requests == []

    async def test_a_witness_that_is_away_costs_nothing_but_its_cosignature(
        self, owner: Account, database: Engine, two: tuple[Other, Other], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def away() -> Any:
            raise httpx2.ConnectError("refused")

        network = asking(owner, *two)
        network.broken["one.example"] = away
        fill(database, 3)
        note = Note.from_text(await checkpoint(owner))
        assert set(witnessed(note, [one.key for one in two])) == {two[1].key}
        asked = network.requests.count("one.example")
        fill(database, 1, start=3)
        await checkpoint(owner)
        assert network.requests.count("one.example") == asked, "it is left alone for a time"
        monkeypatch.setattr(cosigning, "REST_SECONDS", 0.0)
        network = asking(owner, *two)
        note = Note.from_text(await checkpoint(owner))
        assert len(witnessed(note, [one.key for one in two])) == 2

    async def test_a_witness_that_never_answers_costs_its_time_once(
        self, owner: Account, database: Engine, two: tuple[Other, Other]
    ) -> None:
        network = asking(owner, *two, seconds=4)
        network.broken["one.example"] = lambda: asyncio.sleep(60)
        fill(database, 3)
        began = time.monotonic()
        notes = await asyncio.gather(*(checkpoint(owner) for _ in range(5)))
        assert time.monotonic() - began < 30
        assert all(two[1].key in witnessed(Note.from_text(one), [two[1].key]) for one in notes)
        asked = network.requests.count("one.example")
        fill(database, 1, start=3)
        await checkpoint(owner)
        assert network.requests.count("one.example") == asked

    async def test_an_answer_that_comes_late_stands_below_the_next_checkpoint(
        self, owner: Account, database: Engine, two: tuple[Other, Other]
    ) -> None:
        network = asking(owner, *two, seconds=0.05)
        late = two[0]

        async def slowly(scope: Any, receive: Any, send: Any) -> None:
            await asyncio.sleep(0.3)
            await late.app(scope, receive, send)

        network.broken["one.example"] = lambda: slowly
        fill(database, 3)
        assert witnessed(Note.from_text(await checkpoint(owner)), [late.key]) == {}
        deadline = time.monotonic() + 30
        while not witnessed(Note.from_text(await checkpoint(owner)), [late.key]):
            assert time.monotonic() < deadline, "it never came"
            await asyncio.sleep(0.1)

    @pytest.mark.parametrize("answer", ["nonsense", "another's", "its own of another text", "endless", "500"])
    async def test_a_witness_that_answers_something_else(
        self, owner: Account, database: Engine, two: tuple[Other, Other], answer: str
    ) -> None:
        fill(database, 3)
        note = Note.from_text(await checkpoint(owner))
        other = Signer(name="one.example/w", kind=Kind.witness, seed=os.urandom(32))
        own = two[0].app.state.witness.signer
        body = {
            "nonsense": "sorry\n",
            "another's": f"{other.sign(note.text, time=1)}\n",
            "its own of another text": str(own.sign("something else\n", time=1)) + "\n",
            "endless": "— " * 100_000,
            "500": "",
        }[answer].encode()

        async def lying(scope: Any, receive: Any, send: Any) -> None:
            status = 500 if answer == "500" else 200
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": body})

        network = asking(owner, *two)
        network.broken["one.example"] = lambda: lying
        note = Note.from_text(await checkpoint(owner))
        assert [one.key for one in cosigned_by(str(note), [one.key for one in two]) if one.at] == [two[1].key]
        assert len(note.signatures) == 2

    @pytest.mark.parametrize("forgets", [False, True])
    async def test_a_fork_of_the_log_is_not_cosigned(
        self, owner: Account, database: Engine, two: tuple[Other, Other], forgets: bool
    ) -> None:
        """An old backup put back and grown again, with everything that the log signed since deleted."""
        network = asking(owner, *two)
        fill(database, 6)
        await checkpoint(owner)
        with tampering(database) as connection:
            dump = dumped(connection)
        fill(database, 6, start=6)
        honest = Note.from_text(await checkpoint(owner))
        assert len(witnessed(honest, [one.key for one in two])) == 2
        with tampering(database) as connection:
            restored(connection, dump)
            if forgets:
                connection.execute(text("ALTER TABLE log_cosignatures DISABLE TRIGGER USER"))
                connection.execute(text("DELETE FROM log_cosignatures"))
        fill(database, 9, start=100)
        network.requests.clear()
        forked = Note.from_text(await checkpoint(owner))
        assert opened(forked, await log_key(owner)).size == 15
        assert cosigned_by(str(forked), [one.key for one in two])[0].at is None
        assert len(forked.signatures) == 1
        assert len(network.requests) >= 2

    @pytest.mark.parametrize("forgets", [False, True])
    async def test_a_log_that_was_set_back_is_not_cosigned(
        self, owner: Account, database: Engine, two: tuple[Other, Other], forgets: bool
    ) -> None:
        asking(owner, *two)
        fill(database, 6)
        with tampering(database) as connection:
            dump = dumped(connection)
        fill(database, 6, start=6)
        await checkpoint(owner)
        with tampering(database) as connection:
            restored(connection, dump)
            if forgets:
                connection.execute(text("ALTER TABLE log_cosignatures DISABLE TRIGGER USER"))
                connection.execute(text("DELETE FROM log_cosignatures"))
        fill(database, 2, start=100)
        note = Note.from_text(await checkpoint(owner))
        assert (opened(note, await log_key(owner)).size, len(note.signatures)) == (8, 1)

    async def test_no_connection_is_held_while_a_witness_is_waited_for(
        self, owner: Account, database: Engine, two: tuple[Other, Other]
    ) -> None:
        network = asking(owner, *two, seconds=2)
        fill(database, 3)
        open_transactions: list[int] = []

        async def looking(scope: Any, receive: Any, send: Any) -> None:
            query = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND state LIKE 'idle in transaction%'"
            )
            # the reaper's own transactions are short: what is there for half a second is the request's
            for _ in range(10):
                with database.connect() as connection:
                    found = connection.execute(text(query)).scalar_one()
                if found == 0:
                    break
                await asyncio.sleep(0.05)
            open_transactions.append(found)
            await two[0].app(scope, receive, send)

        network.broken["one.example"] = lambda: looking
        await checkpoint(owner)
        assert open_transactions == [0]


async def test_what_is_cosigned_is_never_changed(database: Engine) -> None:
    assert "log_cosignatures" not in TABLES
    for statement in ("UPDATE log_cosignatures SET line = ''", "DELETE FROM log_cosignatures"):
        with pytest.raises(IntegrityError), database.begin() as connection:
            connection.execute(text(statement))


async def test_proofs_for_a_witness_are_those_of_the_log(owner: Account, database: Engine) -> None:
    """A submission reads back as it was written, whatever its proof."""
    fill(database, 20)
    note = Note.from_text(await checkpoint(owner))
    for old in (0, 1, 7, 8, 19, 20):
        made = (await get(owner, "consistency", first=old, second=20)).json()
        proof = tuple(bytes.fromhex(one) for one in made["hashes"])
        submission = Submission(old_size=old, proof=proof, note=note)
        assert Submission.from_text(str(submission)) == submission
