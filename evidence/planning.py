"""From what a caller asks of an audit to a plan in which nothing is left open."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from evidence.audit import RESEARCH
from evidence.errors import EvidenceError
from evidence.plan import Asking
from watermark.canaries import CANARIES, ROUNDS
from watermark.errors import RecordError
from watermark.numerals import parse_fraction
from watermark.paper import PROBES
from watermark.probes import MAX_PROBES_PER_CUE
from watermark.questions import FIXED, MODES
from watermark.replay import Plan
from watermark.significance import alpha_for_audit

MIN_ALPHA = Fraction(1, 10**15)
MAX_ALPHA = Fraction(1, 20)
MAX_TOKENS = 64
MAX_CONCURRENCY = 32
MAX_RETRIES = 5
MAX_PROBE_SECONDS = 120
MIN_TOTAL_SECONDS = 5
MAX_TOTAL_SECONDS = 3600
MAX_TEMPERATURE = 2


class PlanOutOfRange(EvidenceError):
    """A part of the plan is outside what an audit allows; ``part`` says which."""

    code = "invalid_plan"

    def __init__(self, message: str, part: str) -> None:
        super().__init__(message)
        self.message = message
        self.part = part

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.message, self.part))


class UnknownFamily(PlanOutOfRange):
    """The key has no family of that number."""

    code = "unknown_family"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """What the caller wishes; None leaves the choice to us. ``marks`` is how many, or which."""

    family: int | None = None
    marks: int | tuple[int, ...] | None = None
    probes_per_cue: int = 2
    mode: str = FIXED
    canaries: bool = True
    alpha: str = "1e-6"
    temperature: Decimal = Decimal(0)
    max_tokens: int = 8
    concurrency: int = 8
    probe_timeout_seconds: int = 30
    total_timeout_seconds: int = 900
    retries: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A key's public shape. A preset has one family, one mark and no cues."""

    families: int
    marks: int
    cues: int


def asking_of(request: PlanRequest) -> Asking:
    """How to ask.

    Raises:
        PlanOutOfRange: a number is out of range.
    """
    _within("temperature", request.temperature, 0, MAX_TEMPERATURE)
    _within("max_tokens", request.max_tokens, 1, MAX_TOKENS)
    _within("concurrency", request.concurrency, 1, MAX_CONCURRENCY)
    _within("probe_timeout_seconds", request.probe_timeout_seconds, 1, MAX_PROBE_SECONDS)
    _within("total_timeout_seconds", request.total_timeout_seconds, MIN_TOTAL_SECONDS, MAX_TOTAL_SECONDS)
    _within("retries", request.retries, 0, MAX_RETRIES)
    if request.total_timeout_seconds < request.probe_timeout_seconds:
        raise PlanOutOfRange(
            "total_timeout_seconds is shorter than probe_timeout_seconds", part="total_timeout_seconds"
        )
    return Asking(
        temperature=_decimal(request.temperature),
        max_tokens=request.max_tokens,
        concurrency=request.concurrency,
        probe_timeout_seconds=request.probe_timeout_seconds,
        total_timeout_seconds=request.total_timeout_seconds,
        retries=request.retries,
    )


def plan_of(
    request: PlanRequest, shape: Shape, *, grade: str, audit_index: int, campaign_size: int = 1
) -> Plan:
    """What is asked and what it must show. Does not check that the plan can reach its alpha.

    Raises:
        PlanOutOfRange: a number is out of range.
        UnknownFamily: the key has no such family.
    """
    _within("probes_per_cue", request.probes_per_cue, 1, MAX_PROBES_PER_CUE)
    family = 0 if request.family is None else request.family
    if not 0 <= family < shape.families:
        raise UnknownFamily(
            f"The watermark has families 0 to {shape.families - 1}; there is no family {family}.",
            part="family",
        )
    if request.mode not in MODES:
        raise PlanOutOfRange("plan.mode must be fixed or sequential", part="mode")
    if grade == RESEARCH and request.mode != FIXED:
        raise PlanOutOfRange("a preset of the paper is asked all at once", part="mode")
    alpha = alpha_of(request.alpha)
    return Plan(
        family=family,
        marks=_marks(request.marks, shape.marks),
        probes_per_cue=request.probes_per_cue,
        alpha=alpha,
        alpha_i=alpha_for_audit(alpha, audit_index, grade, campaign_size),
        mode=request.mode,
        canaries=request.canaries and grade != RESEARCH,
    )


def question_count(plan: Plan, shape: Shape, grade: str) -> int:
    """How many questions the plan asks at most, canaries included."""
    if grade == RESEARCH:
        return 2 * PROBES
    return len(plan.marks) * shape.cues * plan.probes_per_cue + (CANARIES * ROUNDS if plan.canaries else 0)


def alpha_of(text: str) -> Fraction:
    """Raises `PlanOutOfRange`: no number, or outside what an audit may claim."""
    try:
        alpha = parse_fraction(text, "plan.alpha")
    except RecordError as error:
        raise PlanOutOfRange(str(error), part="alpha") from None
    if not MIN_ALPHA <= alpha <= MAX_ALPHA:
        raise PlanOutOfRange("plan.alpha must lie between 1e-15 and 0.05", part="alpha")
    return alpha


def _marks(wanted: int | tuple[int, ...] | None, available: int) -> tuple[int, ...]:
    if wanted is None:
        return tuple(range(available))
    if isinstance(wanted, int):
        _within("marks", wanted, 1, available)
        return tuple(range(wanted))
    if not wanted or len(set(wanted)) != len(wanted) or not all(0 <= mark < available for mark in wanted):
        raise PlanOutOfRange(
            f"plan.marks must be a count or distinct numbers from 0 to {available - 1}", part="marks"
        )
    return wanted


def _within(name: str, value: int | Decimal, low: int, high: int) -> None:
    if not low <= value <= high:
        raise PlanOutOfRange(f"plan.{name} must lie between {low} and {high}", part=name)


def _decimal(value: Decimal) -> str:
    """``0.70`` -> "0.7", ``0`` -> "0"."""
    text = f"{value:f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) or "0"
