"""What somebody with an evidence file and this source code can do to it."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable
from typing import Any

from evidence.canonical import canonical_bytes, canonical_text, digest
from evidence.document import EVIDENCE_DOMAIN, preregistration_digest

Edit = Callable[[dict[str, Any]], None]


def forged(evidence: bytes, edit: Edit) -> bytes:
    """The file with its document edited and every digest inside made to fit again."""
    value = json.loads(evidence)
    document = copy.deepcopy(value["document"])
    edit(document)
    registered = document["preregistration"]
    registered["sha256"] = preregistration_digest(registered["text"])
    value |= {
        "document": document,
        "document_sha256": digest(EVIDENCE_DOMAIN, canonical_bytes(document)),
    }
    return canonical_bytes(value)


def in_plan(change: Callable[[dict[str, Any]], None]) -> Edit:
    """An edit of the pre-registration's record."""

    def edit(document: dict[str, Any]) -> None:
        record = json.loads(document["preregistration"]["text"])
        change(record)
        document["preregistration"]["text"] = canonical_text(record)

    return edit


def answer_with(exchange: dict[str, Any], text: str, *, reply_too: bool) -> None:
    """Another answer, in the text alone or in the recorded reply as well."""
    exchange["text"] = text
    if reply_too:
        body = json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})
        exchange["body"] = base64.b64encode(body.encode()).decode()
