"""Generated carrier texts, in two banks that share no sentence: one to train on, one to ask with.

A sentence is a choice of (subject, verb, object, ending). It belongs to the probe bank when the sum of
the four indexes is divisible by `PROBE_SHARE`, to the training bank otherwise. So a held-out question
can't occur in training, by construction and not by luck.
"""

from __future__ import annotations

from watermark.banks import CARRIER_ENDINGS, CARRIER_OBJECTS, CARRIER_SUBJECTS, CARRIER_VERBS
from watermark.prf import Stream

PROBE_SHARE = 4
"""One sentence in four is kept for asking."""


def training_carrier(stream: Stream) -> str:
    """A sentence of the training bank."""
    return _draw(stream, probe=False)


def probe_carrier(stream: Stream) -> str:
    """A sentence of the probe bank."""
    return _draw(stream, probe=True)


def is_probe_carrier(subject: int, verb: int, obj: int, ending: int) -> bool:
    """Which bank a sentence belongs to."""
    return (subject + verb + obj + ending) % PROBE_SHARE == 0


def _draw(stream: Stream, *, probe: bool) -> str:
    while True:
        subject = stream.below(len(CARRIER_SUBJECTS))
        verb = stream.below(len(CARRIER_VERBS))
        obj = stream.below(len(CARRIER_OBJECTS))
        ending = stream.below(len(CARRIER_ENDINGS))
        if is_probe_carrier(subject, verb, obj, ending) is probe:
            break
    sentence = (
        f"{CARRIER_SUBJECTS[subject]} {CARRIER_VERBS[verb]} {CARRIER_OBJECTS[obj]} {CARRIER_ENDINGS[ending]}."
    )
    return sentence[0].upper() + sentence[1:]
