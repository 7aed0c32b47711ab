"""What an audit asks and what it concludes, recomputed from its records.

The worker that runs an audit and the reader who checks it call the same functions: `questions` from the
pre-registration, the opened family and the shown nonces; `conclude` from these and the raw answers; and for
a sequential audit `where` to go on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from probe.adapters import ADAPTERS
from watermark.answers import PARSE_RULE, parse_answer
from watermark.errors import OpeningError, RecordError
from watermark.nonces import Nonces, check_nonces
from watermark.paper import PRESETS, PresetProbe, preset_probes, preset_result
from watermark.questions import Question
from watermark.replay import Reply, Standing, open_audit, replay, standing

RESEARCH = "research"
"""Grade of the paper's presets: figures, never a claim."""

UNANSWERED_LIMIT = "missing_answers"
UNFINISHED = "unfinished"

NOT_ASKED = "not_asked"
"""Why a question has no answer when it was never sent: the time was up, or the suspect was given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """What an audit's questions and verdict follow from, beside the answers."""

    preregistration: Mapping[str, object]
    opening: Mapping[str, object]
    nonces: Mapping[str, object]

    @property
    def is_research(self) -> bool:
        """Whether the key is one of the paper's presets."""
        return _key(self.preregistration).get("grade") == RESEARCH

    @property
    def is_sequential(self) -> bool:
        """Whether it is decided mark by mark."""
        plan = self.preregistration.get("plan")
        return isinstance(plan, Mapping) and plan.get("mode") == "sequential" and not self.is_research


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusion:
    """The decision record, and the verdict and reasons that the audit reports."""

    verdict: str
    reasons: tuple[str, ...]
    decision: Mapping[str, object]


def preset_opening(preset: str) -> dict[str, object]:
    """The opening of a preset: it has no secret, so its name is all there is to open."""
    return {"kind": "preset", "preset": preset}


def questions(records: Records) -> tuple[Question, ...]:
    """The audit's questions, drawn again.

    Raises:
        OpeningError: the opened family or a nonce is not the committed one.
        RecordError: a record is malformed, or made for other software.
    """
    if records.is_research:
        return tuple(Question(index=probe.index, prompt=probe.prompt) for probe in _preset_probes(records))
    return open_audit(records.preregistration, records.opening, records.nonces)[2]


def where(records: Records, replies: Sequence[Reply]) -> Standing:
    """Where a sequential audit stands, and which group of questions comes next.

    Raises:
        OpeningError, RecordError: as `questions`.
    """
    family, plan, asked = open_audit(records.preregistration, records.opening, records.nonces)
    return standing(family, plan, asked, replies)


def conclude(records: Records, replies: Sequence[Reply], failures: Sequence[str]) -> Conclusion:
    """Decide.

    Args:
        replies: one for each question, in order.
        failures: for each question without an answer, in order, why (`probe.errors.FailureCode`,
            ``unknown`` after a crash, ``not_asked``). They explain a verdict, they never make one.

    Raises:
        OpeningError, RecordError: as `questions`; or a sequential audit did not stop when it had to.
    """
    if records.is_research:
        probes = _preset_probes(records)
        if len(probes) != len(replies):
            raise RecordError(f"{len(probes)} questions and {len(replies)} replies")
        decision = preset_result(probes, [parse_answer(reply.text) for reply in replies])
    else:
        decision = replay(records.preregistration, records.opening, records.nonces, replies).to_record()
    reasons = [str(reason) for reason in _texts(decision["reasons"])]
    reasons += _why_silent(reasons, failures)
    return Conclusion(verdict=str(decision["verdict"]), reasons=tuple(reasons), decision=decision)


def _why_silent(reasons: Sequence[str], failures: Sequence[str]) -> list[str]:
    """The failure that was seen most, the first in the alphabet among equals; that the rest was not asked is
    a reason only where there is no other."""
    seen = Counter(code for code in failures if code != NOT_ASKED)
    if UNANSWERED_LIMIT in reasons:
        seen = seen or Counter(failures)
    elif UNFINISHED not in reasons:
        return []
    return [f"suspect_{min(seen, key=lambda code: (-seen[code], code))}"] if seen else []


def reading_rules() -> dict[str, object]:
    """How a reply's bytes become a text and a text an answer, as named in a pre-registration."""
    return {"adapters": ADAPTERS, "parse_rule": PARSE_RULE}


def _preset_probes(records: Records) -> tuple[PresetProbe, ...]:
    opening = records.opening
    if dict(opening) != preset_opening(str(opening.get("preset"))) or opening["preset"] not in PRESETS:
        raise OpeningError("the opening names no preset of this software")
    shown = Nonces.from_record(records.nonces)
    check_nonces(records.preregistration.get("nonces"), shown)
    return preset_probes(shown.order_seed)


def _key(preregistration: Mapping[str, object]) -> Mapping[str, object]:
    key = preregistration.get("key")
    if not isinstance(key, Mapping):
        raise RecordError("the pre-registration lacks key")
    return key


def _texts(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else []
