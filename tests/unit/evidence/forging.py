"""What somebody with a bundle and this source code can do to it: every digest fits again."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable
from hashlib import sha256
from typing import Any

from evidence.bundle import (
    BANKS,
    COVERED,
    ENVELOPE,
    EVIDENCE,
    LOG,
    STATEMENT,
    VERIFIER,
    Publishing,
    make_bundle,
    read_bundle,
)
from evidence.canonical import canonical_bytes, canonical_text, digest
from evidence.document import EVIDENCE_DOMAIN, Document, preregistration_digest
from evidence.dsse import seal
from tests.unit.evidence.paper_log import story

Record = dict[str, Any]
Files = dict[str, bytes]
Edit = Callable[[Record], None]
Forgery = Callable[[Files], None]


def files_of(evidence: bytes, *signers: Any) -> Files:
    """The files of an honest bundle, whose audit is in a log."""
    document = Document.from_record(json.loads(evidence)["document"])
    publishing = Publishing(proofs=story(document, evidence).proofs)
    return read_bundle(make_bundle(evidence, *signers, publishing=publishing))


def unpublished(evidence: bytes, *signers: Any) -> Files:
    """The same without a log: an edit of the evidence would fail there too, whatever it is."""
    return read_bundle(make_bundle(evidence, *signers))


def reseal(files: Files) -> None:
    """A statement and an unsigned envelope that fit the files as they are now."""
    value = json.loads(files[EVIDENCE])
    document, statement = value["document"], json.loads(files[STATEMENT])
    statement["subject"] = [
        {"name": name, "digest": {"sha256": sha256(files[name]).hexdigest()}} for name in COVERED
    ]
    statement["predicate"] |= {
        "verification": document["verification"],
        "verdict": document["verdict"],
        "p_value": document["decision"].get("p_value", ""),
        "p_value_decimal": document["decision"].get("p_value_decimal", ""),
        "document_sha256": value["document_sha256"],
        "verifier_sha256": sha256(files[VERIFIER]).hexdigest(),
        "software": document["software"],
    }
    files[STATEMENT] = canonical_bytes(statement)
    files[ENVELOPE] = seal(files[STATEMENT])


def in_document(edit: Edit) -> Forgery:
    """Edit the document; all digests around it fit again."""

    def forge(files: Files) -> None:
        value = json.loads(files[EVIDENCE])
        document = copy.deepcopy(value["document"])
        edit(document)
        value |= {
            "document": document,
            "document_sha256": digest(EVIDENCE_DOMAIN, canonical_bytes(document)),
        }
        files[EVIDENCE] = canonical_bytes(value)
        reseal(files)

    return forge


def in_text(edit: Edit) -> Forgery:
    """Edit the pre-registration; its digest fits again, and the decision names its alpha_i."""

    def change(document: Record) -> None:
        record = json.loads(document["preregistration"]["text"])
        edit(record)
        text = canonical_text(record)
        document["preregistration"] |= {"text": text, "sha256": preregistration_digest(text)}

    return in_document(change)


def in_banks(edit: Edit) -> Forgery:
    """Edit the word banks; the statement fits again."""

    def forge(files: Files) -> None:
        value = json.loads(files[BANKS])
        edit(value)
        files[BANKS] = canonical_bytes(value)
        reseal(files)

    return forge


def in_log(edit: Edit) -> Forgery:
    """Edit the log's proofs; the statement fits again."""

    def forge(files: Files) -> None:
        value = json.loads(files[LOG])
        edit(value)
        files[LOG] = canonical_bytes(value)
        reseal(files)

    return forge


def in_statement(edit: Edit) -> Forgery:
    """Edit the statement; the envelope holds it."""

    def forge(files: Files) -> None:
        value = json.loads(files[STATEMENT])
        edit(value)
        files[STATEMENT] = canonical_bytes(value)
        files[ENVELOPE] = seal(files[STATEMENT])

    return forge


def in_envelope(edit: Edit) -> Forgery:
    """Edit the envelope."""

    def forge(files: Files) -> None:
        value = json.loads(files[ENVELOPE])
        edit(value)
        files[ENVELOPE] = canonical_bytes(value)

    return forge


def put(path: str, value: object) -> Edit:
    """Set a member, named by its path; it must have been another one."""
    *parents, last = path.split(".")

    def edit(record: Record) -> None:
        here: Any = record
        for name in parents:
            here = here[int(name)] if isinstance(here, list) else here[name]
        key: Any = int(last) if isinstance(here, list) else last
        assert here[key] != value
        here[key] = value

    return edit


def reply_with(exchange: Record, text: str) -> None:
    """Another answer, in the text and in the recorded reply."""
    body = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
    exchange |= {"text": text, "body": base64.b64encode(body).decode()}
