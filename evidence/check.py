"""The offline check: re-decides an audit from its file alone, in numbered steps.

A step is passed, failed or not checked, each with what was found. Nothing here opens a connection or reads a
clock, and no input makes it raise. What it can't see is said to be not checked, never passed: when the
commitment and the pre-registration were published, and whether the suspect really sent these bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from evidence.audit import RESEARCH, Records, conclude, questions, reading_rules, where
from evidence.canonical import canonical_bytes, digest, parse_canonical
from evidence.document import (
    ANSWERED,
    EVIDENCE_DOMAIN,
    FORMAT,
    PREREGISTRATION_FORMAT,
    UNKNOWN,
    Document,
    final_replies,
    preregistration_digest,
)
from evidence.errors import EvidenceError, NotCanonical
from evidence.plan import ask_plan, request_for
from evidence.steps import Status, Step, none_failed
from probe.plan import RETRY_FAILURES, AskPlan
from watermark.errors import WatermarkError
from watermark.keys import family_of_opening
from watermark.nonces import Nonces, check_nonces
from watermark.questions import Question
from watermark.replay import Standing, read_plan
from watermark.significance import OWNER_ORIGIN, SELF_GENERATED

DRAWN_GRADES = ("committed", SELF_GENERATED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All steps. ``consistent`` says that none failed; the file's claims then follow from its contents."""

    steps: tuple[Step, ...]
    sha256: str
    document: Document | None = field(repr=False)

    @property
    def consistent(self) -> bool:
        """No step failed."""
        return none_failed(self.steps)

    def to_record(self) -> dict[str, object]:
        """For machines."""
        document = self.document
        trusted = document if self.consistent else None
        return {
            "consistent": self.consistent,
            "sha256": self.sha256,
            "verification": None if trusted is None else trusted.verification,
            "verdict": None if trusted is None else trusted.verdict,
            "reasons": None if trusted is None else list(trusted.reasons),
            "p_value": None if trusted is None else trusted.decision.get("p_value_decimal"),
            "steps": [step.to_record() for step in self.steps],
        }


class _Failed(Exception):
    """A step found something wrong."""


@dataclass(slots=True)
class _Case:
    """What the steps have established so far."""

    data: bytes
    expected_sha256: str | None
    value: dict[str, Any] = field(default_factory=dict)
    document: Document | None = None
    preregistration: Mapping[str, Any] = field(default_factory=dict)
    asking: AskPlan | None = None
    asked: tuple[Question, ...] = ()

    @property
    def records(self) -> Records:
        return Records(preregistration=self.preregistration, opening=self.doc.opening, nonces=self.doc.nonces)

    @property
    def doc(self) -> Document:
        if self.document is None:
            raise _Failed("there is no document")
        return self.document

    @property
    def plan(self) -> AskPlan:
        if self.asking is None:
            raise _Failed("there is no plan")
        return self.asking


def check(data: bytes, *, expected_sha256: str | None = None) -> Report:
    """Check one evidence file.

    Args:
        data: its bytes.
        expected_sha256: hex SHA-256 of the whole file, as learned from elsewhere; without it the step
            ``file`` is not checked.

    A step whose ground was taken away by an earlier failure is not checked.
    """
    case = _Case(data=data, expected_sha256=expected_sha256)
    steps: list[Step] = []
    broken = ""
    for number, (name, needs_ground, run) in enumerate(_STEPS, start=1):
        if broken and needs_ground:
            status, detail = Status.not_checked, f"step {broken} failed"
        else:
            status, detail = _run(run, case)
            if status is Status.failed and name in _GROUND:
                broken = broken or name
        steps.append(Step(number=number, name=name, status=status, detail=detail))
    return Report(steps=tuple(steps), sha256=sha256(data).hexdigest(), document=case.document)


def _run(step: Callable[[_Case], tuple[Status, str]], case: _Case) -> tuple[Status, str]:
    try:
        return step(case)
    except _Failed as failure:
        return Status.failed, str(failure)
    except (EvidenceError, WatermarkError) as error:
        return Status.failed, f"{error.code}: {error}"
    except Exception as error:  # a hostile file must not get past a step by crashing it
        return Status.failed, f"the file made this step fail with {type(error).__name__}"


def _file(case: _Case) -> tuple[Status, str]:
    actual = sha256(case.data).hexdigest()
    if case.expected_sha256 is None:
        return Status.not_checked, f"no expected digest was given; the file's SHA-256 is {actual}"
    if actual != case.expected_sha256.lower():
        raise _Failed(f"the file's SHA-256 is {actual}, not the expected one")
    return Status.passed, f"the file's SHA-256 is the expected {actual}"


def _canonical(case: _Case) -> tuple[Status, str]:
    value = parse_canonical(case.data)
    if not isinstance(value, dict) or set(value) != {"format", "document", "document_sha256"}:
        raise _Failed("the file is not an evidence file")
    if value["format"] != FORMAT:
        raise _Failed(f"the format is not {FORMAT}")
    case.value = value
    return Status.passed, f"{FORMAT}, in its one canonical spelling"


