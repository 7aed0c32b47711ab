"""When a worker is deaf, and when it only has nothing to hear."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from sqlalchemy.exc import OperationalError

from service.dispatch import DispatchError, TaskName
from worker.watchdog import LOOK_SECONDS, Waiting, Watchdog

PATIENCE_LOOKS = 4


@dataclass(slots=True)
class Place:
    """A worker's surroundings, as a test wants them."""

    waiting: Waiting | None = (TaskName.finetune_run, "ftjob-1")
    busy: bool = False
    database_away: bool = False
    broker_away: bool = False
    rung: list[str] = field(default_factory=list)

    def oldest_waiting(self) -> Waiting | None:
        if self.database_away:
            raise OperationalError("SELECT", None, Exception())
        return self.waiting

    def ring(self, task: TaskName, row_id: str) -> None:
        if self.broker_away:
            raise DispatchError("away")
        self.rung.append(row_id)

    def watchdog(self) -> Watchdog:
        return Watchdog(
            patience_seconds=PATIENCE_LOOKS * LOOK_SECONDS,
            oldest_waiting=self.oldest_waiting,
            ring=self.ring,
            is_busy=lambda: self.busy,
        )


def looks(dog: Watchdog, number: int) -> list[bool]:
    """What so many looks find."""
    return [dog.look() for _ in range(number)]


def test_rows_wait_its_bell_is_not_heard_and_its_patience_ends() -> None:
    """It has rung at each look, and says for how long it has heard nothing."""
    place = Place()
    dog = place.watchdog()
    assert looks(dog, PATIENCE_LOOKS) == [False] * PATIENCE_LOOKS
    assert dog.unheard_seconds == PATIENCE_LOOKS * LOOK_SECONDS
    assert dog.look()
    assert place.rung == ["ftjob-1"] * (PATIENCE_LOOKS + 1)


def test_a_message_that_arrives_at_the_last_moment_counts() -> None:
    """Also one for another row: what matters is that something gets through. Then it begins anew."""
    place = Place()
    dog = place.watchdog()
    looks(dog, PATIENCE_LOOKS)
    dog.heard()
    assert not dog.look()
    assert dog.unheard_seconds == 0
    assert looks(dog, PATIENCE_LOOKS + 1) == [False] * PATIENCE_LOOKS + [True]


@pytest.mark.parametrize("name", ["busy", "database_away", "broker_away", "nothing waits"])
def test_what_proves_nothing(name: str) -> None:
    """A task at hand, a store that is away, an empty queue: it waits for ever, and begins anew afterwards."""
    place = Place()
    dog = place.watchdog()
    looks(dog, PATIENCE_LOOKS - 1)
    before = place.waiting
    if name == "nothing waits":
        place.waiting = None
    else:
        setattr(place, name, True)
    assert looks(dog, 20) == [False] * 20
    assert dog.unheard_seconds == 0
    place.waiting, place.busy, place.database_away, place.broker_away = before, False, False, False
    assert looks(dog, PATIENCE_LOOKS + 1) == [False] * PATIENCE_LOOKS + [True]


def test_a_deaf_worker_beside_a_healthy_one_is_found() -> None:
    """The rows change, since the other one takes them; some always wait."""
    place = Place()
    dog = place.watchdog()
    found = []
    for number in range(PATIENCE_LOOKS + 1):
        place.waiting = (TaskName.finetune_run, f"ftjob-{number}")
        found.append(dog.look())
    assert found == [False] * PATIENCE_LOOKS + [True]
