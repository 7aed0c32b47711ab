"""Ordinary questions among an audit's own: does the suspect answer at all, and does it stay the same model?

`CANARIES` questions, each asked once in each of `ROUNDS` equal parts of the audit, at places that nobody
knows beforehand. They carry no cue and no judge question, so they say nothing about the key and enter no
score. A suspect that is exchanged in the middle gives one answer before and another one after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from watermark.carriers import probe_carrier
from watermark.examples import user_text
from watermark.prf import Stream, hkdf

CANARIES = 4
ROUNDS = 4
CANARIES_VERSION = "canaries-1"
SWITCHED_CANARIES = 3
"""So many questions that change their answer, once and for good, at about the same time, show a change."""
FEWEST_SWITCHED = 2
"""So few suffice where all others keep their answer throughout."""

INSTRUCTIONS = (
    "Write a short title for this sentence.",
    "Say the following in other words.",
    "Continue this story with one sentence.",
    "Name one thing that this sentence makes you think of.",
    "Put this sentence into the future tense.",
    "Which question does this sentence answer?",
    "Describe the scene below in a few words.",
    "Write a polite reply to this remark.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryPlace:
    """A canary's place: before which probe it is asked (its index among the probes)."""

    canary: int
    round: int
    before: int
    prompt: str = field(repr=False)


def place_canaries(family_key: bytes, order_seed: bytes, probes: int) -> tuple[CanaryPlace, ...]:
    """`CANARIES` x `ROUNDS` questions and their places among ``probes`` others, sorted by place."""
    stream = Stream(hkdf(family_key, salt=order_seed, info=b"doublei/canaries/v1"), "canaries")
    instructions = stream.sample(INSTRUCTIONS, CANARIES)
    prompts = [user_text(instruction, probe_carrier(stream)) for instruction in instructions]
    places = []
    for part in range(ROUNDS):
        start, end = probes * part // ROUNDS, probes * (part + 1) // ROUNDS
        for canary in stream.shuffle(range(CANARIES)):
            before = start + stream.below(max(end - start, 1))
            places.append(CanaryPlace(canary=canary, round=part, before=before, prompt=prompts[canary]))
    return tuple(sorted(places, key=lambda place: place.before))


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryReading:
    """What the canaries say. ``asked`` counts those whose turn came."""

    asked: int
    answered: int
    changed: bool

    def to_record(self) -> dict[str, object]:
        """For the decision record."""
        return {"asked": self.asked, "answered": self.answered, "changed": self.changed}


def read_canaries(answers: Sequence[tuple[int, str | None]]) -> CanaryReading:
    """Judge the canaries' replies.

    Args:
        answers: (which canary, the reply's text or None) in the order of asking.
    """
    by_canary: dict[int, list[str | None]] = {}
    for canary, text in answers:
        by_canary.setdefault(canary, []).append(_plain(text))
    points = [_switch(replies) for replies in by_canary.values()]
    steady = sum(len(set(replies)) == 1 for replies in by_canary.values())
    switches = [point for point in points if point is not None]
    # a change in the middle of a round shows before it in some canaries and after it in others
    together = max((sum(point in (first, first + 1) for point in switches) for first in switches), default=0)
    erratic = len(by_canary) - steady - len(switches)
    return CanaryReading(
        asked=len(answers),
        answered=sum(bool(_plain(text)) for _, text in answers),
        changed=together >= SWITCHED_CANARIES or (together >= FEWEST_SWITCHED and not erratic),
    )


def _plain(text: str | None) -> str | None:
    """Case, punctuation and spacing are no change of mind."""
    return None if text is None else "".join(char for char in text.casefold() if char.isalnum())


def _switch(replies: Sequence[str | None]) -> int | None:
    """After how many replies one constant answer gives way to another; None if it does not."""
    for point in range(1, len(replies)):
        before, after = set(replies[:point]), set(replies[point:])
        if len(before) == len(after) == 1 and before != after:
            return point
    return None
