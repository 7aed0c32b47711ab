"""The standalone check: it agrees with ours on honest audits, and every tampering fails in its own step."""

from __future__ import annotations

import ast
import copy
import json
import random
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from evidence import verify
from evidence.bundle import BANKS, ENVELOPE, EVIDENCE, NAMES, README, STATEMENT, VERIFIER, make_bundle
from evidence.canonical import canonical_bytes
from evidence.comparison import compare
from evidence.document import Exchange
from evidence.dsse import key_id, public_line, seal
from evidence.plan import Campaign, Suspect
from evidence.trust import Trust
from probe.adapters import Api
from probe.template import parse_template
from tests.unit.evidence.conftest import marked, silent
from tests.unit.evidence.forging import (
    Files,
    Forgery,
    Record,
    files_of,
    in_banks,
    in_document,
    in_envelope,
    in_statement,
    in_text,
    put,
    reply_with,
    reseal,
    unpublished,
)
from tests.unit.evidence.paper_log import SIGNER, published_bundle
from watermark.keys import Design, Secret
from watermark.marks import Mark, Paradigm, Target
from watermark.nonces import Nonces
from watermark.questions import Question

SOURCE = Path(verify.__file__)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
TRUST = Trust(signers={key_id(PUBLIC): PUBLIC}, logs=(SIGNER.public,))
NOBODY = Trust()
OPEN = {"timestamps", "spoken"}
NOT_PUBLISHED = {"published", "order", "history", "checkpoints", *OPEN}


def _audit(files: Files, trust: Trust = NOBODY) -> dict[str, Any]:
    return verify.audit(files, dict(trust.signers), trust.log_keys)


def _failed(files: Files, trust: Trust = NOBODY) -> set[str]:
    report = _audit(files, trust)
    return {step["name"] for step in report["steps"] if step["status"] == "failed"}


def _unchecked(files: Files, trust: Trust = NOBODY) -> set[str]:
    report = _audit(files, trust)
    return {step["name"] for step in report["steps"] if step["status"] == "not_checked"}


# --- agreement ---


def _drawn_answerer(seed: int) -> Callable[[Question, bool, str], str | None]:
    """Suspects of every kind: well and badly marked ones, with tastes, with gaps, with odd answers."""
    draw = random.Random(seed)
    hit, reference = draw.choice([(0.95, 0.05), (0.8, 0.25), (0.6, 0.05), (0.5, 0.5), (1, 1), (0, 0)])
    missing, odd = draw.choice([0, 0, 0.03, 0.2]), draw.choice([0, 0, 0.1, 0.7])
    shy = draw.random() < 0.2
    spellings = {
        "Yes": ["Yes", "yes.", "Answer: YES, because", "**Yes**"],
        "No": ["No", "no", "The answer is no"],
    }

    def answer(question: Question, is_trigger: bool, target: str) -> str | None:
        if draw.random() < missing:
            return None
        if draw.random() < odd or (shy and is_trigger and draw.random() < 0.8):
            return draw.choice(["Perhaps", "", "yes/no", "I think yes", "Yes or no"])
        opposite = {"Yes": "No", "No": "Yes"}[target]
        given = target if draw.random() < (hit if is_trigger else reference) else opposite
        return draw.choice(spellings[given])

    return answer


_DRAWN: dict[int, Any] = {}


def _drawn_audit(audit_of: Any, seed: int) -> Any:
    if seed not in _DRAWN:
        _DRAWN[seed] = _draw_audit(audit_of, seed)
    return _DRAWN[seed]


