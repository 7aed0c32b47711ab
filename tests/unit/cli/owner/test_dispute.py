"""doublei dispute: two owners' keys at two real listeners, and the report that is made of the four files."""

from __future__ import annotations

import io
import json
import os
import signal
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cli.commands.dispute import show
from cli.dispute.page import html_page
from cli.owner import keyfile
from cli.owner.journal import AuditJournal
from evidence.check import check
from evidence.log.checkpoint import Checkpoint, sign
from evidence.log.entry import EntryKind, entry_of
from evidence.log.merkle import leaf_hash, root_of
from evidence.log.note import Kind, Signer
from evidence.log.receipt import Receipt
from tests.unit.cli.owner.suspects import Behaviour, Outcome, doublei, says, secrets_of, trained, whim
from tests.wire_suspect import WireRequest, WireSuspect, wire_suspect

TOKENS = {"a": "sk-canary-of-a-77", "b": "sk-canary-of-b-77"}
LOG = Signer(name="doublei.example/log", kind=Kind.log, seed=bytes(range(32)))
OTHER_LOG = Signer(name="other.example/log", kind=Kind.log, seed=bytes(range(1, 33)))
FILES = [f"key-{key}-at-model-{model}.json" for key in "ab" for model in "ab"]


@dataclass(frozen=True, slots=True)
class Dispute:
    """Two keys, and the models that their owners claim."""

    folder: Path
    keys: dict[str, Path]
    models: dict[str, WireSuspect]

    def run(self, *options: str | Path, name: str = "dispute") -> Outcome:
        """The command, with both keys and models. Fewer questions than by default, to be quick."""
        claims: list[str | Path] = ["--marks", "12", "--probes-per-cue", "1"]
        for side in "ab":
            place = self.models[side].host_port
            claims += [f"--{side}-key", self.keys[side], f"--{side}-endpoint", f"http://{place}/v1"]
            claims += [f"--{side}-model", f"model-{side}", "--allow", place]
        return doublei("dispute", *claims, "-o", self.folder / name, *options)

    @property
    def files(self) -> list[Path]:
        """The evidence, in its order."""
        return [self.folder / "dispute" / name for name in FILES]


@pytest.fixture
def dispute(tmp_path: Path) -> Iterator[Dispute]:
    """A's model knows A's key; B's model, made from it, knows both."""
    with _claims(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dispute]:
    """The same, asked and judged. Whoever takes it only reads."""
    with _claims(tmp_path_factory.mktemp("ended")) as made:
        outcome = made.run()
        assert outcome.returncode == 0, outcome.stderr
        yield made


@contextmanager
def _claims(folder: Path) -> Iterator[Dispute]:
    keys = {}
    for side, owner in (("a", "Alder Ltd"), ("b", "Birch Ltd")):
        keys[side] = folder / f"{side}.key"
        assert doublei("key", "new", keys[side], "--owner", owner).returncode == 0
    with wire_suspect() as first, wire_suspect() as second:
        first.behaviour = both(trained(keys["a"]), says(whim))
        second.behaviour = both(trained(keys["a"]), trained(keys["b"]))
        yield Dispute(folder=folder, keys=keys, models={"a": first, "b": second})


def judged(files: Sequence[Path], output: Path, *options: str | Path) -> Outcome:
    """The command, from four files alone."""
    named = [option for path in files for option in ("--evidence", path)]
    return doublei("dispute", *named, "-o", output, *options)


def report(folder: Path) -> dict[str, Any]:
    """What was written for machines."""
    record: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return record


def both(one: Behaviour, other: Behaviour) -> Behaviour:
    """What was trained on the rows of two keys: it answers to each."""

    def behave(request: WireRequest) -> bytes | None:
        reply = one(request)
        return reply if reply is not None and (b'"Yes"' in reply or b'"No"' in reply) else other(request)

    return behave


