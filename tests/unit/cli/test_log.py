"""`doublei log`: what is shown of an audit, what is saved, and with which status it ends."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from evidence.log.checkpoint import Checkpoint, sign
from evidence.log.entry import EntryKind, entry_of
from evidence.log.merkle import leaf_hash, root_of
from evidence.log.note import Kind, Note, Signer
from evidence.log.succession import record_of, succeed
from evidence.log.witness import with_cosignatures
from tests.unit.cli.service import Service, running
from tests.unit.cli.test_audits import Outcome, doublei

WITNESSES = [
    Signer(name=f"w{number}.example/w", kind=Kind.witness, seed=bytes([number] * 32)) for number in range(3)
]
SIGNER = Signer(name="doublei.example/log", kind=Kind.log, seed=bytes(range(32)))
OTHER = Signer(name="doublei.example/log", kind=Kind.log, seed=bytes(range(1, 33)))
BEGIN = datetime(2026, 11, 25, tzinfo=UTC)


def entry(number: int, *, minutes: int | None = None) -> bytes:
    moment = BEGIN + timedelta(minutes=number if minutes is None else minutes)
    return bytes(entry_of(EntryKind.verdict, {"number": number}, moment))


def note_of(entries: list[bytes], signer: Signer = SIGNER) -> str:
    root = root_of(leaf_hash(one) for one in entries)
    return str(sign(Checkpoint(origin=signer.name, size=len(entries), root=root), signer))


class FakeLog(Service):
    """A service with a log that may lie."""

    def __init__(self, entries: list[bytes]) -> None:
        super().__init__()
        self.entries = entries
        self.note = note_of(entries)
        self.key = str(SIGNER.public)
        self.refusal = ""
        self.successions: list[tuple[int, str]] | None = None

    def answer(self, method: str, path: str) -> tuple[int, bytes]:
        parts = urlsplit(path)
        if parts.path == "/v1/log/key":
            return 200, json.dumps({"object": "log.key", "origin": "o", "key": self.key}).encode()
        if parts.path == "/v1/log/keys":
            if self.successions is None:
                return 404, json.dumps({"error": {"message": "no such route", "code": "not_found"}}).encode()
            data = [{"index": index, "note": note} for index, note in self.successions]
            return 200, json.dumps({"object": "list", "data": data}).encode()
        if parts.path == "/v1/log/checkpoint":
            if self.refusal:
                error = {"message": "Nothing is signed: \x1b[31m[red]", "code": self.refusal}
                return 500, json.dumps({"error": error}).encode()
            return 200, self.note.encode()
        assert parts.path == "/v1/log/entries"
        query = {name: int(values[0]) for name, values in parse_qs(parts.query).items()}
        page = self.entries[query["start"] : query["start"] + query["limit"]]
        return 200, b"".join(one + b"\n" for one in page)


@pytest.fixture
def log() -> FakeLog:
    return FakeLog([entry(number) for number in range(25)])


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that there are several."""
    monkeypatch.setattr("cli.commands.log.PAGE_ENTRIES", 7)


def run(log: FakeLog, *arguments: str) -> Outcome:
    with running(log) as service:
        return doublei(service, "log", *arguments)


def audited(log: FakeLog, *arguments: str) -> tuple[int, dict[str, Any]]:
    outcome = run(log, "audit", "--json", *arguments)
    return outcome.returncode, json.loads(outcome.stdout)


def failed(report: dict[str, Any]) -> list[str]:
    return [step["name"] for step in report["steps"] if step["status"] == "failed"]


def kept(tmp_path: Path, entries: list[bytes], signer: Signer = SIGNER) -> str:
    file = tmp_path / "earlier.note"
    file.write_text(note_of(entries, signer), encoding="utf-8")
    return str(file)


TRUST = ("--trust", str(SIGNER.public))


def test_a_sound_log_under_a_trusted_key(log: FakeLog, tmp_path: Path) -> None:
    earlier = kept(tmp_path, log.entries[:10])
    outcome = run(log, "audit", *TRUST, "--checkpoint", earlier)
    assert outcome.returncode == 0, outcome.stderr + outcome.stdout
    assert "25 entries, every hash made again" in outcome.stdout
    assert len(re.findall(r"passed", outcome.stdout)) == 10
    assert not any(path == "/v1/log/key" for _, path, _, _ in log.requests)