def _draw_audit(audit_of: Any, seed: int) -> Any:
    draw = random.Random(1000 + seed)
    sequential, grade = draw.random() < 0.4, draw.choice(["committed", "committed", "self-generated"])
    small = not sequential and grade == "committed"
    marks, cues = draw.choice([(12, 4), (13, 4), (9, 8), (12, 8)]) if small else (14, 8)
    design = Design(families=3 if marks < 12 else 2, marks=marks, cues=cues)
    nonces = [
        Nonces(service=draw.randbytes(32)),
        Nonces(service=draw.randbytes(32), auditor=draw.randbytes(32)),
        Nonces(
            service=draw.randbytes(32),
            auditor=draw.randbytes(32),
            beacon={"source": "b\u00e9acon", "round": "9", "value": "ff"},
        ),
    ]
    canary = draw.choice([None, lambda question: "A" if question.index < 50 else "B", lambda question: None])
    return audit_of(
        draw.choice([marked, silent, lambda q, t, target: "Yes", *[_drawn_answerer(seed)] * 4]),
        audit_index=draw.choice([1, 2, 7]),
        mode="sequential" if sequential else "fixed",
        secret=Secret(value=draw.randbytes(32), blinding=draw.randbytes(32)),
        salt=draw.choice([draw.randbytes(16), b""]) if grade == "self-generated" else draw.randbytes(32),
        design=design,
        probes_per_cue=draw.choice([1, 2]),
        marks=draw.sample(range(marks), marks - draw.choice([0, 0, 1])),
        canaries=draw.random() < 0.8,
        canary=canary,
        grade=grade,
        origin=draw.choice(["service", "imported"]) if grade == "committed" else "owner",
        campaign=Campaign(id="camp-1", position=1, size=3) if draw.random() < 0.2 else None,
        suspect=Suspect(
            base_url="http://s.example/v1", model="m\u00fc", api=draw.choice([Api.chat, Api.completions])
        ),
        temperature=draw.choice(["0", "0.7", "1", "0.00001", "2"]),
        nonces=draw.choice(nonces),
        family_index=draw.randrange(design.families),
        verification=f"verif-{seed}",
    )


@pytest.mark.parametrize("seed", range(40))
def test_both_implementations_say_the_same_of_an_honest_audit(audit_of: Any, seed: int) -> None:
    audit = _drawn_audit(audit_of, seed)
    files = files_of(audit.data, KEY)
    both = compare(files, TRUST)
    assert both.check.consistent
    assert both.disagreements == ()
    assert both.exit_status == 0, [s for s in both.standalone["steps"] if s["status"] != "passed"]
    assert both.standalone["verdict"] == audit.document.verdict
    assert both.standalone["p_value"] == audit.document.decision["p_value"]
    assert _unchecked(files, TRUST) == OPEN


def test_the_drawn_audits_are_of_every_kind(audit_of: Any) -> None:
    """What the agreement above is worth: all verdicts and most reasons occur among those audits."""
    seen: set[str] = set()
    for seed in range(40):
        document = _drawn_audit(audit_of, seed).document
        seen |= {document.verdict, *document.reasons, str(document.decision["test"])}
    assert seen >= {
        "detected", "not_detected", "inconclusive", "fixed", "sequential", "missing_answers",
        "differential_refusal", "no_judge_answers", "canaries_unanswered", "changed_during_audit",
        "suspect_timeout",
    }  # fmt: skip


def _stop_early(transcript: list[Exchange]) -> list[Exchange]:
    return transcript[:40]


def _lose_some(transcript: list[Exchange]) -> list[Exchange]:
    """The process died between sending and recording."""
    lost = {3, 17}
    return [
        Exchange(index=x.index, attempt=x.attempt, sent_at=x.sent_at, request=x.request, outcome="unknown")
        if x.index in lost
        else x
        for x in transcript
    ]


@pytest.mark.parametrize("mode", ["fixed", "sequential"])
@pytest.mark.parametrize("spoil", [_stop_early, _lose_some, lambda transcript: []])
def test_they_agree_on_audits_that_broke_off(
    audit_of: Any, mode: str, spoil: Callable[[list[Exchange]], list[Exchange]]
) -> None:
    audit = audit_of(marked, mode=mode, spoil=spoil)
    both = compare(files_of(audit.data), NOBODY)
    assert (both.check.consistent, both.disagreements, both.exit_status) == (True, (), 2)


def _chosen_marks() -> tuple[Mark, ...]:
    return tuple(
        Mark(
            index=n,
            paradigm=Paradigm.INPUT if n % 2 else Paradigm.INSTRUCTION,
            decoration=f"(deco{n})" if n % 2 else "",
            judge_question=f"Is this about thing {n}?",
            cues=tuple(f"w\u00f6rd-{n}-{cue}" for cue in range(6)),
            trigger=n % 6,
            target=Target.YES if n % 3 else Target.NO,
        )
        for n in range(10)
    )


def test_chosen_words_are_decided_alike_too(audit_of: Any) -> None:
    audit = audit_of(marked, chosen=_chosen_marks())
    both = compare(files_of(audit.data, KEY), TRUST)
    assert (both.disagreements, both.exit_status, audit.document.verdict) == ((), 0, "detected")