def _digest(case: _Case) -> tuple[Status, str]:
    actual = digest(EVIDENCE_DOMAIN, canonical_bytes(case.value["document"]))
    if actual != case.value["document_sha256"]:
        raise _Failed("the document does not have the digest that stands beside it")
    return Status.passed, f"the document's digest is {actual}"


def _shape(case: _Case) -> tuple[Status, str]:
    case.document = Document.from_record(case.value["document"])
    return Status.passed, f"{len(case.document.transcript)} sendings are recorded"


def _preregistration(case: _Case) -> tuple[Status, str]:
    document = case.doc
    if preregistration_digest(document.preregistration) != document.preregistration_sha256:
        raise _Failed("the pre-registration does not have the digest that stands beside it")
    try:
        record = parse_canonical(document.preregistration.encode())
    except NotCanonical as error:
        raise _Failed(f"the pre-registration is {error}") from None
    if not isinstance(record, dict) or record.get("format") != PREREGISTRATION_FORMAT:
        raise _Failed(f"the pre-registration's format is not {PREREGISTRATION_FORMAT}")
    case.preregistration = record
    return Status.passed, f"digest {document.preregistration_sha256}"


def _binding(case: _Case) -> tuple[Status, str]:
    """The pre-registration is this audit's, of this key, by these parties."""
    document, record = case.doc, case.preregistration
    key = record.get("key")
    registered = key if isinstance(key, dict) else {}
    for name, here, there in (
        ("verification", document.verification, record.get("verification")),
        ("claimant", document.claimant, record.get("claimant")),
        ("auditor", document.auditor, record.get("auditor")),
        ("key", document.key.id, record.get("key_id")),
        ("commitment", document.key.commitment, registered.get("commitment")),
        ("grade", document.key.grade, registered.get("grade")),
        ("claimant and the key's owner", document.claimant, document.key.owner),
        ("reading rules", reading_rules(), record.get("reading")),
        ("list of what is asked again", sorted(map(str, RETRY_FAILURES)), _asking(record).get("retry_on")),
    ):
        if here != there:
            raise _Failed(f"the pre-registration has another {name}")
    case.asking = ask_plan(record)
    return Status.passed, "verification, parties, key, grade and reading rules agree"


def _asking(record: Mapping[str, Any]) -> Mapping[str, Any]:
    asking = record.get("asking")
    return asking if isinstance(asking, dict) else {}


def _alpha(case: _Case) -> tuple[Status, str]:
    """alpha_i follows from alpha, the audit's number and the grade; the rule is one this software has."""
    if case.doc.key.grade == RESEARCH:
        return Status.not_checked, "a research preset has no significance level: it claims nothing"
    plan = read_plan(case.preregistration)
    key, campaign = case.preregistration["key"], case.preregistration.get("campaign")
    shared = f", shared by the {campaign['size']} suspects of {campaign['id']}" if campaign else ""
    counted = f"its owner had committed to {key['owner_commitments']} keys"
    if case.doc.key.origin == OWNER_ORIGIN:
        counted = "both that number and the owner's keys were counted by the owner alone"
    return Status.passed, (
        f"audit {key['audit_index']} of the key{shared}: alpha_i = {float(plan.alpha_i):.3g}; {counted}"
    )


def _nonces(case: _Case) -> tuple[Status, str]:
    """The shown nonces are the committed ones. Whose beacon it was nobody can tell offline."""
    shown = Nonces.from_record(case.doc.nonces)
    check_nonces(case.preregistration.get("nonces"), shown)
    alone = "the owner alone" if case.doc.key.origin == OWNER_ORIGIN else "the service alone"
    by = "service and auditor" if shown.auditor else alone
    if shown.beacon is None:
        return Status.passed, f"the order of the questions was drawn by {by}"
    beacon = f"{shown.beacon['source']}, round {shown.beacon['round']}"
    return Status.passed, (
        f"the order was drawn by {by} and the beacon {beacon}; compare its value with what was published"
    )


def _opening(case: _Case) -> tuple[Status, str]:
    document = case.doc
    opening = document.opening
    case.asked = questions(case.records)
    if document.key.grade == RESEARCH:
        return Status.passed, f"the preset {opening.get('preset')}: public words, nothing to open"
    family_of_opening(opening, document.key.commitment)
    if opening.get("owner_id") != document.claimant:
        raise _Failed("the key was committed by another owner than the claimant")
    if opening.get("kind") == "drawn":
        if document.key.grade not in DRAWN_GRADES or opening.get("salt") != document.key.salt:
            raise _Failed("the opening's salt or kind is not the key's, or its grade is unknown")
        unvouched = not document.key.salt or document.key.origin == OWNER_ORIGIN
        if unvouched and document.key.grade != SELF_GENERATED:
            raise _Failed("a key whose salt is missing, or its owner's word, has the grade self-generated")
    elif document.key.grade != "chosen":
        raise _Failed("a key with chosen words has the grade chosen")
    published = document.key.commitment_record
    if published.get("commitment") != document.key.commitment:
        raise _Failed("the published commitment is another one")
    for name in ("root_commitment", "family_commitments", "design"):
        if name in opening and opening[name] != published.get(name):
            raise _Failed(f"the opening's {name} is not the published one")
    return Status.passed, "the opened family hashes to the published commitment"