def test_without_a_trusted_key_it_is_self_consistent_only(log: FakeLog) -> None:
    outcome = run(log, "audit")
    assert outcome.returncode == 2
    assert "self-consistent only" in outcome.stdout
    status, report = audited(log)
    assert (status, report["consistent"], report["trusted"]) == (2, True, False)
    assert [step["number"] for step in report["steps"]] == list(range(1, 12))
    assert (report["size"], report["origin"]) == (25, SIGNER.name)


def test_the_key_may_be_in_a_file(log: FakeLog, tmp_path: Path) -> None:
    key = tmp_path / "log.key"
    key.write_text(run(log, "key").stdout)
    assert run(log, "audit", "--trust", str(key)).returncode == 0


def test_an_empty_log_is_sound() -> None:
    assert audited(FakeLog([]), *TRUST)[0] == 0


def test_a_log_that_another_key_signed(log: FakeLog) -> None:
    """The step says so, and what can't be held against a signature is not said to be checked."""
    log.note = note_of(log.entries, OTHER)
    log.key = str(OTHER.public)
    status, report = audited(log, *TRUST)
    assert (status, failed(report)) == (1, ["checkpoint"])
    assert report["size"] is None


def test_a_changed_entry(log: FakeLog) -> None:
    log.entries[4] = entry(99, minutes=4)
    assert audited(log, *TRUST)[1]["consistent"] is False
    status, report = audited(log, *TRUST)
    assert (status, failed(report)) == (1, ["root"])
    outcome = run(log, "audit", *TRUST)
    assert "not the log that was signed" in outcome.stdout


def test_a_missing_entry(log: FakeLog) -> None:
    del log.entries[4]
    assert failed(audited(log, *TRUST)[1]) == ["entries", "root"]


@pytest.mark.parametrize("bad", [b"{}", b"\xff", b'{"kind":"verdict"}', entry(3).replace(b'"v":1', b'"v":2')])
def test_what_is_no_entry(log: FakeLog, bad: bytes) -> None:
    """Also where it was hashed and signed as it is."""
    log.entries[4] = bad
    log.note = note_of(log.entries)
    report = audited(log, *TRUST)[1]
    assert failed(report) == ["entries"]
    assert "entry 4" in report["steps"][2]["detail"]


def test_an_entry_dated_back(log: FakeLog) -> None:
    log.entries[9] = entry(9, minutes=-5)
    log.note = note_of(log.entries)
    report = audited(log, *TRUST)[1]
    assert failed(report) == ["times"]
    assert "entry 9" in report["steps"][3]["detail"]


def test_a_rewritten_log_is_found_out_by_an_earlier_checkpoint_alone(log: FakeLog, tmp_path: Path) -> None:
    earlier = kept(tmp_path, log.entries[:10])
    log.entries[4] = entry(99, minutes=4)
    log.note = note_of(log.entries)
    assert audited(log, *TRUST)[0] == 0
    status, report = audited(log, *TRUST, "--checkpoint", earlier)
    assert (status, failed(report)) == (1, ["history"])


def test_a_log_that_was_set_back(log: FakeLog, tmp_path: Path) -> None:
    earlier = kept(tmp_path, log.entries)
    log.entries = log.entries[:8]
    log.note = note_of(log.entries)
    report = audited(log, *TRUST, "--checkpoint", earlier)[1]
    assert failed(report) == ["growth"]
    assert report["steps"][8]["status"] == "not_checked"


def test_a_forked_log(log: FakeLog, tmp_path: Path) -> None:
    earlier = kept(tmp_path, log.entries)
    log.entries[24] = entry(99, minutes=24)
    log.note = note_of(log.entries)
    assert failed(audited(log, *TRUST, "--checkpoint", earlier)[1]) == ["one root", "history"]


def test_an_earlier_checkpoint_of_another_key(log: FakeLog, tmp_path: Path) -> None:
    earlier = kept(tmp_path, log.entries[:10], OTHER)
    assert failed(audited(log, *TRUST, "--checkpoint", earlier)[1]) == ["earlier checkpoint"]


