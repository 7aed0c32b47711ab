"""All questions of an audit in the order of asking: the key's probes, and ordinary ones among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from watermark.canaries import CanaryPlace, place_canaries
from watermark.keys import Family
from watermark.probes import Probe, draw_probes

FIXED, SEQUENTIAL = "fixed", "sequential"
MODES = (FIXED, SEQUENTIAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question. ``mark`` and ``cue`` are None for a canary and for a preset's question."""

    index: int
    """Position in the order of asking."""
    prompt: str = field(repr=False)
    mark: int | None = None
    cue: int | None = None
    canary: int | None = None
    """which of the ordinary questions, None for a probe"""
    group: int = 0
    """questions of a group are asked together; a sequential audit has one group for each mark"""


def draw_questions(
    family: Family,
    *,
    marks: Sequence[int],
    probes_per_cue: int,
    mode: str,
    canaries: bool,
    order_seed: bytes,
) -> tuple[Question, ...]:
    """The plan's questions.

    Raises:
        RecordError: as `watermark.probes.draw_probes`.
    """
    sequential = mode == SEQUENTIAL
    probes = draw_probes(
        family, marks=marks, probes_per_cue=probes_per_cue, order_seed=order_seed, by_mark=sequential
    )
    places = list(place_canaries(family.key, order_seed, len(probes))) if canaries else []
    group_of = {mark: place if sequential else 0 for place, mark in enumerate(marks)}
    asked: list[Question] = []
    for probe in probes:
        group = group_of[probe.mark]
        while places and places[0].before <= probe.index:
            asked.append(_canary(len(asked), places.pop(0), group))
        asked.append(_probe(len(asked), probe, group))
    return tuple(asked)


def _canary(index: int, place: CanaryPlace, group: int) -> Question:
    return Question(index=index, prompt=place.prompt, canary=place.canary, group=group)


def _probe(index: int, probe: Probe, group: int) -> Question:
    return Question(index=index, prompt=probe.prompt, mark=probe.mark, cue=probe.cue, group=group)