def _questions(case: _Case) -> tuple[Status, str]:
    """What was sent is what the opened family and the plan say, no question twice, retries as planned."""
    plan = case.plan
    bodies = [request_for(plan, question.prompt).decode("ascii") for question in case.asked]
    previous: dict[int, tuple[int, str]] = {}
    for exchange in case.doc.transcript:
        if not 0 <= exchange.index < len(bodies):
            raise _Failed(f"question {exchange.index} is not among the {len(bodies)} planned")
        if exchange.request != bodies[exchange.index]:
            raise _Failed(
                f"question {exchange.index} was asked in other words than the key and the plan give"
            )
        attempt, outcome = previous.get(exchange.index, (-1, RETRY_FAILURES[0]))
        if exchange.attempt != attempt + 1 or exchange.attempt > plan.retries:
            raise _Failed(f"question {exchange.index} was sent more often than planned, or out of order")
        if outcome not in RETRY_FAILURES:
            raise _Failed(f"question {exchange.index} was sent again after the outcome {outcome}")
        previous[exchange.index] = (exchange.attempt, exchange.outcome)
    asked = len(previous)
    return Status.passed, f"{asked} of {len(bodies)} questions were asked, each in its planned words"


def _answers(case: _Case) -> tuple[Status, str]:
    """Every text is what the reading rules find in the recorded body."""
    plan = case.plan
    for exchange in case.doc.transcript:
        if exchange.outcome == ANSWERED:
            found = plan.read(exchange.body).text
            if found is None or found != exchange.text:
                raise _Failed(f"the answer to question {exchange.index} is not what its recorded reply says")
        elif exchange.text is not None:
            raise _Failed(f"question {exchange.index} has a text although it was not answered")
        elif exchange.outcome == UNKNOWN and exchange.answered_at is not None:
            raise _Failed(f"question {exchange.index} has a reply although none is known")
    answered = sum(exchange.outcome == ANSWERED for exchange in case.doc.transcript)
    return Status.passed, f"{answered} answers read again from their bytes"


def _decision(case: _Case) -> tuple[Status, str]:
    document = case.doc
    replies, failures = final_replies(
        document.transcript,
        len(case.asked),
        retries=case.plan.retries,
        asking_failure=document.asking_failure,
    )
    if case.records.is_sequential:
        _check_no_question_beyond(case, where(case.records, replies))
    concluded = conclude(case.records, replies, failures)
    if dict(concluded.decision) != dict(document.decision):
        raise _Failed("deciding again gives other figures than the recorded decision")
    if concluded.verdict != document.verdict or concluded.reasons != document.reasons:
        raise _Failed("the verdict or its reasons do not follow from the decision")
    p = document.decision.get("p_value_decimal", document.decision.get("pooled_fisher_p_decimal"))
    return Status.passed, f"{document.verdict}, p = {p}"


def _check_no_question_beyond(case: _Case, standing: Standing) -> None:
    """A sequential audit asks a mark only when those before it are complete and the product says go on."""
    last = len(standing.looks) - 1 if standing.next_group is None else standing.next_group
    for exchange in case.doc.transcript:
        if case.asked[exchange.index].group > last:
            raise _Failed(f"question {exchange.index} was asked although the audit was over, or too early")


def _published(case: _Case) -> tuple[Status, str]:
    owners = case.document is not None and case.document.key.origin == OWNER_ORIGIN
    whose = "owner's" if owners else "service's"
    return Status.not_checked, (
        f"when the commitment, the salt and the pre-registration were made rests on the {whose} word: "
        "no timestamp or log proof is in this file"
    )


def _spoken(case: _Case) -> tuple[Status, str]:
    return Status.not_checked, (
        "that the suspect sent these bytes: HTTP answers are not signed; let a second auditor ask again"
    )


_STEPS: tuple[tuple[str, bool, Callable[[_Case], tuple[Status, str]]], ...] = (
    ("file", False, _file),
    ("canonical", False, _canonical),
    ("digest", True, _digest),
    ("shape", True, _shape),
    ("preregistration", True, _preregistration),
    ("binding", True, _binding),
    ("alpha", True, _alpha),
    ("nonces", True, _nonces),
    ("opening", True, _opening),
    ("questions", True, _questions),
    ("answers", True, _answers),
    ("decision", True, _decision),
    ("published", False, _published),
    ("spoken", False, _spoken),
)
"""(name, whether it stands on earlier steps, the step)"""

_GROUND = frozenset({"canonical", "shape", "preregistration", "binding", "nonces", "opening"})
"""Steps without which the later ones have nothing to look at. A failure elsewhere does not hide others."""
