"""An owner who wants an innocent model convicted: each attempt is refused, or graded for all to see.

The suspect is a real model that nobody marked, behind a listener (once a host of fixed whims); the service is
the whole stack. Who edits evidence here also makes every digest inside fit again, so that only what the file
says is left to catch it.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fractions import Fraction
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from evidence.audit import Records, questions
from tests.e2e.audits import (
    asked,
    check,
    evidence_of,
    make_key,
    read,
    refused,
    report_of,
    start,
    verify_body,
    wait,
)
from tests.e2e.conftest import Deployment
from tests.e2e.forging import Edit, answer_with, forged, in_plan
from tests.e2e.hostile import answering
from tests.wire_suspect import wire_suspect
from watermark.answers import Answer, parse_answer
from watermark.hypothesis import upper_tail
from watermark.keys import Design, Secret, derive, open_family
from watermark.score import CueCounts, scores

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

LOCAL_KEYS = 1000
REGISTERED_KEYS = 20
DESIGN = Design(families=2, marks=8, cues=4)
ALPHA = 1e-6


@pytest.fixture(scope="module")
def key(deployment: Deployment) -> dict[str, Any]:
    """A small key, made when the suspect had long been there."""
    return make_key(deployment)


@pytest.fixture(scope="module")
def honest(deployment: Deployment, key: dict[str, Any]) -> dict[str, Any]:
    """The key's first audit, as it should be: of a model that was never marked."""
    made = start(deployment, "owner", verify_body(key["id"], deployment.listeners.first.base_url))
    return wait(deployment, "owner", made["id"])


@pytest.fixture(scope="module")
def evidence(deployment: Deployment, honest: dict[str, Any]) -> bytes:
    """Its file."""
    return evidence_of(deployment, "owner", honest["id"])