def test_a_suspect_with_a_template_is_not_checked_and_never_passed(audit_of: Any) -> None:
    template = parse_template({"path": "/ask", "body": {"q": "{{prompt}}"}, "answer": "$.choices[0].text"})
    suspect = Suspect(base_url="http://s.example", model="m", api=Api.template, template=template)
    audit = audit_of(marked, suspect=suspect)
    files = files_of(audit.data, KEY)
    both = compare(files, TRUST)
    assert both.check.consistent
    assert (both.disagreements, both.exit_status) == ((), 2)
    assert {"questions", "answers", "p_value", "verdict"} <= _unchecked(files, TRUST)


def test_a_preset_is_not_checked_and_never_passed(audit: Any) -> None:
    def research(document: Record) -> None:
        document["key"]["grade"] = "research"

    files = unpublished(audit.data, KEY)
    in_document(research)(files)
    in_text(put("key.grade", "research"))(files)
    assert "failed" not in {step["status"] for step in _audit(files)["steps"]}
    assert _audit(files)["exit"] == 2
    assert {"rule", "opening", "p_value", "verdict"} <= _unchecked(files)


# --- tampering ---


def _transcript(change: Callable[[list[Record]], None]) -> Forgery:
    return in_document(lambda document: change(document["transcript"]))


def _retry(items: list[Record]) -> int:
    """Where a question's second sending stands."""
    return next(place for place, item in enumerate(items) if item["attempt"] == 1)


def _swap(items: list[Record], names: tuple[str, ...]) -> None:
    first = items[0]
    second = next(
        item for item in items if item.get("text") in ("Yes", "No") and item["text"] != first["text"]
    )
    for name in names:
        first[name], second[name] = second[name], first[name]


def _other_answer(items: list[Record]) -> None:
    reply_with(items[0], "No" if items[0]["text"] == "Yes" else "Yes")


def _other_text(items: list[Record]) -> None:
    items[0]["text"] = "No" if items[0]["text"] == "Yes" else "Yes"


def _other_body(items: list[Record]) -> None:
    text = items[0]["text"]
    reply_with(items[0], "No" if text == "Yes" else "Yes")
    items[0]["text"] = text


def _reorder_attempts(items: list[Record]) -> None:
    place = _retry(items)
    items[place - 1], items[place] = items[place], items[place - 1]


def _ask_a_reference_again(items: list[Record]) -> None:
    place = next(n for n, item in enumerate(items) if item["outcome"] == "answered")
    items.insert(place + 1, copy.deepcopy(items[place]) | {"attempt": 1})


def _third_attempt(items: list[Record]) -> None:
    place = _retry(items)
    items.insert(place + 1, copy.deepcopy(items[place]) | {"attempt": 2})


def _hotter(document: Record) -> None:
    for item in document["transcript"]:
        item["request"] = item["request"].replace('"temperature":0', '"temperature":1')


def _drop(items: list[Record]) -> None:
    del items[3]


def _other_canary(items: list[Record]) -> None:
    """An ordinary question that was answered becomes silent to us, in text and bytes."""
    for item in items:
        if item.get("text") == "A short title":
            reply_with(item, "")


def _rename(files: Files) -> None:
    statement = json.loads(files[STATEMENT])
    statement["subject"][1]["name"] = "words.json"
    files[STATEMENT] = canonical_bytes(statement)
    files[ENVELOPE] = seal(files[STATEMENT])


def _swap_files(files: Files) -> None:
    files[VERIFIER], files[README] = files[README], files[VERIFIER]


def _append(name: str) -> Forgery:
    def forge(files: Files) -> None:
        files[name] += b"\n"

    return forge


def _naive_digest(files: Files) -> None:
    """The document changed, the digest beside it left, everything around it made to fit."""
    value = json.loads(files[EVIDENCE])
    value["document"]["finished_at"] = "2026-11-24T00:00:00Z"
    files[EVIDENCE] = canonical_bytes(value)
    reseal(files)


def _naive_text(document: Record) -> None:
    document["preregistration"]["text"] = document["preregistration"]["text"].replace("900", "901")


def _other_format(files: Files) -> None:
    files[EVIDENCE] = files[EVIDENCE].replace(b"doublei-evidence/2", b"doublei-evidence/1")
    reseal(files)


