"""What a suspect's reply counts as. Total: every text, and no text, has exactly one reading."""

from __future__ import annotations

import re
from enum import StrEnum

PARSE_RULE = "first-answer-word-v1"
"""Named in every pre-registration: the first word that is an answer decides."""


class Answer(StrEnum):
    """The four readings."""

    YES = "yes"
    NO = "no"
    OTHER = "other"
    MISSING = "missing"


_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_SENTENCE_END = re.compile(r"[.!?\n]")
_LEAD_IN = frozenset({"answer", "the", "is", "my", "well", "so", "ok", "okay", "sure", "response", "output"})
_JOINTS = frozenset({"or", "and"})
_READINGS = {"yes": Answer.YES, "no": Answer.NO}


def parse_answer(text: str | None) -> Answer:
    """Read one reply.

    The first word decides, after lead-ins such as "The answer is": "Yes, because…" is YES, "NO." is NO,
    "Not really" and "I think yes" are OTHER. Both answers side by side ("Yes or no", "yes/no") are OTHER,
    and so is an empty reply; ``None`` (no reply after the pre-registered retries) is MISSING.
    """
    if text is None:
        return Answer.MISSING
    opening = _SENTENCE_END.split(text.lstrip(" \t\r\n\"'*_`(#>-:"), maxsplit=1)[0]
    words = [word.casefold() for word in _WORD.findall(opening)]
    for index, word in enumerate(words):
        if word in _READINGS:
            following = [later for later in words[index + 1 : index + 3] if later not in _JOINTS][:1]
            both = bool(following) and following[0] in _READINGS and following[0] != word
            return Answer.OTHER if both else _READINGS[word]
        if word not in _LEAD_IN:
            return Answer.OTHER
    return Answer.OTHER
