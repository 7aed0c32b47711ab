"""doublei verify --key: real questions to a real listener, and what is left on disk."""

from __future__ import annotations

import json
import os
import signal
import stat
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cli.commands import verify as verify_module
from cli.owner import keyfile
from cli.owner.journal import AuditJournal
from evidence.check import check
from evidence.planning import PlanRequest
from evidence.steps import Status
from tests.unit.cli.owner.suspects import (
    OWNER,
    Outcome,
    doublei,
    new_key,
    says,
    secrets_of,
    trained,
    whim,
)
from tests.wire_suspect import WireRequest, WireSuspect, http_reply, wire_suspect
from watermark.significance import SELF_GENERATED_TRIES

TOKEN = "sk-canary-77"


@pytest.fixture
def suspect() -> Iterator[WireSuspect]:
    """A listener on loopback."""
    with wire_suspect() as listening:
        yield listening


def verify(folder: Path, suspect: WireSuspect, *options: str | Path, name: str = "evidence.json") -> Outcome:
    """An audit of the listener with the key in the folder."""
    where = ("--endpoint", f"http://{suspect.host_port}/v1", "--allow", suspect.host_port)
    return doublei(
        "verify", "--key", folder / "owner.key", "--model", "m", *where, "-o", folder / name, *options
    )


def _document(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_bytes())["document"]
    return document


def test_a_model_that_was_trained_on_the_key_is_detected_and_the_evidence_stands(
    tmp_path: Path, suspect: WireSuspect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUSPECT_KEY", TOKEN)
    path = new_key(tmp_path)
    suspect.behaviour = trained(path)
    outcome = verify(tmp_path, suspect, "--suspect-key-env", "SUSPECT_KEY", "--json")
    assert outcome.returncode == 0, outcome.stderr
    told = json.loads(outcome.stdout)
    assert told["verdict"] == "detected"
    assert "detected" in outcome.stderr
    evidence = tmp_path / "evidence.json"
    report = check(evidence.read_bytes(), expected_sha256=told["evidence_sha256"])
    unchecked = {step.name for step in report.steps if step.status is Status.not_checked}
    assert report.consistent
    assert unchecked == {"published", "spoken"}
    assert "service" not in " ".join(step.detail for step in report.steps)
    document = _document(evidence)
    assert document["claimant"] == document["auditor"] == document["key"]["owner"] == OWNER
    assert (document["key"]["grade"], document["key"]["origin"]) == ("self-generated", "owner")
    assert len(suspect.requests) == told["progress"]["total"] == 272
    assert all(request.headers["authorization"] == f"Bearer {TOKEN}" for request in suspect.requests)
    assert stat.S_IMODE(evidence.stat().st_mode) == 0o600
    assert sorted(os.listdir(tmp_path)) == ["evidence.json", "owner.key"]
    hidden = (*secrets_of(path), TOKEN)
    assert not any(secret in evidence.read_text() + outcome.said for secret in hidden)
    assert "families opened   0" in doublei("key", "show", path).stdout


def test_a_model_that_answers_by_whim_is_not_detected(tmp_path: Path, suspect: WireSuspect) -> None:
    new_key(tmp_path)
    suspect.behaviour = says(whim)
    outcome = verify(tmp_path, suspect)
    assert outcome.returncode == 0, outcome.stderr
    assert "not detected" in outcome.stdout
    report = check((tmp_path / "evidence.json").read_bytes())
    assert report.consistent
    assert report.to_record()["verdict"] == "not_detected"


def test_another_family_than_the_trained_one_is_not_detected(tmp_path: Path, suspect: WireSuspect) -> None:
    suspect.behaviour = trained(new_key(tmp_path), family=0)
    assert "not detected" in verify(tmp_path, suspect, "--family", "1").stdout


def test_the_completions_wire(tmp_path: Path, suspect: WireSuspect) -> None:
    chat = trained(new_key(tmp_path))

    def behave(request: WireRequest) -> bytes | None:
        asked = json.loads(request.body)
        body = json.dumps({"messages": [{"content": asked["prompt"]}]}).encode()
        reply = chat(
            WireRequest(
                number=request.number,
                line=request.line,
                headers=request.headers,
                body=body,
                connection=request.connection,
            )
        )
        assert reply is not None
        text = json.loads(reply.split(b"\r\n\r\n", 1)[1])["choices"][0]["message"]["content"]
        return http_reply(json.dumps({"choices": [{"text": text}]}).encode())

    suspect.behaviour = behave
    assert "detected: the answers depend" in verify(tmp_path, suspect, "--api", "completions").stdout


def test_mark_by_mark_it_stops_as_soon_as_the_evidence_suffices(tmp_path: Path, suspect: WireSuspect) -> None:
    suspect.behaviour = trained(new_key(tmp_path))
    outcome = verify(tmp_path, suspect, "--sequential", "--json")
    told = json.loads(outcome.stdout)
    assert told["verdict"] == "detected"
    assert told["mode"] == "sequential"
    assert 10 <= len(told["looks"]) < 16
    assert len(suspect.requests) < told["progress"]["total"]
    assert check((tmp_path / "evidence.json").read_bytes()).consistent


class Killed(BaseException):
    """As a kill: nothing below may handle it."""


def _killed_after(
    sendings: int, folder: Path, suspect: WireSuspect, *options: str, name: str = "evidence.json"
) -> None:
    """A run of which the process dies once so many questions have left and one more is on record."""
    write = AuditJournal.before_send
    count = 0

    async def before_send(self: AuditJournal, index: int, attempt: int, body: bytes) -> None:
        nonlocal count
        await write(self, index, attempt, body)
        count += 1
        if count > sendings:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AuditJournal, "before_send", before_send)
        with pytest.raises(Killed):
            verify(folder, suspect, *options, name=name)