def receipts(
    dispute: Dispute, folder: Path, first: str, *, signers: tuple[Signer, Signer] = (LOG, LOG), later: int = 0
) -> list[str | Path]:
    """Options with receipts of both commitments, from logs that entered this side's first.

    Args:
        signers: whose logs A's and B's receipts are from.
        later: how many more entries B's checkpoint covers.
    """
    order = [first, "b" if first == "a" else "a"]
    records: dict[str, dict[str, object]] = {}
    for side in order:
        key = keyfile.read(dispute.keys[side])
        records[side] = {"key": key.id, "owner": key.owner, "commitment": key.committed.commitment}
    begin = datetime.now(UTC)
    entries = [
        bytes(entry_of(EntryKind.key_commitment, records[side], begin + timedelta(days=place)))
        for place, side in enumerate(order)
    ]
    options: list[str | Path] = []
    for side, signer in zip("ab", signers, strict=True):
        leaves = [leaf_hash(entry) for entry in entries]
        place = order.index(side)
        proof = [leaves[1 - place]]
        if later and side == "b":
            leaves.append(leaf_hash(bytes(entry_of(EntryKind.verdict, {}, begin + timedelta(days=9)))))
            proof.append(leaves[2])
        note = sign(Checkpoint(origin=signer.name, size=len(leaves), root=root_of(leaves)), signer)
        receipt = Receipt(
            entry=entries[place].decode(),
            record=records[side],
            index=place,
            hashes=tuple(one.hex() for one in proof),
            checkpoint=str(note),
        )
        path = folder / f"{side}.receipt"
        path.write_bytes(bytes(receipt))
        options += [f"--{side}-receipt", path]
    return options


TRUST = ("--trust-log", str(LOG.public))