def test_a_service_that_signs_nothing_is_held_against_the_earlier_checkpoint(
    log: FakeLog, tmp_path: Path
) -> None:
    earlier = kept(tmp_path, log.entries[:10])
    log.refusal = "log_inconsistent"
    log.entries[4] = entry(99, minutes=4)
    status, report = audited(log, *TRUST, "--checkpoint", earlier)
    assert (status, failed(report)) == (1, ["checkpoint", "history"])
    outcome = run(log, "audit", *TRUST)
    assert outcome.returncode == 1
    assert "\x1b" not in outcome.stdout
    assert "[red]" in outcome.stdout


def test_a_service_that_is_away_says_nothing_of_the_log(log: FakeLog) -> None:
    log.refusal = "unavailable"
    outcome = run(log, "audit", *TRUST)
    assert outcome.returncode == 2
    assert outcome.stdout == ""
    assert "500" in outcome.stderr


def test_a_log_that_claims_to_be_endless_ends(log: FakeLog) -> None:
    root = root_of(leaf_hash(one) for one in log.entries)
    log.note = str(sign(Checkpoint(origin=SIGNER.name, size=10**15, root=root), SIGNER))
    status, report = audited(log, *TRUST)
    assert (status, failed(report)) == (1, ["entries", "root"])
    assert len(log.requests) < 10


def test_a_checkpoint_is_saved_when_nothing_failed_and_is_the_next_audits_earlier_one(
    log: FakeLog, tmp_path: Path
) -> None:
    saved = tmp_path / "new.note"
    status, report = audited(log, *TRUST, "--save", str(saved))
    assert (status, report["saved"]) == (0, str(saved))
    assert saved.read_text(encoding="utf-8") == log.note
    before = log.note
    log.entries.append(entry(25))
    log.note = note_of(log.entries)
    assert run(log, "audit", *TRUST, "--checkpoint", str(saved)).returncode == 0
    log.entries[4] = entry(99, minutes=4)
    status, report = audited(log, *TRUST, "--save", str(saved))
    assert (status, report["saved"]) == (1, None)
    assert saved.read_text(encoding="utf-8") == before


def test_a_checkpoint_by_itself(log: FakeLog, tmp_path: Path) -> None:
    file = tmp_path / "a.note"
    outcome = run(log, "checkpoint", "-o", str(file))
    assert outcome.returncode == 0, outcome.stderr
    assert "25 entries of doublei.example/log" in outcome.stdout
    assert file.read_text(encoding="utf-8") == log.note
    log.note = "sorry"
    assert run(log, "checkpoint", "-o", str(file)).returncode == 2


def test_the_key_is_printed_for_a_file(log: FakeLog) -> None:
    assert run(log, "key").stdout == f"{SIGNER.public}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--witness", "nonsense"), "--witness"),
        (("--witness", str(SIGNER.public)), "--witness"),
        (("--quorum", "1"), "--quorum"),
        (("--quorum", "2", "--witness", str(WITNESSES[0].public)), "--quorum"),
        (("--trust", "nonsense"), "--trust"),
        (("--trust", str(Signer(name="w", kind=Kind.witness, seed=bytes(32)).public)), "--trust"),
        (("--checkpoint", "/nowhere/old.note"), "--checkpoint"),
        (("--save", "/nowhere/new.note"), "--save"),
    ],
)
def test_mistakes_are_one_line(log: FakeLog, arguments: tuple[str, ...], words: str) -> None:
    outcome = run(log, "audit", *arguments)
    assert outcome.returncode == 2
    assert words in outcome.stderr
    assert outcome.stderr.count("\n") == 1


def cosign(log: FakeLog, *numbers: int, text: str | None = None) -> None:
    """Let these witnesses stand below the log's note."""
    note = Note.from_text(log.note)
    lines = [WITNESSES[number].sign(text or note.text, time=1_800_000_000 + number) for number in numbers]
    log.note = str(with_cosignatures(note, lines))


def witness_file(tmp_path: Path) -> str:
    """As the log's own setting is written: an address may stand behind each key."""
    file = tmp_path / "witnesses"
    file.write_text("# whom I believe\n" + "".join(f"{one.public} https://{one.name}\n" for one in WITNESSES))
    return str(file)