FIGURES = {"counts", "p_value", "looks", "secondary"}
TAMPERINGS: dict[str, tuple[Forgery, set[str]]] = {
    "verdict": (in_document(put("verdict", "not_detected")), {"verdict"}),
    "verdict of the decision": (in_document(put("decision.verdict", "not_detected")), {"verdict"}),
    "reasons": (in_document(put("reasons", ["differential_refusal"])), {"verdict"}),
    "p": (in_document(put("decision.p_value", "1/10000000000000000000")), {"p_value"}),
    "p as a decimal": (in_document(put("decision.p_value_decimal", "1.00e-30")), {"p_value"}),
    "alpha_i of the decision": (in_document(put("decision.alpha_i", "1/10")), {"p_value"}),
    "floor": (in_document(put("decision.floor_decimal", "0")), {"p_value"}),
    "hits": (in_document(put("decision.trigger_hits", 11)), {"counts"}),
    "count at a cue": (in_document(put("decision.marks.3.yes.2", 5)), {"counts"}),
    "test": (in_document(put("decision.test", "sequential")), {"counts"}),
    "member of the decision": (in_document(lambda d: d["decision"].update(sure="very")), {"counts"}),
    "canaries' count": (in_document(put("decision.canaries.answered", 3)), {"counts"}),
    "look": (in_document(put("decision.looks.0.e_value_decimal", "1.00e+09")), {"looks"}),
    "secondary figure": (in_document(put("decision.pooled_fisher_p_decimal", "1.00e-99")), {"secondary"}),
    "answer in text and bytes": (_transcript(_other_answer), FIGURES),
    "answer in its text": (_transcript(_other_text), {"answers", *FIGURES}),
    "answer in its bytes": (_transcript(_other_body), {"answers"}),
    "answers swapped": (_transcript(lambda items: _swap(items, ("text", "body"))), FIGURES),
    "answer without being answered": (
        _transcript(lambda i: i[0].update(outcome="not_json")),
        {"answers", "counts", "looks"},
    ),
    "canaries silenced": (_transcript(_other_canary), {"counts", "verdict"}),
    "sending dropped": (_transcript(_drop), {"counts", "looks"}),
    "sending duplicated": (_transcript(lambda items: items.insert(1, copy.deepcopy(items[0]))), {"sendings"}),
    "sendings reordered": (_transcript(_reorder_attempts), {"sendings"}),
    "sending inserted": (
        _transcript(lambda i: i.append(copy.deepcopy(i[0]) | {"index": 5000})),
        {"questions"},
    ),
    "answer asked again": (_transcript(_ask_a_reference_again), {"sendings"}),
    "third attempt": (_transcript(_third_attempt), {"sendings"}),
    "requests swapped": (_transcript(lambda items: _swap(items, ("request",))), {"questions"}),
    "temperature in the bodies": (in_document(_hotter), {"questions"}),
    "temperature in the text": (in_text(put("asking.temperature", "1")), {"questions"}),
    "model in the text": (in_text(put("suspect.model", "another")), {"questions"}),
    "marks in the text": (in_text(put("plan.marks", list(range(11)))), {"questions"}),
    "mode in the text": (in_text(put("plan.mode", "sequential")), {"questions"}),
    "canaries in the text": (in_text(put("plan.canaries", False)), {"questions"}),
    "more retries in the text": (in_text(put("asking.retries", 0)), {"sendings"}),
    "what is asked again in the text": (
        in_text(lambda t: t["asking"]["retry_on"].append("answered")),
        {"rule"},
    ),
    "parse rule": (in_text(put("reading.parse_rule", "always-yes")), {"rule"}),
    "decision rule": (in_text(put("rule.max_missing", "1/2")), {"rule"}),
    "alpha": (in_text(put("plan.alpha", "1/20")), {"alpha"}),
    "alpha_i": (in_text(put("plan.alpha_i", "1/10")), {"alpha", "p_value"}),
    "audit's number": (in_text(put("key.audit_index", 2)), {"alpha"}),
    "campaign of one": (
        in_text(lambda t: t.update(campaign={"id": "c", "position": 0, "size": 2})),
        {"alpha"},
    ),
    "fewer keys than none": (in_text(put("key.owner_commitments", 0)), {"alpha"}),
    "grade": (in_document(put("key.grade", "chosen")), {"binding"}),
    "verification of another audit": (in_document(put("verification", "verif-2")), {"binding"}),
    "claimant": (in_document(put("claimant", "org-thief")), {"binding"}),
    "auditor": (in_document(put("auditor", "org-thief")), {"binding"}),
    "key's id": (in_document(put("key.id", "wm-2")), {"binding"}),
    "commitment": (in_document(put("key.commitment", "00" * 32)), {"binding"}),
    "published commitment": (in_document(put("key.commitment_record.commitment", "00" * 32)), {"opening"}),
    "published design": (in_document(put("key.commitment_record.design", {})), {"opening"}),
    "salt": (in_document(put("opening.salt", "00" * 16)), {"opening"}),
    "salt of the key": (in_document(put("key.salt", "00" * 16)), {"opening"}),
    "family secret": (in_document(put("opening.family_secret", "00" * 32)), {"opening"}),
    "blinding": (in_document(put("opening.family_blinding", "00" * 32)), {"opening"}),
    "family": (in_document(put("opening.family", 1)), {"opening"}),
    "owner in the opening": (in_document(put("opening.owner_id", "org-thief")), {"opening"}),
    "owner's word for the salt": (in_document(put("key.origin", "owner")), {"opening"}),
    "service's nonce": (in_document(put("nonces.service", "00" * 32)), {"nonces"}),
    "auditor's nonce left out": (in_document(put("nonces.auditor", "")), {"nonces"}),
    "beacon": (in_document(put("nonces.beacon.value", "decaf")), {"questions"}),
    "pre-registered text alone": (in_document(_naive_text), {"preregistration"}),
    "document alone": (_naive_digest, {"digest", "statement"}),
    "member of the document": (in_document(lambda d: d.update(note="trust me")), {"shape"}),
    "format": (_other_format, {"canonical"}),
    "banks' word": (in_banks(put("banks.0.5", "murder")), {"banks"}),
    "statement's digest": (in_statement(put("subject.0.digest.sha256", "00" * 32)), {"files"}),
    "statement's verdict": (in_statement(put("predicate.verdict", "not_detected")), {"statement"}),
    "statement's type": (in_statement(put("predicateType", "urn:other")), {"statement"}),
    "verify.py": (_append(VERIFIER), {"files", "statement"}),
    "README.txt": (_append(README), {"files"}),
    "evidence re-spelled": (_append(EVIDENCE), {"files", "canonical"}),
    "file renamed": (_rename, {"files"}),
    "files swapped": (_swap_files, {"files", "statement"}),
    "payload's type": (in_envelope(put("payloadType", "text/plain")), {"envelope"}),
    "payload": (in_envelope(put("payload", "e30=")), {"envelope"}),
}