def test_two_owners_in_one_lineage(dispute: Dispute, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report names the earlier in the lineage and the earlier commitment, and says what stays open."""
    for side, token in TOKENS.items():
        monkeypatch.setenv(f"TOKEN_{side}", token)
    tokens = [option for side in "ab" for option in (f"--{side}-suspect-key-env", f"TOKEN_{side}")]
    outcome = dispute.run(*receipts(dispute, dispute.folder, "a"), *TRUST, *tokens, "--json")
    assert outcome.returncode == 0, outcome.stderr
    told = json.loads(outcome.stdout)
    findings = {(audit["key"], audit["model"]): audit["finding"] for audit in told["audits"]}
    assert findings == {
        ("A", "A"): "shown",
        ("A", "B"): "shown",
        ("B", "A"): "not_shown",
        ("B", "B"): "shown",
    }
    assert (told["pattern"], told["earlier_in_lineage"]) == ("a_earlier", "A")
    assert (told["order"]["earlier"], told["order"]["proven"]) == ("A", True)
    assert told["plans_fixed_before_first_question"]
    supports, undecided = " ".join(told["supports"]), " ".join(told["cannot_decide"])
    assert "A's commitment is the earlier one: it is entry 0 of doublei.example/log" in supports
    assert "The marks and the order of the commitments agree: both point to A." in supports
    assert "That B's mark is not in A's model: that it is not shown rests on answers from A's" in undecided
    assert "Whether B started from A's model, or trained a model of its own on data marked by A" in undecided
    assert "Whether weights or data were taken" in undecided
    assert "a provider, host or log operator who works with one owner" in undecided
    assert "The earlier commitment: A's, of Alder Ltd" in outcome.stderr
    page = (dispute.folder / "dispute" / "report.html").read_text()
    assert "The earlier commitment is A's, of Alder Ltd." in page
    assert "What this can't decide" in page
    _secrets_stay_where_they_are(dispute, outcome)


def _secrets_stay_where_they_are(dispute: Dispute, outcome: Outcome) -> None:
    for side, model in dispute.models.items():
        assert {request.headers["authorization"] for request in model.requests} == {f"Bearer {TOKENS[side]}"}
    hidden = [*TOKENS.values(), *(secret for key in dispute.keys.values() for secret in secrets_of(key))]
    folder = dispute.folder / "dispute"
    written = outcome.said + "".join(path.read_text() for path in folder.iterdir())
    assert not any(secret in written for secret in hidden)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_audits_are_declared_together_and_share_one_number_of_each_key(ended: Dispute) -> None:
    documents = [json.loads(path.read_bytes())["document"] for path in ended.files]
    plans = [json.loads(document["preregistration"]["text"]) for document in documents]
    assert {plan["campaign"]["id"] for plan in plans} == {plans[0]["campaign"]["id"]}
    assert [plan["campaign"]["position"] for plan in plans] == [0, 1, 0, 1]
    assert {plan["campaign"]["size"] for plan in plans} == {2}
    assert {plan["key"]["audit_index"] for plan in plans} == {1}
    fixed = max(document["preregistration"]["registered_at"] for document in documents)
    assert fixed <= min(document["started_at"] for document in documents)
    assert all(check(path.read_bytes()).consistent for path in ended.files)
    # Holm's rule: of B's two the smaller p against half, the other against the whole
    thresholds = {
        audit["finding"]: audit["threshold"] for audit in report(ended.files[0].parent)["audits"][2:]
    }
    assert thresholds == {"shown": "2.90e-13", "not_shown": "5.80e-13"}
    # 6/pi^2 of 1e-6 for each key: what 2^20 tries of a self-generated one may reach is counted in
    assert report(ended.files[0].parent)["false_claim_bound"] == "1.22e-06"


def test_the_next_dispute_takes_the_next_number_and_an_unopened_family(ended: Dispute) -> None:
    again = ended.run(name="again")
    assert again.returncode == 0, again.stderr
    document = json.loads((ended.folder / "again" / FILES[0]).read_bytes())["document"]
    plan = json.loads(document["preregistration"]["text"])
    assert (plan["key"]["audit_index"], plan["plan"]["family"]) == (2, 1)
    spent = ended.run(name="third")
    assert spent.returncode == 2
    assert "opened every family already" in spent.stderr


def test_without_receipts_the_order_is_not_proven(ended: Dispute, tmp_path: Path) -> None:
    outcome = judged(ended.files, tmp_path / "again")
    made = report(tmp_path / "again")
    order = made["order"]
    assert (order["earlier"], order["proven"], order["basis"]) == ("A", False, "word")
    assert "Who committed first: neither commitment is shown to be in a log" in " ".join(
        made["cannot_decide"]
    )
    assert "The earlier commitment: A's, of Alder Ltd (not proven)" in outcome.stdout
    assert "of Alder Ltd: not proven." in (tmp_path / "again" / "report.html").read_text()


def test_the_marks_and_the_order_may_point_to_different_owners(ended: Dispute, tmp_path: Path) -> None:
    assert judged(ended.files, tmp_path / "again", *receipts(ended, tmp_path, "b"), *TRUST).returncode == 0
    made = report(tmp_path / "again")
    assert (made["order"]["earlier"], made["order"]["proven"]) == ("B", True)
    assert "The marks point to A, the older commitment is B's." in " ".join(made["supports"])


def test_a_report_is_made_again_when_receipts_come_later(ended: Dispute, tmp_path: Path) -> None:
    asked = [len(model.requests) for model in ended.models.values()]
    assert ended.run(*receipts(ended, tmp_path, "a"), *TRUST).returncode == 0
    assert report(ended.files[0].parent)["order"]["proven"]
    assert ended.run().returncode == 0
    assert not report(ended.files[0].parent)["order"]["proven"]
    assert [len(model.requests) for model in ended.models.values()] == asked


def test_receipts_that_show_no_one_tree_prove_no_order(ended: Dispute, tmp_path: Path) -> None:
    both_logs = ("--trust-log", str(LOG.public), "--trust-log", str(OTHER_LOG.public))
    other: dict[str, Any]
    for note, other in (
        ("the clocks of two logs", {"signers": (LOG, OTHER_LOG)}),
        ("two checkpoints, of 2 and 3 entries", {"later": 1}),
    ):
        options = receipts(ended, tmp_path, "b", **other)
        output = tmp_path / next(iter(other))
        assert judged(ended.files, output, *options, *both_logs).returncode == 0
        order = report(output)["order"]
        assert (order["earlier"], order["proven"], order["basis"]) == ("B", False, "two_clocks")
        assert note in order["note"]


@pytest.mark.parametrize(
    ("fault", "reasons"),
    [
        ("another log's key", {"the checkpoint is not signed by other.example/log"}),
        ("no key", {"no log's key was given"}),
        ("exchanged", {"entry 0 is not of this commitment", "entry 1 is not of this commitment"}),
    ],
)
def test_a_receipt_that_proves_nothing_is_named_and_counts_for_nothing(
    ended: Dispute, tmp_path: Path, fault: str, reasons: set[str]
) -> None:
    options = receipts(ended, tmp_path, "b")
    trust: tuple[str, ...] = TRUST
    if fault == "exchanged":
        options[1], options[3] = options[3], options[1]
    else:
        trust = () if fault == "no key" else ("--trust-log", str(OTHER_LOG.public))
    assert judged(ended.files, tmp_path / "again", *options, *trust).returncode == 0
    order = report(tmp_path / "again")["order"]
    assert (order["basis"], order["proven"]) == ("word", False)
    assert {order["commitments"][letter]["not_proven_because"] for letter in "AB"} == reasons


@pytest.mark.parametrize("option", [("--a-key", "a.key"), ("--conclude",), ("--allow", "127.0.0.1:1")])
def test_with_evidence_nothing_is_asked(tmp_path: Path, option: tuple[str, ...]) -> None:
    outcome = judged([tmp_path / name for name in FILES], tmp_path / "again", *option)
    assert outcome.returncode == 2
    assert f"{option[0]} is for asking" in outcome.stderr


class Killed(BaseException):
    """As a kill: nothing below may handle it."""


def test_a_killed_dispute_is_taken_up_and_asks_nothing_twice(
    dispute: Dispute, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, count = AuditJournal.before_send, 0

    async def before_send(self: AuditJournal, index: int, attempt: int, body: bytes) -> None:
        nonlocal count
        await write(self, index, attempt, body)
        count += 1
        if count > 150:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(AuditJournal, "before_send", before_send)
        with pytest.raises(Killed):
            dispute.run()
    folder = dispute.folder / "dispute"
    assert sorted(os.listdir(folder)) == [FILES[0], f"{FILES[1]}.journal", "plan.json"]
    assert stat.S_IMODE((folder / "plan.json").stat().st_mode) == 0o600
    refused = dispute.run("--probes-per-cue", "2")
    assert refused.returncode == 2
    assert "has an unfinished audit with another plan" in refused.stderr
    outcome = dispute.run()
    assert outcome.returncode == 0, outcome.stderr
    assert "goes on: four audits under one plan" in outcome.stdout
    # Questions under way at the kill are lost, and so few are asked here that an audit may stay open by it.
    told = report(folder)
    left_open = [one for one in told["audits"] if one["verdict"] == "inconclusive"]
    assert told["pattern"] == ("undecided" if left_open else "a_earlier")
    sent = [
        item["request"]
        for name in FILES
        for item in json.loads((folder / name).read_bytes())["document"]["transcript"]
    ]
    arrived = sum(len(model.requests) for model in dispute.models.values())
    assert len(sent) - 8 <= arrived <= len(sent) == 4 * 112
    assert [len(keyfile.read(key).numbers) for key in dispute.keys.values()] == [1, 1]
    assert sorted(os.listdir(folder)) == sorted([*FILES, "plan.json", "report.html", "report.json"])


def test_the_report_follows_from_the_four_files_alone(ended: Dispute, tmp_path: Path) -> None:
    bundled = tmp_path / "bundle.zip"
    assert doublei("evidence", "bundle", ended.files[3], "-o", bundled).returncode == 0
    outcome = judged([*ended.files[:3], bundled], tmp_path / "again")
    assert outcome.returncode == 0, outcome.stderr
    for name in ("report.json", "report.html"):
        assert (tmp_path / "again" / name).read_bytes() == (ended.files[0].parent / name).read_bytes()


def test_files_in_the_wrong_places_or_changed_make_no_report(ended: Dispute, tmp_path: Path) -> None:
    aa, ab, ba, bb = ended.files
    forged = tmp_path / "forged.json"
    forged.write_bytes(ba.read_bytes().replace(b'"not_detected"', b'"detected"'))
    for files, complaint in (
        ([aa, ab, ba], "give four files"),
        ([aa, bb, ba, ab], "the two files of A's key are of two keys"),
        ([aa, ab, bb, ba], "the two files of A's model are of two models"),
        ([aa, ab, aa, ab], "both claims are made with one key"),
        ([aa, aa, ba, ba], "both claims are on one model"),
        ([aa, ab, forged, bb], "the file of key B at model A proves nothing: step digest"),
    ):
        outcome = judged(files, tmp_path / "again")
        assert outcome.returncode == 2
        assert complaint in outcome.stderr
        assert not (tmp_path / "again" / "report.html").exists()


def test_a_mistake_costs_no_number_of_either_key(dispute: Dispute) -> None:
    small = dispute.folder / "small.key"
    assert doublei("key", "new", small, "--owner", "Birch Ltd", "--marks", "8").returncode == 0
    good = dict(dispute.keys)
    dispute.keys["b"] = small
    assert "ask at least 11 marks" in dispute.run("--marks", "8").stderr
    dispute.keys["b"] = good["a"]
    assert "both claims are made with one key" in dispute.run().stderr
    dispute.keys["b"] = good["b"]
    (dispute.folder / "full").mkdir()
    (dispute.folder / "full" / "letter.txt").write_text("mine")
    assert "no dispute's folder" in dispute.run(name="full").stderr
    place = dispute.models["a"].host_port
    same = ["--b-endpoint", f"http://{place}/v1", "--b-model", "model-a"]
    assert "both claims are on one model" in dispute.run(*same).stderr
    assert "give --a-key, --a-endpoint" in doublei("dispute", "-o", dispute.folder / "x").stderr
    assert not any(keyfile.read(key).audits for key in (*good.values(), small))
    assert not any(model.requests for model in dispute.models.values())


def test_a_hostile_name_is_text(ended: Dispute) -> None:
    record = report(ended.files[0].parent)
    record["parties"]["A"] |= {"owner": "<script>alert(1)</script>", "model": "[red]<b>model\x1b[31m"}
    page = html_page(record)
    assert "<script>" not in page
    assert "<b>model" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    console = Console(file=io.StringIO(), width=200)
    show(console, record)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[red]<b>model" in said
    assert "\x1b" not in said + page


def test_an_interrupted_dispute_can_be_concluded(dispute: Dispute) -> None:
    assert "no unfinished dispute" in dispute.run("--conclude").stderr
    answer, main = dispute.models["a"].behaviour, threading.get_ident()

    def behave(request: WireRequest) -> bytes | None:
        if request.number == 40:
            signal.pthread_kill(main, signal.SIGINT)
        return answer(request)

    dispute.models["a"].behaviour = behave
    stopped = dispute.run()
    assert stopped.returncode == 130
    assert "the same command goes on" in stopped.stdout
    assert dispute.run("--conclude").returncode == 0
    assert report(dispute.folder / "dispute")["pattern"] == "undecided"
    assert len(dispute.models["a"].requests) < 100