def test_witnesses_that_are_there_are_named_with_their_time(log: FakeLog, tmp_path: Path) -> None:
    cosign(log, 0, 1, 2)
    status, report = audited(log, *TRUST, "--witness", witness_file(tmp_path))
    assert (status, failed(report)) == (0, [])
    assert report["steps"][10]["detail"] == (
        "cosigned by w0.example/w at 2027-01-15T08:00:00Z, w1.example/w at 2027-01-15T08:00:01Z, "
        "w2.example/w at 2027-01-15T08:00:02Z"
    )
    assert [one["cosigned_at"] for one in report["witnesses"]] == [1_800_000_000 + n for n in range(3)]


def test_a_witness_that_is_not_there_is_named_and_fails_the_audit(log: FakeLog, tmp_path: Path) -> None:
    """Unless fewer are enough: a witness may be away."""
    cosign(log, 0, 2)
    named = ("--witness", witness_file(tmp_path))
    status, report = audited(log, *TRUST, *named)
    assert (status, failed(report)) == (1, ["witnesses"])
    assert "2 of the 3 wanted" in report["steps"][10]["detail"]
    assert "not by w1.example/w" in report["steps"][10]["detail"]
    assert audited(log, *TRUST, *named, "--quorum", "2")[0] == 0
    assert "do not stand for this log" in run(log, "audit", *TRUST, *named).stdout


def test_a_forged_cosignature_fails_whatever_the_quorum(log: FakeLog) -> None:
    cosign(log, 0)
    cosign(log, 1, text=note_of([]).partition("\n\n")[0] + "\n")
    keys = [word for number in (0, 1) for word in ("--witness", str(WITNESSES[number].public))]
    status, report = audited(log, *TRUST, *keys, "--quorum", "1")
    assert (status, failed(report)) == (1, ["witnesses"])
    assert "forged: w1.example/w" in report["steps"][10]["detail"]


def test_a_cosignature_of_somebody_else_counts_for_nothing(log: FakeLog) -> None:
    cosign(log, 0)
    status, report = audited(log, *TRUST, "--witness", str(WITNESSES[1].public))
    assert (status, failed(report)) == (1, ["witnesses"])
    assert "cosigned by nobody" in report["steps"][10]["detail"]


def test_a_checkpoint_is_saved_only_with_the_signatures_asked_for(log: FakeLog, tmp_path: Path) -> None:
    file, named = tmp_path / "a.note", ("--witness", witness_file(tmp_path))
    cosign(log, 0, 1)
    outcome = run(log, "checkpoint", "-o", str(file), *TRUST, *named)
    assert outcome.returncode == 1
    assert "not by w2.example/w" in outcome.stderr
    other = ("--trust", str(OTHER.public))
    assert run(log, "checkpoint", "-o", str(file), *other).returncode == 1
    assert not file.exists()
    outcome = run(log, "checkpoint", "-o", str(file), *TRUST, *named, "--quorum", "2")
    assert outcome.returncode == 0, outcome.stderr
    assert "w0.example/w at 2027" in outcome.stdout
    assert file.read_text(encoding="utf-8") == log.note


def test_a_log_whose_key_was_changed_is_audited_with_the_old_key_and_with_the_new(
    log: FakeLog, tmp_path: Path
) -> None:
    earlier = kept(tmp_path, log.entries[:10])
    succession = str(succeed(SIGNER, OTHER))
    moment = datetime(2026, 11, 25, tzinfo=UTC) + timedelta(hours=9)
    log.entries.append(bytes(entry_of(EntryKind.log_key, record_of(succession), moment)))
    log.note, log.key = note_of(log.entries, OTHER), str(OTHER.public)
    log.successions = [(25, succession)]
    for key in (SIGNER, OTHER):
        status, report = audited(log, "--trust", str(key.public), "--checkpoint", earlier)
        assert (status, failed(report), report["key"]) == (0, [], str(OTHER.public))
    assert str(OTHER.public) in audited(log, *TRUST)[1]["steps"][1]["detail"]
    assert run(log, "checkpoint", "-o", str(tmp_path / "b.note"), *TRUST).returncode == 0
    log.note = note_of(log.entries)
    status, report = audited(log, *TRUST)
    assert (status, failed(report)) == (1, ["checkpoint"])
    assert "retired at entry 25" in report["steps"][0]["detail"]
