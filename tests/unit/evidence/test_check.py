"""The offline check: an honest file passes, and every tampering fails in a step that names it."""

from __future__ import annotations

import base64
import copy
import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from evidence.canonical import canonical_bytes, canonical_text, digest
from evidence.check import Report, check
from evidence.document import EVIDENCE_DOMAIN, FORMAT, Document, preregistration_digest, write
from evidence.steps import Status

Record = dict[str, Any]


def _sealed(record: Record) -> bytes:
    """The file of a forger who knows the format and writes matching digests."""
    return canonical_bytes(
        {
            "format": FORMAT,
            "document": record,
            "document_sha256": digest(EVIDENCE_DOMAIN, canonical_bytes(record)),
        }
    )


def _failed(report: Report) -> set[str]:
    return {step.name for step in report.steps if step.status is Status.failed}


def _preregister(record: Record, change: Callable[[Record], None]) -> None:
    """Change the pre-registration and its digest with it."""
    inner = json.loads(record["preregistration"]["text"])
    change(inner)
    text = canonical_text(inner)
    record["preregistration"] |= {"text": text, "sha256": preregistration_digest(text)}


def _body(text: str) -> str:
    reply = {"choices": [{"message": {"content": text}}]}
    return base64.b64encode(json.dumps(reply).encode()).decode()


def test_an_honest_file_passes_every_step_that_can_be_checked(audit: Any) -> None:
    report = check(audit.data)
    assert report.consistent
    assert [step.number for step in report.steps] == list(range(1, len(report.steps) + 1))
    unchecked = {step.name for step in report.steps if step.status is Status.not_checked}
    assert unchecked == {"file", "published", "spoken"}
    assert report.to_record()["verdict"] == "detected"
    assert report.document == audit.document


def test_the_files_digest_is_checked_when_it_is_known(audit: Any) -> None:
    known = check(audit.data).sha256
    assert check(audit.data, expected_sha256=known).steps[0].status is Status.passed
    assert check(audit.data, expected_sha256="0" * 64).steps[0].status is Status.failed


def test_reading_gives_back_what_was_written(audit: Any) -> None:
    record = json.loads(audit.data)["document"]
    assert Document.from_record(record) == audit.document
    assert write(Document.from_record(record)) == audit.data


@pytest.mark.parametrize(("name", "verdict"), [("silent", "inconclusive"), ("yes", "not_detected")])
def test_a_file_without_detection_passes_too(
    audit_of: Any, answerers: dict[str, Any], name: str, verdict: str
) -> None:
    audit = audit_of(answerers[name])
    assert check(audit.data).consistent
    assert audit.document.verdict == verdict
    if name == "silent":
        assert audit.document.reasons[-1] == "suspect_timeout"


def _set(path: str, value: object) -> Callable[[Record], None]:
    *parents, last = path.split(".")

    def change(record: Record) -> None:
        for name in parents:
            record = record[name]
        assert record[last] != value
        record[last] = value

    return change


def _swap_answers(record: Record) -> None:
    """Give each of two questions the other's answer."""
    texts = [item["text"] for item in record["transcript"]]
    other = next(place for place, text in enumerate(texts) if text != texts[0])
    for name in ("text", "body"):
        first, second = record["transcript"][0], record["transcript"][other]
        first[name], second[name] = second[name], first[name]


def _swap_requests(record: Record) -> None:
    first, second = record["transcript"][0], record["transcript"][1]
    first["request"], second["request"] = second["request"], first["request"]


def _drop_a_reference_hit(record: Record) -> None:
    del record["transcript"][3]


def _ask_again(record: Record) -> None:
    record["transcript"].append(copy.deepcopy(record["transcript"][0]) | {"attempt": 1})


def _twice(record: Record) -> None:
    record["transcript"].append(copy.deepcopy(record["transcript"][0]))


def _foreign_question(record: Record) -> None:
    record["transcript"].append(copy.deepcopy(record["transcript"][0]) | {"index": 5000})


def _better_answer(record: Record) -> None:
    """Change the text, not the bytes it came from."""
    item = record["transcript"][0]
    item["text"] = "No" if item["text"] == "Yes" else "Yes"


def _better_reply(record: Record) -> None:
    """Change text and bytes consistently, but not the decision."""
    item = record["transcript"][0]
    text = "No" if item["text"] == "Yes" else "Yes"
    item |= {"text": text, "body": _body(text)}


def _easier_alpha(record: Record) -> None:
    _preregister(record, lambda inner: inner["plan"].update(alpha_i="1/10"))


