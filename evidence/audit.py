"""What an audit asks and what it concludes, recomputed from its records.

The worker that runs an audit and the reader who checks it call the same two functions: `questions` from the
pre-registration and the opened family, `conclude` from these and the raw answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from probe.adapters import ADAPTERS
from watermark.answers import PARSE_RULE, parse_answer
from watermark.errors import OpeningError, RecordError
from watermark.keys import family_of_opening, unhex
from watermark.paper import PRESETS, preset_probes, preset_result
from watermark.probes import Probe
from watermark.replay import probes_of, read_plan, replay

RESEARCH = "research"
"""Grade of the paper's presets: figures, never a claim."""

UNANSWERED_LIMIT = "missing_answers"

NOT_ASKED = "not_asked"
"""Why a question has no answer when it was never sent: the time was up, or the suspect was given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question in the order of asking. ``mark`` and ``cue`` are None for a preset's."""

    index: int
    prompt: str = field(repr=False)
    mark: int | None
    cue: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusion:
    """The decision record, and the verdict and reasons that the audit reports."""

    verdict: str
    reasons: tuple[str, ...]
    decision: Mapping[str, object]


def preset_opening(preset: str) -> dict[str, object]:
    """The opening of a preset: it has no secret, so its name is all there is to open."""
    return {"kind": "preset", "preset": preset}


def questions(preregistration: Mapping[str, object], opening: Mapping[str, object]) -> tuple[Question, ...]:
    """The audit's questions, drawn again.

    Raises:
        OpeningError: the opened family is not the committed one.
        RecordError: a record is malformed, or made for other software.
    """
    if _is_research(preregistration):
        seed = _preset_seed(preregistration, opening)
        return tuple(
            Question(index=probe.index, prompt=probe.prompt, mark=None, cue=None)
            for probe in preset_probes(seed)
        )
    return tuple(
        Question(index=probe.index, prompt=probe.prompt, mark=probe.mark, cue=probe.cue)
        for probe in _probes(preregistration, opening)
    )


def conclude(
    preregistration: Mapping[str, object],
    opening: Mapping[str, object],
    answers: Sequence[str | None],
    failures: Sequence[str],
) -> Conclusion:
    """Decide.

    Args:
        answers: for each question in order the text that came back, or None.
        failures: for each question without an answer, in order, why (`probe.errors.FailureCode`,
            ``unknown`` after a crash, ``not_asked``). They explain a verdict, they never make one.

    Raises:
        OpeningError, RecordError: as `questions`.
    """
    if _is_research(preregistration):
        probes = preset_probes(_preset_seed(preregistration, opening))
        if len(probes) != len(answers):
            raise RecordError(f"{len(probes)} questions and {len(answers)} answers")
        decision = preset_result(probes, [parse_answer(text) for text in answers])
    else:
        decision = replay(preregistration, opening, answers).to_record()
    reasons = [str(reason) for reason in _texts(decision["reasons"])]
    if failures and UNANSWERED_LIMIT in reasons:
        # the reason that was seen most, the first in the alphabet among equals; that the rest was not asked
        # is a reason only where there is no other
        seen = Counter(code for code in failures if code != NOT_ASKED) or Counter(failures)
        reasons.append(f"suspect_{min(seen, key=lambda code: (-seen[code], code))}")
    return Conclusion(verdict=str(decision["verdict"]), reasons=tuple(reasons), decision=decision)


def reading_rules() -> dict[str, object]:
    """How a reply's bytes become a text and a text an answer, as named in a pre-registration."""
    return {"adapters": ADAPTERS, "parse_rule": PARSE_RULE}


def _probes(preregistration: Mapping[str, object], opening: Mapping[str, object]) -> tuple[Probe, ...]:
    plan = read_plan(preregistration)
    family = family_of_opening(opening, str(_key(preregistration).get("commitment")))
    if family.index != plan.family:
        raise OpeningError("the opened family is not the planned one")
    return probes_of(family, plan)


def _is_research(preregistration: Mapping[str, object]) -> bool:
    return _key(preregistration).get("grade") == RESEARCH


def _preset_seed(preregistration: Mapping[str, object], opening: Mapping[str, object]) -> bytes:
    if dict(opening) != preset_opening(str(opening.get("preset"))) or opening["preset"] not in PRESETS:
        raise OpeningError("the opening names no preset of this software")
    plan = preregistration.get("plan")
    if not isinstance(plan, Mapping):
        raise RecordError("the pre-registration lacks plan")
    return unhex(plan.get("order_seed"), "plan.order_seed")


def _key(preregistration: Mapping[str, object]) -> Mapping[str, object]:
    key = preregistration.get("key")
    if not isinstance(key, Mapping):
        raise RecordError("the pre-registration lacks key")
    return key


def _texts(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else []
