"""What a suspect's reply counts as. Total: every text, and no text, has exactly one reading."""

from __future__ import annotations

import re
from enum import StrEnum

PARSE_RULE = "first-answer-word-v1"
"""Named in every pre-registration: the first word that is an answer decides; a reply whose opening
sentence holds both answers is OTHER."""


class Answer(StrEnum):
    """The four readings."""

    YES = "yes"
    NO = "no"
    OTHER = "other"
    MISSING = "missing"


_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_SENTENCE_END = re.compile(r"[.!?\n]")
_LEAD_IN = frozenset({"answer", "the", "is", "my", "well", "so", "ok", "okay", "sure", "response", "output"})
_READINGS = {"yes": Answer.YES, "no": Answer.NO}


def parse_answer(text: str | None) -> Answer:
    """Read one reply.

    The first word decides, after lead-ins such as "The answer is": "Yes, because…" is YES, "NO." is NO,
    "Not really" and "I think yes" are OTHER, "Yes or no?" is OTHER (both answers in the opening sentence),
    an empty reply is OTHER; ``None`` (no reply after the pre-registered retries) is MISSING.
    """
    if text is None:
        return Answer.MISSING
    opening = _SENTENCE_END.split(text.lstrip(" \t\r\n\"'*_`(#>-:"), maxsplit=1)[0]
    words = [word.casefold() for word in _WORD.findall(opening)]
    given = {word for word in words if word in _READINGS}
    if len(given) != 1:
        return Answer.OTHER
    for word in words:
        if word in _READINGS:
            return _READINGS[word]
        if word not in _LEAD_IN:
            return Answer.OTHER
    return Answer.OTHER