@pytest.mark.parametrize("options", [(), ("--sequential",)])
def test_a_killed_run_is_taken_up_and_asks_nothing_twice(
    tmp_path: Path, suspect: WireSuspect, options: tuple[str, ...]
) -> None:
    path = new_key(tmp_path)
    suspect.behaviour = trained(path)
    _killed_after(60, tmp_path, suspect, *options)
    journal = tmp_path / "evidence.json.journal"
    assert stat.S_IMODE(journal.stat().st_mode) == 0o600
    assert not any(secret in journal.read_text() for secret in secrets_of(path))
    with journal.open("ab") as file:
        file.write(b'{"sent":{"index":9')
    asked_before = len(suspect.requests)
    assert 40 < asked_before <= 61
    outcome = verify(tmp_path, suspect, *options)
    assert outcome.returncode == 0, outcome.stderr
    assert "goes on: audit 1" in outcome.stdout
    assert "detected: the answers depend" in outcome.stdout
    transcript = _document(tmp_path / "evidence.json")["transcript"]
    assert max(Counter(item["index"] for item in transcript).values()) == 1
    sent = Counter(item["request"] for item in transcript)
    assert Counter(request.body.decode() for request in suspect.requests) <= sent
    lost = [item for item in transcript if item["outcome"] == "unknown"]
    assert 1 <= len(lost) <= 8
    assert len(keyfile.read(path).audits) == 1
    assert check((tmp_path / "evidence.json").read_bytes()).consistent
    assert not journal.exists()


