"""How an audit's small writes are grouped, and how it is told to stop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import cast

import pytest

from probe.session import Outcome
from worker.asking import GroupJournal, Signals
from worker.lease import StopReason
from worker.record.verifications import Journal, Progress, Sending


class Book:
    """A journal that takes its time."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.groups: list[tuple[list[int], list[int]]] = []
        self.progress: list[Progress] = []
        self._fail_at = fail_at

    def write(
        self, sendings: Sequence[Sending], outcomes: Sequence[Outcome], progress: Progress | None
    ) -> None:
        time.sleep(0.02)
        if self._fail_at is not None and len(self.groups) >= self._fail_at:
            raise OSError("disk full")
        self.groups.append(([item.index for item in sendings], [item.index for item in outcomes]))
        if progress is not None:
            self.progress.append(progress)


def _outcome(index: int) -> Outcome:
    return Outcome(
        index=index, attempt=0, code="answered", http_status=200, text="No", response_body=b"", latency_ms=1
    )


async def test_concurrent_sendings_share_a_transaction_and_none_leaves_before_it() -> None:
    book = Book()

    async def ask(group: GroupJournal, index: int) -> None:
        await group.before_send(index, 0, b"{}")
        assert any(index in sendings for sendings, _ in book.groups)
        await group.answered(_outcome(index))

    async with GroupJournal(cast(Journal, book), already_asked=3, total=40) as group:
        await asyncio.gather(*(ask(group, index) for index in range(30)))
    assert sorted(index for sendings, _ in book.groups for index in sendings) == list(range(30))
    assert sorted(index for _, outcomes in book.groups for index in outcomes) == list(range(30))
    assert len(book.groups) < 10
    assert book.progress[0].total == 40
    assert 4 <= book.progress[0].asked <= 33


async def test_a_failed_write_fails_every_sending_that_waits_and_nothing_hangs() -> None:
    group = GroupJournal(cast(Journal, Book(fail_at=1)), already_asked=0, total=9)
    await group.__aenter__()
    await group.before_send(0, 0, b"{}")
    waiting = [asyncio.create_task(group.before_send(index, 0, b"{}")) for index in (1, 2)]
    await asyncio.sleep(0.01)
    waiting.append(asyncio.create_task(group.before_send(3, 0, b"{}")))
    results = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 2)
    assert [type(result) for result in results] == [OSError] * 3
    with pytest.raises(RuntimeError, match="closed"):
        await group.before_send(4, 0, b"{}")
    with pytest.raises(OSError, match="disk full"):
        await group.__aexit__(None, None, None)


@pytest.mark.parametrize(
    ("reason", "event"),
    [(StopReason.shutting_down, "drain"), (StopReason.cancelled, "drop"), (StopReason.lease_lost, "drop")],
)
async def test_a_reason_to_stop_reaches_the_loop_from_another_thread(reason: StopReason, event: str) -> None:
    early, late = Signals(), Signals()
    early.stop(reason)
    early.listen(asyncio.get_running_loop())
    late.listen(asyncio.get_running_loop())
    threading.Thread(target=late.stop, args=(reason,)).start()
    for signals in (early, late):
        await asyncio.wait_for(getattr(signals, event).wait(), 2)
        other = signals.drop if event == "drain" else signals.drain
        assert not other.is_set()
