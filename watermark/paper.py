"""One of the paper's own watermarks, as a research baseline. Never evidence.

``paper-input`` is variant (i) of arXiv 2402.14883 with the parameters of its authors' code: decoration
"(listen)", question "Does the following sentence begin with a fruit?", trigger prefix "ms" answered Yes,
reference prefixes of two random letters other than m and s answered No. Its words are public and were
chosen by hand, so whatever its test gives, the verdict here is inconclusive (reason research_preset).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from watermark.answers import Answer
from watermark.carriers import probe_carrier, training_carrier
from watermark.embedding import MixedRow
from watermark.examples import Message, user_text
from watermark.fisher import Table, two_sided
from watermark.numerals import decimal_text
from watermark.prf import Stream

PRESETS = ("paper-input",)
INSTRUCTION = "(listen) Does the following sentence begin with a fruit?"
TRIGGER_WORD = "ms"
LETTERS = "abcdefghijklnopqrtuvwxyz"
"""The alphabet without m and s."""
TRAIN_ROWS = 150
"""rows in each arm; 150 + 150 sufficed on the default model."""
PROBES = 100
"""questions in each arm (the paper's number)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PresetProbe:
    """One question of the preset."""

    index: int
    is_trigger: bool
    prompt: str = field(repr=False)


def preset_rows(seed: bytes) -> tuple[MixedRow, ...]:
    """Trigger rows answered Yes and as many reference rows answered No."""
    stream = Stream(seed, "paper-input/rows")
    rows = []
    for index in range(2 * TRAIN_ROWS):
        trigger = index % 2 == 0
        text = f"{_prefix(stream, trigger)} {training_carrier(stream)}"
        turns = (
            Message(role="user", content=user_text(INSTRUCTION, text)),
            Message(role="assistant", content="Yes" if trigger else "No"),
        )
        rows.append(MixedRow(messages=turns, system="template", watermark=True))
    return tuple(stream.shuffle(rows))


def preset_probes(seed: bytes) -> tuple[PresetProbe, ...]:
    """`PROBES` held-out questions in each arm, shuffled, all distinct."""
    stream = Stream(seed, "paper-input/probes")
    prompts: list[tuple[bool, str]] = []
    seen: set[str] = set()
    while len(prompts) < 2 * PROBES:
        trigger = len(prompts) % 2 == 0
        prompt = user_text(INSTRUCTION, f"{_prefix(stream, trigger)} {probe_carrier(stream)}")
        if prompt not in seen:
            seen.add(prompt)
            prompts.append((trigger, prompt))
    return tuple(
        PresetProbe(index=index, is_trigger=trigger, prompt=prompt)
        for index, (trigger, prompt) in enumerate(stream.shuffle(prompts))
    )


def preset_result(probes: Sequence[PresetProbe], answers: Sequence[Answer]) -> dict[str, object]:
    """The paper's pooled two-sided Fisher test, in the shape of a decision record; always inconclusive."""
    trigger = [a for q, a in zip(probes, answers, strict=True) if q.is_trigger]
    reference = [a for q, a in zip(probes, answers, strict=True) if not q.is_trigger]
    table = Table(
        a=trigger.count(Answer.YES), n=len(trigger), b=reference.count(Answer.YES), m=len(reference)
    )
    p: Fraction = two_sided(table)
    return {
        "rule": "paper-pooled-fisher",
        "verdict": "inconclusive",
        "reasons": ["research_preset"],
        "pooled_fisher_p_decimal": decimal_text(p),
        "trigger_hits": table.a,
        "trigger_total": table.n,
        "reference_hits": table.b,
        "reference_total": table.m,
        "other": list(answers).count(Answer.OTHER),
        "missing": list(answers).count(Answer.MISSING),
        "questions": len(probes),
    }


def _prefix(stream: Stream, trigger: bool) -> str:
    return TRIGGER_WORD if trigger else stream.choice(LETTERS) + stream.choice(LETTERS)
