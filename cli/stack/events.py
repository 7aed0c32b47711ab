"""What a stack tells whoever shows it to a person."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class EventKind(StrEnum):
    """One word for what happened to a child."""

    STARTING = "starting"
    PROGRESS = "progress"
    READY = "ready"
    DIED = "died"
    GAVE_UP = "gave_up"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class StackEvent:
    """``child`` is a name of the plan, or ``stack`` for the whole."""

    kind: EventKind
    child: str
    text: str = ""
    seconds: float = 0.0
    """Since the child was started (READY), or until it is tried again (DIED)."""
    done_bytes: int = 0
    total_bytes: int = 0
    """PROGRESS only; 0 while unknown."""


Listener = Callable[[StackEvent], None]
"""Called on the supervisor's thread: it should return soon."""