def _earlier_index(record: Record) -> None:
    _preregister(record, lambda inner: inner["key"].update(audit_index=2))


def _fewer_marks(record: Record) -> None:
    _preregister(record, lambda inner: inner["plan"].update(marks=list(range(11))))


def _other_order(record: Record) -> None:
    record["nonces"]["service"] = "00" * 32


def _another_beacon(record: Record) -> None:
    """A value that was not published, or of another round: other questions follow."""
    record["nonces"]["beacon"]["value"] = "decaf"


def _no_auditor(record: Record) -> None:
    del record["nonces"]["beacon"]
    record["nonces"]["auditor"] = ""


def _a_campaign(record: Record) -> None:
    campaign = {"id": "camp-1", "position": 0, "size": 2}
    _preregister(record, lambda inner: inner.update(campaign=campaign))


def _mark_by_mark(record: Record) -> None:
    """Decide afterwards to have looked in between."""
    _preregister(record, lambda inner: inner["plan"].update(mode="sequential"))


def _fewer_keys(record: Record) -> None:
    _preregister(record, lambda inner: inner["key"].update(owner_commitments=0))


def _other_rule(record: Record) -> None:
    _preregister(record, lambda inner: inner["rule"].update(version="exact-over-key-0"))


def _other_reading(record: Record) -> None:
    _preregister(record, lambda inner: inner["reading"].update(parse_rule="always-yes"))


def _other_suspect_model(record: Record) -> None:
    _preregister(record, lambda inner: inner["suspect"].update(model="another"))


def _hotter(record: Record) -> None:
    _preregister(record, lambda inner: inner["asking"].update(temperature="1"))


def _own_grade(record: Record) -> None:
    record["key"]["grade"] = "gold"
    _preregister(record, lambda inner: inner["key"].update(grade="gold"))


def _ask_again_after_answers(record: Record) -> None:
    _preregister(record, lambda inner: inner["asking"].update(retry_on=["answered"]))


def _unread_text(record: Record) -> None:
    item = record["transcript"][0]
    item["outcome"] = "timeout"


TAMPERINGS: list[tuple[str, Callable[[Record], None], str]] = [
    ("verdict changed", _set("verdict", "not_detected"), "decision"),
    ("reason added", _set("reasons", ["differential_refusal"]), "decision"),
    ("p-value improved", _set("decision.p_value", "1/10000000000000000000"), "decision"),
    ("hits improved", _set("decision.trigger_hits", 11), "decision"),
    ("answers swapped", _swap_answers, "decision"),
    ("questions swapped", _swap_requests, "questions"),
    ("a question dropped", _drop_a_reference_hit, "decision"),
    ("a question asked again after an answer", _ask_again, "questions"),
    ("a sending repeated", _twice, "questions"),
    ("a question that is not of the key", _foreign_question, "questions"),
    ("an answer's text changed", _better_answer, "answers"),
    ("an answer's bytes changed", _better_reply, "decision"),
    ("an unanswered question with a text", _unread_text, "answers"),
    ("another beacon value", _another_beacon, "questions"),
    ("the auditor's nonce left out", _no_auditor, "nonces"),
    ("a campaign made of one audit", _a_campaign, "alpha"),
    ("looks taken afterwards", _mark_by_mark, "questions"),
    ("fewer keys than none", _fewer_keys, "alpha"),
    ("another verification", _set("verification", "verif-2"), "binding"),
    ("another claimant", _set("claimant", "org-thief"), "binding"),
    ("another auditor", _set("auditor", "org-thief"), "binding"),
    ("another key id", _set("key.id", "wm-2"), "binding"),
    ("a better grade", _set("key.grade", "chosen"), "binding"),
    ("another commitment", _set("key.commitment", "00" * 32), "binding"),
    ("another salt beside the opening", _set("key.salt", "00" * 16), "opening"),
    ("another salt in the opening", _set("opening.salt", "00" * 16), "opening"),
    ("another family secret", _set("opening.family_secret", "00" * 32), "opening"),
    ("another blinding", _set("opening.family_blinding", "00" * 32), "opening"),
    ("another family", _set("opening.family", 1), "opening"),
    ("another owner in the opening", _set("opening.owner_id", "org-thief"), "opening"),
    ("another root commitment", _set("opening.root_commitment", "00" * 32), "opening"),
    ("another published design", _set("key.commitment_record.design", {}), "opening"),
    ("another commitment among the published", _set("key.commitment_record.commitment", "00"), "opening"),
    ("nothing published", _set("key.commitment_record", {}), "opening"),
    ("a grade of its own", _own_grade, "opening"),
    ("another list of what is asked again", _ask_again_after_answers, "binding"),
    ("a pre-registration with another digest", _set("preregistration.sha256", "00" * 32), "preregistration"),
    ("a pre-registration re-spelled", _set("preregistration.text", "{ }"), "preregistration"),
    ("an easier alpha", _easier_alpha, "alpha"),
    ("another audit number", _earlier_index, "alpha"),
    ("fewer marks", _fewer_marks, "questions"),
    ("another order", _other_order, "nonces"),
    ("another rule", _other_rule, "alpha"),
    ("another reading rule", _other_reading, "binding"),
    ("another model asked", _other_suspect_model, "questions"),
    ("another temperature", _hotter, "questions"),
    ("a field of another type", _set("transcript", {}), "shape"),
    ("an unknown field", lambda record: record.update(note="trust me"), "shape"),
    ("a missing field", lambda record: record.pop("opening"), "shape"),
    ("a body that is no base64", lambda record: record["transcript"][0].update(body="!"), "shape"),
]