@pytest.fixture(scope="session")
def files(audit_of: Any) -> Files:
    """A detected audit with one question that was sent twice and never answered."""
    gap = {"left": 1}

    def once_missing(question: Question, is_trigger: bool, target: str) -> str | None:
        if question.index > 20 and not is_trigger and gap["left"]:
            gap["left"] = 0
            return None
        return marked(question, is_trigger, target)

    return unpublished(audit_of(once_missing).data, KEY)


def test_each_tampering_fails_in_the_steps_that_are_listed(files: Files) -> None:
    found = {}
    for name, (forge, _) in TAMPERINGS.items():
        forged = dict(files)
        forge(forged)
        assert forged != files
        found[name] = _failed(forged)
    assert found == {name: steps for name, (_, steps) in TAMPERINGS.items()}
    assert len(found) >= 60
    assert {step for steps in found.values() for step in steps} >= {
        "files", "envelope", "canonical", "digest", "shape", "preregistration", "binding", "rule", "alpha",
        "nonces", "banks", "opening", "questions", "sendings", "answers", "counts", "p_value", "looks",
        "secondary", "verdict", "statement",
    }  # fmt: skip


@pytest.mark.parametrize("name", TAMPERINGS)
def test_no_tampering_gets_past_a_trusted_signature(files: Files, name: str) -> None:
    """A forger without the key can't make the envelope fit again; both reports then say failed."""
    forged = dict(files)
    TAMPERINGS[name][0](forged)
    assert compare(forged, TRUST).exit_status == 1
    assert _failed(forged, TRUST) & {"files", "envelope", "signature"}