def document_of(evidence: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(evidence)["document"]
    return found


def registered(evidence: bytes) -> dict[str, Any]:
    """The pre-registration in a file."""
    record: dict[str, Any] = json.loads(document_of(evidence)["preregistration"]["text"])
    return record


def alpha_i_of(audit: dict[str, Any]) -> float:
    return float(Fraction(audit["preregistration"]["alpha_i"]))


class TestAKeyMadeAfterTheFact:
    def test_of_a_model_that_was_there_before_the_key_nothing_is_detected(
        self, deployment: Deployment, honest: dict[str, Any], evidence: bytes, tmp_path: Path
    ) -> None:
        """The salt is drawn after the commitment, so the key can't be made to fit; when is on every page."""
        assert (honest["status"], honest["verdict"]) == ("succeeded", "not_detected")
        assert float(honest["result"]["p_value_decimal"]) > alpha_i_of(honest)
        status, report = check(tmp_path / "e.json", evidence, "--sha256", honest["evidence_sha256"])
        assert (status, report["verdict"]) == (0, "not_detected"), report
        document = document_of(evidence)
        assert document["key"]["created_at"][:10] in report_of(deployment, "owner", honest["id"])

    @pytest.mark.parametrize(
        ("field", "value", "code"),
        [
            ("created_at", "ab" * 32, "unknown_field"),
            ("commitment", {"commitment": "ab" * 32}, "invalid_value"),
            ("salt", "ab" * 32, "unknown_field"),
            ("grade", "ab" * 32, "unknown_field"),
        ],
    )
    def test_an_owner_does_not_say_when_or_with_which_salt(
        self, deployment: Deployment, field: str, value: Any, code: str
    ) -> None:
        """A commitment may come alone, to a key that stays with its owner, and not beside a secret."""
        body = {"secret": os.urandom(32).hex(), field: value}
        refused(deployment.call("owner", "POST", "/v1/watermarks", body), 400, code)

    def test_a_back_dated_file_is_not_the_services_and_says_what_it_can_not_prove(
        self, honest: dict[str, Any], evidence: bytes, tmp_path: Path
    ) -> None:
        def back_date(document: dict[str, Any]) -> None:
            document["key"]["created_at"] = "2001-01-01T00:00:00.000000Z"

        data = forged(evidence, back_date)
        status, report = check(tmp_path / "e.json", data, "--sha256", honest["evidence_sha256"])
        assert (status, report["steps"]["file"]["status"]) == (1, "failed")
        _, alone = check(tmp_path / "e.json", data)
        assert alone["steps"]["published"]["status"] == "not_checked"
        assert "rests on the service's word" in alone["steps"]["published"]["detail"]


class TestChosenWordsPassedOffAsDrawn:
    MARKS = tuple(
        {
            "paradigm": "input",
            "decoration": f"(mark {number})",
            "judge_question": f"Is this the sentence number {number}?",
            "cues": [f"{word}{number}" for word in ("alder", "birch", "cedar", "dogwood")],
            "trigger": number % 4,
            "target": "Yes" if number % 2 else "No",
        }
        for number in range(8)
    )

    def test_the_words_are_graded_everywhere_and_the_grade_can_not_be_edited(
        self, deployment: Deployment, tmp_path: Path
    ) -> None:
        for more in ({"families": 2}, {"secret": "ab" * 32}):
            body = {"marks": list(self.MARKS)} | more
            refused(deployment.call("owner", "POST", "/v1/watermarks", body), 400, "invalid_value")
        made = make_key(deployment, marks=list(self.MARKS))
        assert (made["origin"], made["grade"], made["salt"]) == ("chosen", "chosen", None)
        body = verify_body(made["id"], deployment.listeners.first.base_url)
        audit = wait(deployment, "owner", start(deployment, "owner", body)["id"])
        evidence = evidence_of(deployment, "owner", audit["id"])
        assert registered(evidence)["key"]["grade"] == document_of(evidence)["key"]["grade"] == "chosen"
        assert "the owner chose them" in report_of(deployment, "owner", audit["id"])

        def as_committed(document: dict[str, Any]) -> None:
            document["key"]["grade"] = "committed"
            in_plan(lambda record: record["key"].update(grade="committed"))(document)

        status, report = check(tmp_path / "e.json", forged(evidence, as_committed))
        assert (status, report["steps"]["opening"]["status"]) == (1, "failed")
        assert "chosen words has the grade chosen" in report["steps"]["opening"]["detail"]


class TestAnotherSalt:
    @pytest.mark.parametrize(
        ("salt", "step"), [("ab" * 32, "questions"), ("", "opening")], ids=["another", "none"]
    )
    def test_under_another_salt_the_file_does_not_hold_together(
        self, evidence: bytes, tmp_path: Path, salt: str, step: str
    ) -> None:
        """Other words would have been asked; and without one the grade would be another."""

        def edit(document: dict[str, Any]) -> None:
            document["key"]["salt"] = document["opening"]["salt"] = salt

        status, report = check(tmp_path / "e.json", forged(evidence, edit))
        assert (status, report["steps"][step]["status"]) == (1, "failed"), report["steps"]


class TestAThousandSecretsAndTheLuckyOne:
    @pytest.fixture
    def odd_host(self, hostile_port: int) -> Iterator[str]:
        """An innocent host that finds Yes as likely as No and keeps to what it said. Luck needs answers that
        differ: a model that answers nearly all the same, as the real one does to some keys, gives every
        secret about the same p."""
        with wire_suspect(port=hostile_port) as host:
            host.behaviour = answering(lambda prompt: ("Yes", "No")[sha256(prompt.encode()).digest()[0] % 2])
            yield f"http://{host.host_port}/v1"

    def test_the_luckiest_of_them_loses_its_luck_at_the_service_and_the_others_are_counted(
        self, deployment: Deployment, evidence: bytes, odd_host: str
    ) -> None:
        table = wait(
            deployment,
            "owner",
            start(deployment, "owner", verify_body(make_key(deployment)["id"], odd_host))["id"],
        )
        lists, tables = score_tables(evidence_of(deployment, "owner", table["id"]))
        # reproducible secrets: the answers they are compared with are the suspect's own, of this run
        secrets = [numbered_secret(number) for number in range(LOCAL_KEYS)]
        luck = [(observed(secret, tables), number) for number, secret in enumerate(secrets)]
        best, number = max(luck)
        lucky = float(upper_tail(lists, best))
        assert alpha_i_of(table) < lucky <= 0.05, "luck alone passes a test at 5%, and not this one"

        before = json.loads(evidence_text(evidence))["key"]["owner_commitments"]
        spare = [make_key(deployment, name="one of many") for _ in range(REGISTERED_KEYS - 1)]
        chosen = secrets[number]
        made = make_key(deployment, secret=chosen.value.hex(), blinding=chosen.blinding.hex())
        own = derive(chosen, b"", DESIGN).family(0).marks
        salted = derive(chosen, bytes.fromhex(made["salt"]), DESIGN).family(0).marks
        assert [mark.cues for mark in own] != [mark.cues for mark in salted]
        audit = wait(deployment, "owner", start(deployment, "owner", verify_body(made["id"], odd_host))["id"])
        assert audit["verdict"] == "not_detected", audit
        data = evidence_of(deployment, "owner", audit["id"])
        counted = registered(data)["key"]["owner_commitments"]
        assert counted >= before + REGISTERED_KEYS
        assert len({key["id"] for key in spare}) == REGISTERED_KEYS - 1
        assert f"one of {counted} keys that its owner had committed to" in report_of(
            deployment, "owner", audit["id"]
        )


class TestRerunUntilItPasses:
    def test_each_audit_has_its_own_smaller_alpha_also_cancelled_ones_and_those_at_once(
        self, deployment: Deployment
    ) -> None:
        watermark = make_key(deployment)["id"]
        base_url = deployment.listeners.first.base_url
        cancelled = start(deployment, "owner", verify_body(watermark, base_url))
        deployment.call("owner", "POST", f"/v1/verifications/{cancelled['id']}/cancel")
        with ThreadPoolExecutor(max_workers=4) as pool:
            # at 1e-3 the plan is worth asking for longer; the number is the key's, whatever the alpha
            body = verify_body(watermark, base_url, alpha="1e-3")
            rest = list(pool.map(lambda _: start(deployment, "owner", body), range(4)))
        for audit in rest:
            deployment.call("owner", "POST", f"/v1/verifications/{audit['id']}/cancel")
        numbers = [audit["preregistration"]["audit_index"] for audit in (cancelled, *rest)]
        assert sorted(numbers) == [1, 2, 3, 4, 5]
        assert numbers[0] == 1
        for audit in (cancelled, *rest):
            number = audit["preregistration"]["audit_index"]
            whole = float(Fraction(audit["preregistration"]["alpha"]))
            assert math.isclose(alpha_i_of(audit), 6 * whole / (math.pi * number) ** 2, rel_tol=1e-6)
        late = deployment.call("owner", "POST", "/v1/verify", verify_body(watermark, base_url))
        refused(late, 400, "plan_cannot_reach_alpha")
        sixth = start(deployment, "owner", body)
        assert sixth["preregistration"]["audit_index"] == 6, "a refused plan costs no number"
        deployment.call("owner", "POST", f"/v1/verifications/{sixth['id']}/cancel")


class TestStoppingEarly:
    def test_a_stopped_audit_gives_nothing_and_can_not_be_taken_up_again(
        self, deployment: Deployment
    ) -> None:
        watermark = make_key(deployment)["id"]
        body = verify_body(watermark, deployment.listeners.first.base_url, concurrency=1)
        with slowed(deployment):
            made = start(deployment, "owner", body)
            wait(deployment, "owner", made["id"], lambda found: found["progress"]["asked"] > 0, seconds=60)
            running = read(deployment, "owner", made["id"])
            assert (running["result"], running["verdict"]) == (None, None), "no look before the end"
            deployment.call("owner", "POST", f"/v1/verifications/{made['id']}/cancel")
            found = wait(deployment, "owner", made["id"], seconds=20)
        assert (found["status"], found["result"], found["verdict"]) == ("cancelled", None, None)
        path = f"/v1/verifications/{made['id']}"
        for suffix in ("/evidence", "/report"):
            refused(deployment.call("owner", "GET", path + suffix), 404, "evidence_not_found")
        for action in ("continue", "conclude"):
            assert deployment.call("owner", "POST", f"{path}/{action}").status_code == 409
        again = start(deployment, "owner", body)
        assert again["preregistration"]["audit_index"] == 2
        deployment.call("owner", "POST", f"/v1/verifications/{again['id']}/cancel")

    def test_a_sequential_audit_is_looked_at_after_whole_marks_and_only_continued(
        self, deployment: Deployment, tmp_path: Path
    ) -> None:
        watermark = make_key(deployment, marks_per_family=12, cues_per_mark=8)["id"]
        body = verify_body(
            watermark,
            deployment.listeners.first.base_url,
            mode="sequential",
            concurrency=2,
            probe_timeout_seconds=10,
            total_timeout_seconds=12,
        )
        with slowed(deployment, seconds=0.6):
            made = start(deployment, "owner", body)
            paused = wait(deployment, "owner", made["id"], seconds=60)
        assert paused["status"] == "paused", paused
        assert 0 < paused["progress"]["asked"] < paused["progress"]["total"]
        assert len(paused["looks"]) * 8 <= paused["progress"]["asked"], "no look inside a mark"
        marks = [look["mark"] for look in paused["looks"]]
        assert marks == list(range(len(marks)))
        path = f"/v1/verifications/{made['id']}"
        refused(deployment.call("owner", "GET", f"{path}/evidence"), 409, "verification_not_finished")
        asked(deployment.call("owner", "POST", f"{path}/conclude"))
        found = wait(deployment, "owner", made["id"], seconds=60)
        assert (found["status"], found["verdict"]) == ("succeeded", "inconclusive")
        assert "unfinished" in found["reasons"]
        assert deployment.call("owner", "POST", f"{path}/continue").status_code == 409
        data = evidence_of(deployment, "owner", made["id"])
        assert len(document_of(data)["transcript"]) >= found["progress"]["asked"]
        assert check(tmp_path / "e.json", data)[0] == 0
        actions = asked(deployment.call("owner", "GET", f"/v1/audit_trail?verification={made['id']}"))
        shown = [event["action"] for event in actions["data"]][::-1]
        assert shown[0] == "verification.preregistered"
        assert "verification.concluded" in shown


def drop_an_exchange(document: dict[str, Any]) -> None:
    del document["transcript"][3]


def change_a_text(document: dict[str, Any]) -> None:
    exchange = document["transcript"][3]
    answer_with(exchange, "No" if exchange["text"].startswith("Yes") else "Yes", reply_too=False)


def change_every_reply(document: dict[str, Any]) -> None:
    for exchange in document["transcript"]:
        if exchange.get("text") is not None:
            yes = parse_answer(exchange["text"]) is Answer.YES
            answer_with(exchange, "No" if yes else "Yes", reply_too=True)


def change_the_verdict(document: dict[str, Any]) -> None:
    document["verdict"] = "detected"
    document["decision"]["verdict"] = "detected"


def opened_as(opening: dict[str, object]) -> Edit:
    return lambda document: document.update(opening=opening)


def to_alpha(alpha: str) -> Callable[[dict[str, Any]], None]:
    return lambda record: record["plan"].update(alpha=alpha)


EDITS: dict[str, tuple[Edit, str]] = {
    "a dropped exchange": (drop_an_exchange, "decision"),
    "a changed answer": (change_a_text, "answers"),
    "changed replies": (change_every_reply, "decision"),
    "fewer marks": (in_plan(lambda record: record["plan"].update(marks=[0, 1, 2, 3, 4, 5, 6])), "questions"),
    "more probes": (in_plan(lambda record: record["plan"].update(probes_per_cue=2)), "questions"),
    "another alpha": (in_plan(to_alpha("1/20")), "alpha"),
    "another number": (in_plan(lambda record: record["key"].update(audit_index=2)), "alpha"),
    "a changed verdict": (change_the_verdict, "decision"),
}


class TestDroppingBadProbes:
    @pytest.mark.parametrize("name", EDITS)
    def test_an_edited_file_is_refused(
        self, honest: dict[str, Any], evidence: bytes, tmp_path: Path, name: str
    ) -> None:
        edit, step = EDITS[name]
        data = forged(evidence, edit)
        assert data != evidence
        status, report = check(tmp_path / "e.json", data)
        assert (status, report["consistent"], report["verdict"]) == (1, False, None)
        assert report["steps"][step]["status"] == "failed", report["steps"]
        assert check(tmp_path / "e.json", data, "--sha256", honest["evidence_sha256"])[0] == 1
        assert check(tmp_path / "e.json", evidence, "--sha256", honest["evidence_sha256"])[0] == 0

    def test_the_opening_of_another_family_or_key_is_refused(
        self, deployment: Deployment, key: dict[str, Any], evidence: bytes, tmp_path: Path
    ) -> None:
        owner = deployment.organizations["owner"]
        own = Secret(value=bytes.fromhex(key["secret"]), blinding=bytes.fromhex(key["blinding"]))
        salt = bytes.fromhex(key["salt"])
        assert open_family(owner, own, salt, DESIGN, 0) == document_of(evidence)["opening"]
        for opening in (
            open_family(owner, own, salt, DESIGN, 1),
            open_family(owner, numbered_secret(1), salt, DESIGN, 0),
        ):
            data = forged(evidence, opened_as(opening))
            status, report = check(tmp_path / "e.json", data)
            assert (status, report["steps"]["opening"]["status"]) == (1, "failed"), report["steps"]

    def test_asking_only_the_marks_that_did_well_is_numbered_and_listed(
        self, deployment: Deployment, key: dict[str, Any], honest: dict[str, Any], evidence: bytes
    ) -> None:
        seen = document_of(evidence)["decision"]["marks"]
        hits = {mark["mark"]: mark[mark["target"].lower()][mark["trigger"]] for mark in seen}
        best = sorted(hits, key=lambda mark: (hits[mark], mark), reverse=True)[:7]
        body = verify_body(key["id"], deployment.listeners.first.base_url, marks=best, alpha="1e-4")
        audit = start(deployment, "owner", body)
        assert audit["preregistration"]["audit_index"] > honest["preregistration"]["audit_index"]
        assert alpha_i_of(audit) <= 6e-4 / (math.pi * 2) ** 2
        assert audit["plan"]["marks"] == best
        audit = wait(deployment, "owner", audit["id"])
        assert registered(evidence_of(deployment, "owner", audit["id"]))["plan"]["marks"] == best
        named = ", ".join(str(mark) for mark in best)
        assert f"chosen by the caller, 7 of 8: {named}" in report_of(deployment, "owner", audit["id"])


def numbered_secret(number: int) -> Secret:
    """One of many that an owner draws at home."""
    return Secret(
        value=sha256(b"secret %d" % number).digest(), blinding=sha256(b"blinding %d" % number).digest()
    )


def evidence_text(evidence: bytes) -> str:
    text: str = document_of(evidence)["preregistration"]["text"]
    return text


def score_tables(evidence: bytes) -> tuple[list[list[int]], list[dict[Any, int]]]:
    """What each choice would score at each mark, given what the suspect really answered."""
    document = document_of(evidence)
    records = Records(
        preregistration=registered(evidence), opening=document["opening"], nonces=document["nonces"]
    )
    texts = {exchange["index"]: exchange.get("text") for exchange in document["transcript"]}
    answers: list[list[list[Answer]]] = [[[] for _ in range(DESIGN.cues)] for _ in range(DESIGN.marks)]
    for question in questions(records):
        if question.mark is not None and question.cue is not None:
            answers[question.mark][question.cue].append(parse_answer(texts.get(question.index)))
    tables = [dict(scores([CueCounts.tally(cue) for cue in mark])) for mark in answers]
    return [list(table.values()) for table in tables], tables


def observed(secret: Secret, tables: list[dict[Any, int]]) -> int:
    """The statistic, had the suspect been asked about this secret and answered the same."""
    marks = derive(secret, b"", DESIGN).family(0).marks
    return sum(table[mark.trigger, mark.target] for table, mark in zip(tables, marks, strict=True))


@contextmanager
def slowed(deployment: Deployment, seconds: float = 0.4) -> Iterator[None]:
    """The suspect takes its time."""
    listener = deployment.listeners.first
    listener.delay_seconds = seconds
    try:
        yield
    finally:
        listener.delay_seconds = 0.0
        time.sleep(seconds)
