"""An audit's plan as the API takes it: `evidence.planning`, with the refusals that callers get."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction

from evidence import planning
from evidence.plan import Asking
from evidence.planning import PlanOutOfRange, PlanRequest, Shape, UnknownFamily, question_count
from service.db.models import WatermarkKey
from service.errors import InvalidRequest, NotFound
from watermark.replay import Plan

__all__ = [
    "InvalidPlan", "PlanRequest", "Shape", "alpha_of", "asking_of", "plan_of", "question_count", "shape_of",
]  # fmt: skip


class InvalidPlan(InvalidRequest):
    """A number of the plan is outside what an audit allows."""

    code = "invalid_plan"


def shape_of(key: WatermarkKey) -> Shape:
    """From the published design."""
    design: Mapping[str, object] = key.commitment_record["design"]
    return Shape(
        families=int(str(design.get("families", 1))),
        marks=int(str(design.get("marks", 1))),
        cues=int(str(design.get("cues", 0))),
    )


def asking_of(request: PlanRequest) -> Asking:
    """How to ask.

    Raises:
        InvalidPlan: a number is out of range.
    """
    with _refusals():
        return planning.asking_of(request)


def plan_of(
    request: PlanRequest, shape: Shape, *, grade: str, audit_index: int, campaign_size: int = 1
) -> Plan:
    """What is asked and what it must show. Does not check that the plan can reach its alpha.

    Raises:
        InvalidPlan: a number is out of range.
        NotFound: the key has no such family.
    """
    with _refusals():
        return planning.plan_of(
            request, shape, grade=grade, audit_index=audit_index, campaign_size=campaign_size
        )


def alpha_of(text: str) -> Fraction:
    """Raises `InvalidPlan`: no number, or outside what an audit may claim."""
    with _refusals():
        return planning.alpha_of(text)


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except UnknownFamily as error:
        raise NotFound(error.message, param=f"plan.{error.part}", code=error.code) from None
    except PlanOutOfRange as error:
        raise InvalidPlan(error.message, param=f"plan.{error.part}") from None