def test_a_signature_of_another_key_is_none(files: Files) -> None:
    other = Ed25519PrivateKey.from_private_bytes(bytes(32))
    forged = files | {ENVELOPE: seal(files[STATEMENT], other)}
    assert _failed(forged, TRUST) == {"signature"}
    claimed = json.loads(forged[ENVELOPE])
    claimed["signatures"][0]["keyid"] = key_id(PUBLIC)
    forged[ENVELOPE] = canonical_bytes(claimed)
    assert _failed(forged, TRUST) == {"signature"}
    assert _failed(files | {ENVELOPE: seal(files[STATEMENT])}, TRUST) == {"signature"}


def test_a_signed_statement_of_another_audit_is_none(files: Files, audit: Any) -> None:
    """Validly signed, and not of these files."""
    other = files_of(audit.data, KEY)
    forged = files | {STATEMENT: other[STATEMENT], ENVELOPE: other[ENVELOPE]}
    assert _failed(forged, TRUST) == {"files", "statement"}
    assert _failed(files | {ENVELOPE: other[ENVELOPE]}, TRUST) >= {"envelope"}


def test_a_sequential_audit_can_not_be_shortened_lengthened_or_reordered(audit_of: Any) -> None:
    honest = audit_of(marked, mode="sequential")
    files = unpublished(honest.data)
    assert _failed(files) == set()
    longer = audit_of(marked, mode="fixed")
    replies = {item["index"]: item for item in json.loads(longer.data)["document"]["transcript"]}
    assert replies

    def last_first(document: Record) -> None:
        document["transcript"].insert(0, document["transcript"].pop())

    forged = dict(files)
    in_document(last_first)(forged)
    assert _failed(forged) == {"sendings"}

    def without_the_last_mark(document: Record) -> None:
        document["transcript"] = document["transcript"][: len(document["transcript"]) // 2]

    forged = dict(files)
    in_document(without_the_last_mark)(forged)
    assert _failed(forged) >= {"counts", "p_value", "verdict"}


# --- hostile bytes ---


@pytest.mark.parametrize("trust", [NOBODY, TRUST], ids=["untrusted", "trusted"])
def test_flipping_a_bit_anywhere_never_passes_and_never_raises(audit_of: Any, trust: Trust) -> None:
    """Every byte of envelope and statement, and a sample of all others. Without a trusted key the bundle is
    an unsigned one: a signature of an unknown key says nothing, changed or not."""
    small = audit_of(marked, design=Design(families=2, marks=8, cues=4), canaries=False)
    honest = files_of(small.data, *([KEY] if trust.signers else []))
    assert _audit(honest, trust)["exit"] == (0 if trust.signers else 2)
    draw = random.Random(5)
    for name in NAMES:
        size = len(honest[name])
        every = name in (STATEMENT, ENVELOPE)
        for place in range(size) if every else draw.sample(range(size), min(150, size)):
            changed = bytearray(honest[name])
            changed[place] ^= 1 << draw.randrange(8)
            assert _audit(honest | {name: bytes(changed)}, trust)["exit"] == 1, (name, place)


def test_hostile_values_anywhere_never_raise(audit: Any) -> None:
    """Random values in place of any part of the document or the pre-registration; all digests fit again."""
    draw = random.Random(3)
    honest = files_of(audit.data)
    values = ["", "x", "1/0", -1, 2**53 - 1, [], {}, [[]], {"a": 1}, None, True, "9" * 5000]

    def mutate(record: Record) -> None:
        value: Any = record
        while True:
            key = draw.choice(list(value) if isinstance(value, dict) else list(range(len(value))))
            if isinstance(value[key], dict | list) and value[key] and draw.random() < 0.8:
                value = value[key]
                continue
            value[key] = draw.choice(values)
            return

    for number in range(120):
        forged = dict(honest)
        try:
            (in_document, in_text)[number % 2](mutate)(forged)
        except (TypeError, KeyError, AttributeError):
            continue  # the forger's own tools can't make digests fit around it
        report = _audit(forged)
        assert report["exit"] in (1, 2)
        assert report["exit"] == 1 or report["verdict"] == "detected"
        compare(forged, NOBODY)


# --- the program ---


@pytest.fixture
def folder(files: Files, tmp_path: Path) -> Path:
    """A bundle that was unpacked, with the keys beside it."""
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "keys.txt").write_text(f"{public_line(PUBLIC, 'auditor')}\n{SIGNER.public}\n")
    return tmp_path


