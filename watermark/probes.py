"""Held-out questions. Same carriers under every cue of a mark; order independent of the trigger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from watermark.carriers import probe_carrier
from watermark.errors import RecordError
from watermark.examples import user_text
from watermark.keys import Family
from watermark.prf import Stream, hkdf

MAX_PROBES_PER_CUE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One question to a suspect. Its text is a secret of the key until it is sent."""

    index: int
    """Position in the order of asking."""
    mark: int
    cue: int
    carrier: int
    """Which of the mark's carriers, 0..probes_per_cue-1."""
    instruction: str = field(repr=False)
    input: str = field(repr=False)

    @property
    def prompt(self) -> str:
        """The one user turn that is sent."""
        return user_text(self.instruction, self.input)


def draw_probes(
    family: Family,
    *,
    marks: Sequence[int] | None = None,
    probes_per_cue: int = 2,
    order_seed: bytes,
    by_mark: bool = False,
) -> tuple[Probe, ...]:
    """len(marks) x J x probes_per_cue questions in the order of asking.

    The carriers depend on the family alone, the order on the family and ``order_seed``, neither on which
    cue is the trigger. ``by_mark``: one mark after the other, in the order of ``marks``, shuffled inside.

    Raises:
        RecordError: an unknown or repeated mark, or probes_per_cue outside 1..3.
    """
    chosen = list(range(len(family.marks))) if marks is None else list(marks)
    if len(set(chosen)) != len(chosen) or not all(0 <= mark < len(family.marks) for mark in chosen):
        raise RecordError(f"marks must be distinct numbers from 0 to {len(family.marks) - 1}")
    if not 1 <= probes_per_cue <= MAX_PROBES_PER_CUE:
        raise RecordError(f"probes_per_cue must be 1 to {MAX_PROBES_PER_CUE}")
    order = Stream(hkdf(family.key, salt=order_seed, info=b"doublei/order/v1"), "order")
    groups = [_questions(family, number, probes_per_cue) for number in chosen]
    if by_mark:
        questions = [question for group in groups for question in order.shuffle(group)]
    else:
        questions = order.shuffle([question for group in groups for question in group])
    return tuple(
        Probe(index=index, mark=mark, cue=cue, carrier=place, instruction=instruction, input=text)
        for index, (mark, cue, place, instruction, text) in enumerate(questions)
    )


def _questions(family: Family, number: int, probes_per_cue: int) -> list[tuple[int, int, int, str, str]]:
    mark = family.marks[number]
    return [
        (number, cue, place, *mark.prompt(cue, carrier))
        for cue in range(len(mark.cues))
        for place, carrier in enumerate(_carriers(family, number)[:probes_per_cue])
    ]


def _carriers(family: Family, mark: int) -> list[str]:
    """MAX_PROBES_PER_CUE distinct carriers of one mark, the same for every audit of the family."""
    stream = Stream(hkdf(family.key, salt=b"", info=b"doublei/carriers/v1"), f"mark-{mark}")
    carriers: list[str] = []
    while len(carriers) < MAX_PROBES_PER_CUE:
        carrier = probe_carrier(stream)
        if carrier not in carriers:
            carriers.append(carrier)
    return carriers