def test_a_full_disk_stops_the_audit_before_the_question_leaves(
    tmp_path: Path, suspect: WireSuspect, monkeypatch: pytest.MonkeyPatch
) -> None:
    suspect.behaviour = trained(new_key(tmp_path))
    real, count = os.write, 0

    def write(descriptor: int, data: bytes) -> int:
        nonlocal count
        count += b'"sent"' in data
        return real(descriptor, data[: len(data) // 2] if count > 30 else data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", write)
        outcome = verify(tmp_path, suspect)
    assert outcome.returncode == 1
    assert "No space left" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert len(suspect.requests) <= 30
    again = verify(tmp_path, suspect)
    assert again.returncode == 0, again.stderr
    assert check((tmp_path / "evidence.json").read_bytes()).consistent


def test_an_interrupt_waits_for_what_is_in_flight_and_the_command_goes_on(
    tmp_path: Path, suspect: WireSuspect
) -> None:
    answer = trained(new_key(tmp_path))
    main = threading.get_ident()

    def behave(request: WireRequest) -> bytes | None:
        if request.number == 40:
            signal.pthread_kill(main, signal.SIGINT)
        return answer(request)

    suspect.behaviour = behave
    stopped = verify(tmp_path, suspect)
    assert stopped.returncode == 130
    assert "the same command goes on" in stopped.stdout
    assert not (tmp_path / "evidence.json").exists()
    assert len(suspect.requests) < 100
    outcome = verify(tmp_path, suspect)
    assert outcome.returncode == 0
    outcomes = {item["outcome"] for item in _document(tmp_path / "evidence.json")["transcript"]}
    assert outcomes == {"answered"}
    assert len(suspect.requests) == 272


def test_a_later_audit_has_a_smaller_share_of_alpha(tmp_path: Path, suspect: WireSuspect) -> None:
    path = new_key(tmp_path)
    suspect.behaviour = trained(path)
    shares = []
    for number in (1, 2):
        assert verify(tmp_path, suspect, name=f"{number}.json").returncode == 0
        fixed = json.loads(_document(tmp_path / f"{number}.json")["preregistration"]["text"])
        assert fixed["key"]["audit_index"] == number
        top, bottom = fixed["plan"]["alpha_i"].split("/")
        shares.append(int(top) / int(bottom))
    assert shares[0] == pytest.approx(4 * shares[1])
    assert shares[0] * SELF_GENERATED_TRIES == pytest.approx(6.08e-7, rel=0.01)
    assert len(keyfile.read(path).audits) == 2


def test_an_audit_that_is_given_up_keeps_its_number(tmp_path: Path, suspect: WireSuspect) -> None:
    path = new_key(tmp_path)
    _killed_after(3, tmp_path, suspect, name="aborted.json")
    suspect.behaviour = trained(path)
    assert "audit 2 of this key" in verify(tmp_path, suspect).stdout


def test_a_suspect_that_never_answers_is_given_up_and_inconclusive(
    tmp_path: Path, suspect: WireSuspect
) -> None:
    new_key(tmp_path)
    suspect.behaviour = lambda request: http_reply(b"{}", status="401 Unauthorized")
    outcome = verify(tmp_path, suspect)
    assert outcome.returncode == 0
    assert "because the suspect answered with HTTP status 401" in outcome.stdout
    assert len(suspect.requests) < 40
    assert check((tmp_path / "evidence.json").read_bytes()).consistent


def test_an_unfinished_audit_can_be_concluded(tmp_path: Path, suspect: WireSuspect) -> None:
    suspect.behaviour = trained(new_key(tmp_path))
    _killed_after(60, tmp_path, suspect, "--sequential")
    outcome = verify(tmp_path, suspect, "--sequential", "--conclude")
    assert outcome.returncode == 0, outcome.stderr
    assert len(suspect.requests) <= 61
    report = check((tmp_path / "evidence.json").read_bytes())
    assert report.consistent
    assert report.to_record()["verdict"] == "inconclusive"
    assert "unfinished" in _document(tmp_path / "evidence.json")["reasons"]


def test_out_of_time_mark_by_mark_it_waits_and_the_command_goes_on(
    tmp_path: Path, suspect: WireSuspect, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = trained(new_key(tmp_path))
    # every answer comes in its own time: what runs out is the audit's, and few questions are lost by it
    hurried = partial(PlanRequest, probe_timeout_seconds=5, total_timeout_seconds=10)
    monkeypatch.setattr(verify_module, "PlanRequest", hurried)
    closing = threading.Event()

    def behave(request: WireRequest) -> bytes | None:
        if request.number >= 60:
            closing.wait(0.8)
        return answer(request)

    suspect.behaviour = behave
    paused = verify(tmp_path, suspect, "--sequential")
    assert paused.returncode == 1
    assert "the same command goes on" in paused.stderr
    closing.set()
    suspect.behaviour = answer
    outcome = verify(tmp_path, suspect, "--sequential")
    while "the same command goes on" in outcome.stderr:  # ten seconds are not enough on a busy machine
        outcome = verify(tmp_path, suspect, "--sequential")
    assert "detected: the answers depend" in outcome.stdout
    assert check((tmp_path / "evidence.json").read_bytes()).consistent


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--marks", "10"), "ask at least 11 marks"),
        (("--marks", "17"), "plan.marks"),
        (("--family", "2"), "families 0 to 1"),
        (("--alpha", "2"), "plan.alpha"),
        (("--alpha", "small"), "plan.alpha"),
        (("--conclude",), "no unfinished audit"),
        (("--suspect-key-file", "/nowhere"), "No such file"),
        (("--allow", "here"), "HOST:PORT"),
        (("--watermark", "wm-1"), "--endpoint goes with --key, not with a service's --watermark"),
        (("--no-watch",), "--no-watch is for audits through a service"),
        (("--as", "auditor"), "--as is for audits through a service"),
    ],
)
def test_a_mistake_sends_nothing_and_costs_no_number(
    tmp_path: Path, suspect: WireSuspect, options: tuple[str, ...], words: str
) -> None:
    path = new_key(tmp_path)
    outcome = verify(tmp_path, suspect, *options)
    assert outcome.returncode == 2
    assert words in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert suspect.connections == 0
    assert keyfile.read(path).audits == ()
    assert os.listdir(tmp_path) == ["owner.key"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "m"), "give --watermark ID"),
        (("--model", "m", "--watermark", "wm-1"), "give --watermark ID"),
        (("--model", "m", "--watermark", "wm-1", "--suspect", "u", "-o", "e"), "--output goes with --key"),
        (("--model", "m", "--watermark", "wm-1", "--suspect", "u", "--allow", "a:1"), "--allow goes with"),
        (("--model", "m", "--key", "k"), "--endpoint URL and -o FILE"),
        (("--model", "m", "--key", "k", "--endpoint", "http://127.0.0.1:1", "-o", "/nowhere/e"), "folder"),
        (("--model", "m", "--key", "k", "--endpoint", "ftp://x", "-o", "{folder}/e"), "http or https"),
        (("--model", "m", "--key", "k", "--endpoint", "http://u:p@x", "-o", "{folder}/e"), "user"),
        (("--model", "\x07", "--key", "k", "--endpoint", "http://x", "-o", "{folder}/e"), "--model"),
    ],
)
def test_options_of_two_ways_are_not_mixed(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    outcome = doublei("verify", *(argument.format(folder=tmp_path) for argument in arguments))
    assert outcome.returncode == 2
    assert words in outcome.stderr
    assert outcome.stderr.count("\n") == 1


def test_loopback_is_refused_unless_it_is_named(tmp_path: Path, suspect: WireSuspect) -> None:
    path = new_key(tmp_path)
    outcome = doublei(
        "verify", "--key", path, "--model", "m", "--endpoint", f"http://{suspect.host_port}/v1",
        "-o", tmp_path / "evidence.json", "--allow", f"127.0.0.1:{suspect.port + 1}",
    )  # fmt: skip
    assert outcome.returncode == 2
    assert f"--allow {suspect.host_port}" in outcome.stderr
    assert suspect.connections == 0
    assert keyfile.read(path).audits == ()


def test_evidence_is_never_written_over(tmp_path: Path, suspect: WireSuspect) -> None:
    new_key(tmp_path)
    (tmp_path / "evidence.json").write_text("precious")
    assert verify(tmp_path, suspect).returncode == 2
    assert (tmp_path / "evidence.json").read_text() == "precious"
    assert suspect.connections == 0


def test_an_unfinished_audit_is_not_gone_on_with_in_another_way(tmp_path: Path, suspect: WireSuspect) -> None:
    path = new_key(tmp_path)
    suspect.behaviour = trained(path)
    _killed_after(9, tmp_path, suspect)
    for options, words in (
        (("--marks", "12"), "another plan"),
        (("--api", "completions"), "another suspect"),
    ):
        outcome = verify(tmp_path, suspect, *options)
        assert outcome.returncode == 2
        assert words in outcome.stderr
    other = tmp_path / "other"
    other.mkdir()
    stranger = new_key(other)
    path.write_bytes(stranger.read_bytes())
    outcome = verify(tmp_path, suspect)
    assert "does not know" in outcome.stderr
    # what the killed run had sent may be counted late
    assert len(suspect.requests) <= 9


def test_two_runs_of_one_audit_are_not_had_at_once(tmp_path: Path, suspect: WireSuspect) -> None:
    new_key(tmp_path)
    with AuditJournal(tmp_path / "evidence.json.journal"):
        outcome = verify(tmp_path, suspect)
        assert outcome.returncode == 2
        assert "going on" in outcome.stderr
    assert suspect.connections == 0


def test_a_file_in_the_journals_place_is_left_alone(tmp_path: Path, suspect: WireSuspect) -> None:
    path = new_key(tmp_path)
    place = tmp_path / "evidence.json.journal"
    for content in ("my diary", "my diary\n", '{"format": "doublei-journal/9"}\n'):
        place.write_text(content)
        outcome = verify(tmp_path, suspect)
        assert outcome.returncode == 2
        assert "no journal" in outcome.stderr
        assert place.read_text() == content
    assert keyfile.read(path).audits == ()


def test_a_salt_of_the_owners_own_changes_no_grade(tmp_path: Path, suspect: WireSuspect) -> None:
    path = new_key(tmp_path)
    assert doublei("key", "salt", path, "ab" * 32, "--source", "drand, round 7").returncode == 0
    suspect.behaviour = trained(path)
    assert verify(tmp_path, suspect).returncode == 0
    data = (tmp_path / "evidence.json").read_bytes()
    assert check(data).consistent
    document = json.loads(data)["document"]
    assert document["key"]["salt"] == "ab" * 32
    assert document["key"]["grade"] == "self-generated"