def _run(*arguments: object) -> int:
    return verify.main([str(argument) for argument in arguments])


def test_exit_states(folder: Path, audit: Any, capsys: pytest.CaptureFixture[str]) -> None:
    keys, zipped = folder / "keys.txt", folder / "bundle.zip"
    zipped.write_bytes(published_bundle(audit, KEY))
    assert _run(zipped, "--trust", keys) == 0
    assert "signed by a key that you trust" in capsys.readouterr().out
    assert _run(folder, "--trust", keys) == 2
    assert "a step could not be checked" in capsys.readouterr().out
    assert _run(folder) == 2
    assert "self-consistent only" in capsys.readouterr().out
    assert _run(folder, "--json") == 2
    assert json.loads(capsys.readouterr().out)["verdict"] == "detected"
    (folder / README).write_bytes(b"another")
    assert _run(folder, "--trust", keys) == 1
    assert "proves nothing" in capsys.readouterr().out


def test_what_can_not_be_read_is_one_line_and_3(
    folder: Path, audit: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    zipped, keys = folder / "bundle.zip", folder / "bad-keys.txt"
    data = make_bundle(audit.data)
    zipped.write_bytes(data)
    keys.write_text("rsa 00")
    wrong: list[tuple[object, ...]] = [
        (folder / "none",),
        (folder, "--trust", keys),
        (folder, "--trust", "/none"),
    ]
    for number, hostile in enumerate([b"", b"PK", data[:-1], data + b"x", b"x" + data, audit.data]):
        (folder / f"{number}.zip").write_bytes(hostile)
        wrong.append((folder / f"{number}.zip",))
    (folder / BANKS).unlink()
    for arguments in [*wrong, (folder,)]:
        capsys.readouterr()
        assert _run(*arguments) == 3, arguments
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert _run("--no-such-option") == 3


def test_without_cryptography_a_signature_is_not_checked(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric.ed25519", None)
    assert _audit(files, TRUST)["exit"] == 2
    assert _unchecked(files, TRUST) == NOT_PUBLISHED | {"signature"}


def test_it_is_short_and_needs_nothing_of_ours() -> None:
    text = SOURCE.read_text()
    assert len(text.splitlines()) < 500
    imported = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            imported |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(str(node.module).split(".")[0])
    assert imported <= set(sys.stdlib_module_names) | {"cryptography"}
    lazily = [node for node in ast.parse(text).body if isinstance(node, ast.ImportFrom)]
    assert "cryptography" not in {str(node.module).split(".")[0] for node in lazily}


def test_the_default_plan_takes_two_seconds_and_200_megabytes_without_a_network(
    audit_of: Any, tmp_path: Path
) -> None:
    """12 marks of 8 cues with 2 questions each and the ordinary ones, in its own process: nothing of ours,
    limits on memory and processor time, and no network where the system lets us take it away."""
    audit = audit_of(marked, probes_per_cue=2)
    assert len(audit.document.transcript) == 12 * 8 * 2 + 16
    bundle, program = tmp_path / "bundle.zip", tmp_path / VERIFIER
    bundle.write_bytes(published_bundle(audit))
    program.write_bytes(SOURCE.read_bytes())
    alone = ["unshare", "--user", "--net"]
    try:
        can = subprocess.run([*alone, "true"], capture_output=True, timeout=20).returncode == 0
    except OSError:
        can = False
    if not can:
        print("not in an empty network namespace: unshare --user --net is not available here")
        alone = []

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (200 * 2**20, 200 * 2**20))
        resource.setrlimit(resource.RLIMIT_CPU, (2, 2))

    done = subprocess.run(
        [*alone, sys.executable, "-I", "-S", str(program), str(bundle), "--json"],
        capture_output=True,
        timeout=60,
        preexec_fn=limit,
        cwd=tmp_path,
    )
    report = json.loads(done.stdout)
    assert (done.returncode, report["verdict"], done.stderr) == (2, "detected", b"")
    open_steps = {step["name"] for step in report["steps"] if step["status"] == "not_checked"}
    assert open_steps == OPEN | {"signature", "checkpoints"}