@pytest.mark.parametrize(
    ("change", "step"), [row[1:] for row in TAMPERINGS], ids=[row[0] for row in TAMPERINGS]
)
def test_a_tampering_fails_in_its_own_step_even_with_fresh_digests(
    audit: Any, change: Callable[[Record], None], step: str
) -> None:
    record = json.loads(audit.data)["document"]
    change(record)
    report = check(_sealed(record))
    assert step in _failed(report)
    assert report.to_record()["verdict"] is None
    naive = json.loads(audit.data)
    change(naive["document"])
    assert "digest" in _failed(check(canonical_bytes(naive)))


def test_a_pre_registration_changed_after_the_fact_has_another_digest(audit: Any) -> None:
    """Without a new digest beside it, any change of the pre-registration is seen at once."""
    record = json.loads(audit.data)["document"]
    record["preregistration"]["text"] = record["preregistration"]["text"].replace("900", "901")
    assert _failed(check(_sealed(record))) == {"preregistration"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\x00" * 100,
        b"[" * 100_000,
        b'{"document":{},"document_sha256":"","format":""}',
        canonical_bytes({"document": {}, "document_sha256": "", "format": FORMAT}),
        canonical_bytes({"document": [], "document_sha256": 1, "format": FORMAT}),
    ],
)
def test_what_is_no_evidence_fails_without_an_exception(data: bytes) -> None:
    report = check(data)
    assert not report.consistent
    assert report.document is None


def test_flipping_any_bit_never_passes_and_never_raises(audit: Any) -> None:
    """A seeded sample of all bit positions; the issue that adds signatures walks through every byte."""
    draw = random.Random(7)
    for _ in range(120):
        position = draw.randrange(len(audit.data) * 8)
        flipped = bytearray(audit.data)
        flipped[position // 8] ^= 1 << position % 8
        assert not check(bytes(flipped)).consistent


def test_a_forger_who_fixes_the_digests_still_fails_or_changes_nothing_that_counts(audit: Any) -> None:
    """Random values replaced anywhere in the document, with a fresh digest around it: never a traceback."""
    draw = random.Random(11)
    for _ in range(100):
        record = json.loads(audit.data)["document"]
        _mutate(record, draw)
        report = check(_sealed(record))
        if report.consistent:
            assert report.document is not None
            assert report.document.verdict == audit.document.verdict


def _mutate(value: Any, draw: random.Random) -> None:
    """Replace one random value somewhere below."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = draw.choice(keys)
        child = value[key]
        if isinstance(child, dict | list) and child and draw.random() < 0.9:
            value = child
            continue
        value[key] = draw.choice(["", "x", 0, -1, 2**53 - 1, [], {}, [[]], {"a": 1}, None, True])
        return


def test_an_owners_word_for_its_salt_does_not_make_a_key_committed(audit: Any) -> None:
    record = json.loads(audit.data)["document"]
    record["key"]["origin"] = "owner"
    assert record["key"]["grade"] == "committed"
    report = check(_sealed(record))
    assert _failed(report) == {"opening"}
    assert not report.consistent


@pytest.mark.parametrize("temperature", ["1e9999999", "9" * 100_000, "1e-9999999", "-1e400", "NaN"])
def test_a_hostile_temperature_does_not_hold_the_check_up(audit: Any, temperature: str) -> None:
    record = json.loads(audit.data)["document"]
    _preregister(record, lambda inner: inner["asking"].update(temperature=temperature))
    assert _failed(check(_sealed(record))) & {"questions"}
